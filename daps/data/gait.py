"""A synthetic walk of the Unitree G1: motion for tests, and for whoever has no clips.

Joints swing as sines of one phase, the root moves along a winding path. No physics: feet slide.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from daps.motion import FPS, G1_JOINTS, POSE
from daps.rotation import about, about_z, multiply

COLUMN = {joint.removesuffix("_joint"): 7 + place for place, joint in enumerate(G1_JOINTS)}


def gait(seed: int, frames: int) -> NDArray[np.float64]:
    """Poses [F, 36] (qpos) of a walk; its speed, rhythm, stance and turns are functions of the seed.

    Quaternions are continuous, with norm 1. Speeds are 0.4 to 1.6 m/s, turns up to about 1 rad/s.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    time = np.arange(frames) / FPS
    speed, crouch, sway = rng.uniform(0.4, 1.6), rng.uniform(0.2, 0.5), rng.uniform(0.02, 0.06)
    phase = 2 * math.pi * (rng.uniform(0.9, 1.1) * (0.6 + 0.35 * speed) * time + rng.random())
    slow = 2 * math.pi * (rng.uniform(0.04, 0.12) * time + rng.random())
    heading = rng.uniform(-math.pi, math.pi) + np.cumsum(rng.uniform(-0.9, 0.9) * np.sin(slow)) / FPS
    pace = speed * (1 + 0.05 * np.sin(2 * phase)) / FPS
    poses = np.zeros((frames, POSE))
    poses[:, 0], poses[:, 1] = np.cumsum(pace * np.cos(heading)), np.cumsum(pace * np.sin(heading))
    poses[:, 2] = 0.79 - 0.12 * crouch**2 + 0.015 * np.cos(2 * phase)
    for side, shift, sign in (("left", 0.0, 1.0), ("right", math.pi, -1.0)):
        leg = _leg(phase + shift, speed, crouch) | _arm(phase + shift, speed, sign)
        leg |= {"hip_roll": sway * np.sin(phase) + 0.03 * sign, "ankle_roll": -sway * np.sin(phase)}
        for joint, angle in leg.items():
            poses[:, COLUMN[f"{side}_{joint}"]] = angle
    poses[:, COLUMN["waist_yaw"]] = 0.1 * speed * np.sin(phase)
    poses[:, 3:7] = _quaternion(heading, 0.05 + 0.03 * np.sin(2 * phase), sway * np.sin(phase))
    return poses


def _leg(phase: NDArray[np.float64], speed: float, crouch: float) -> dict[str, NDArray[np.float64]]:
    """Angles of a leg that swings forward while the sine of its phase is above zero."""
    hip = -crouch / 2 - (0.15 + 0.2 * speed) * np.sin(phase)
    knee = crouch + (0.3 + 0.35 * speed) * np.maximum(0.0, np.cos(phase)) ** 2
    return {"hip_pitch": hip, "knee": knee, "ankle_pitch": np.clip(-hip - knee, -0.8, 0.5)}


def _arm(phase: NDArray[np.float64], speed: float, sign: float) -> dict[str, NDArray[np.float64]]:
    """Angles of the arm on the same side, which swings against its leg."""
    swing = np.sin(phase)
    return {
        "shoulder_pitch": 0.1 + 0.25 * speed * swing,
        "shoulder_roll": 0.2 * sign + 0 * swing,
        "elbow": 0.9 - 0.2 * swing,
    }


def _quaternion(
    heading: NDArray[np.float64], pitch: NDArray[np.float64], roll: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Heading, then pitch, then roll, as quaternions [F, 4]."""
    axes = torch.eye(3, dtype=torch.float64)
    leaning = multiply(about(axes[1], torch.from_numpy(pitch)), about(axes[0], torch.from_numpy(roll)))
    return multiply(about_z(torch.from_numpy(heading)), leaning).numpy()
