"""How well robots do what they are told: velocities, falls, and whether a dance is a dance."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from torch import Tensor

from daps import rotation
from daps.data.clips import WINDOW
from daps.motion import FPS, ROOT, pose_features
from daps.robot.labels import Command, kind_of
from daps.robot.play import Recording, heading_velocity
from daps.robot.simulation import RATE

SETTLED = 2.0  # s after the start from which velocities count


def velocity_errors(recording: Recording, commands: Sequence[Command], settled: float = SETTLED) -> Float[Tensor, " N"]:
    """|v - v_cmd| of the centre of mass in the plane, m/s: v in the body's heading, a mean over each second.

    A stride speeds up and slows down, so the velocity of a moment says little. Seconds in which a robot fell, and all
    after, do not count; NaN where none is left.

    Args:
        recording: of N robots.
        commands: one for each, the same all the time.
        settled: seconds from the start that do not count.
    """
    poses, velocity = torch.stack(recording.poses[1:]), torch.stack(recording.com_velocity)
    first = round(settled * RATE)
    seconds = (len(velocity) - first) // RATE
    if seconds < 1:
        raise ValueError(f"recording: wants at least {settled + 1:g} s, got {len(velocity) / RATE:g}")
    part = slice(first, first + seconds * RATE)
    own = heading_velocity(poses[part], velocity[part]).unflatten(0, (seconds, RATE)).mean(1)
    upright = recording.upright()[part].unflatten(0, (seconds, RATE)).all(1)
    wanted = own.new_tensor([(command.forward, command.left) for command in commands])
    errors = (own - wanted).norm(dim=-1)
    return torch.where(upright, errors, torch.nan).nanmean(0)


def turn_errors(recording: Recording, commands: Sequence[Command], settled: float = SETTLED) -> Float[Tensor, " N"]:
    """|yaw rate - what was asked|, rad/s, a mean over each second as in velocity_errors."""
    poses = torch.stack(recording.poses)
    first = round(settled * RATE)
    seconds = (len(poses) - 1 - first) // RATE
    headings = rotation.heading(poses[first : first + seconds * RATE + 1, :, 3:ROOT])
    rates = rotation.wrapped(headings.diff(dim=0)).unflatten(0, (seconds, RATE)).sum(1)
    upright = recording.upright()[first : first + seconds * RATE].unflatten(0, (seconds, RATE)).all(1)
    errors = (rates - rates.new_tensor([command.turn for command in commands])).abs()
    return torch.where(upright, errors, torch.nan).nanmean(0)


def falls_per_minute(recording: Recording) -> float:
    """Falls of all robots over the minutes that they stood."""
    upright = recording.upright()
    return float((~upright[-1]).sum()) / max(float(upright.sum()) / RATE / 60, 1e-9)


def at_30_hz(recording: Recording) -> Float[Tensor, "N F P"]:
    """The poses of robots as clips have them, 30 frames a second, the nearest in time."""
    poses = torch.stack(recording.poses, 1)
    count = int((poses.shape[1] - 1) * FPS / RATE) + 1
    return poses[:, (torch.arange(count) * RATE / FPS).round().long()]


class Recogniser:
    """Tells walks, runs and dances apart by a window of motion: randomised trees over means and deviations."""

    def __init__(self, clips: Mapping[str, Float[Tensor, "F P"]], stride: int = 8) -> None:
        """Learns from clips, whose names say what is done (daps.robot.labels)."""
        windows, kinds = _windows(clips, stride)
        self.model = ExtraTreesClassifier(200, min_samples_leaf=3, class_weight="balanced", random_state=0)
        self.model.fit(_summary(windows), kinds)

    def kinds(self, windows: Float[Tensor, "N F P"]) -> list[str]:
        """What is done in windows of poses."""
        return [str(kind) for kind in self.model.predict(_summary(windows))]

    def accuracy(self, clips: Mapping[str, Float[Tensor, "F P"]], stride: int = WINDOW) -> float:
        """Share of windows of clips that it names as their clip."""
        windows, kinds = _windows(clips, stride)
        return float(np.mean(np.array(self.kinds(windows)) == np.array(kinds)))


def _windows(clips: Mapping[str, Tensor], stride: int) -> tuple[Tensor, list[str]]:
    windows = {name: poses.unfold(0, WINDOW, stride).transpose(1, 2) for name, poses in clips.items()}
    return torch.cat(list(windows.values())), [
        kind_of(name) for name, part in windows.items() for _ in range(len(part))
    ]


def _summary(windows: Float[Tensor, "N F P"]) -> NDArray[np.float64]:
    features = pose_features(windows.double())
    change = features.diff(dim=1) * FPS
    parts = (features.mean(1), features.std(1), change.abs().mean(1))
    found: NDArray[np.float64] = torch.cat(parts, -1).numpy()
    return found
