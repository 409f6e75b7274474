"""Errors of decoded motion, as robotics states them: pure functions of poses (qpos), one number per window."""

import torch
from jaxtyping import Float
from torch import Tensor

from daps.kinematics import Kinematics
from daps.motion import FPS, ROOT, feature_poses
from daps.rotation import angle_between

UNITS = {  # error -> what it is, and its unit
    "joint_rms": ("joint angles, RMS error", "rad"),
    "joint_velocity_rms": ("joint velocities, RMS error", "rad/s"),
    "root_position": ("root position, mean distance", "m"),
    "root_orientation": ("root orientation, mean angle", "rad"),
    "root_velocity": ("root velocity, mean error", "m/s"),
    "mpjpe": ("joint positions relative to the root, mean distance (MPJPE)", "mm"),
    "mpjpe_global": ("joint positions in the world, mean distance (global MPJPE)", "mm"),
}


def motion_errors(
    original: Float[Tensor, "*N F P"], decoded: Float[Tensor, "*N F P"], kinematics: Kinematics | None = None
) -> dict[str, Float[Tensor, "*N"]]:
    """Errors of decoded poses, per window of F frames; `UNITS` names them.

    joint_rms, joint_velocity_rms: root of the mean square over joints and frames; velocities are differences of
    neighbouring frames. root_position, root_velocity: mean over frames of the distance in three dimensions, in the
    world. root_orientation: mean over frames of the angle between the rotations. With `kinematics`, mpjpe_global: mean
    distance between the bodies' origins (root included) in the world, and mpjpe: the same with both roots moved into
    one point, but not turned.

    Args:
        original: poses that started where the decoded ones start.
        decoded: their reconstruction.
        kinematics: of the robot, for positions; those errors are left out without it.
    """
    difference = decoded - original
    joints, root = difference[..., ROOT:], difference[..., :3]
    errors = {
        "joint_rms": joints.square().mean((-2, -1)).sqrt(),
        "joint_velocity_rms": FPS * joints.diff(dim=-2).square().mean((-2, -1)).sqrt(),
        "root_position": root.norm(dim=-1).mean(-1),
        "root_orientation": angle_between(original[..., 3:ROOT], decoded[..., 3:ROOT]).mean(-1),
        "root_velocity": FPS * root.diff(dim=-2).norm(dim=-1).mean(-1),
    }
    if kinematics is not None:
        apart = kinematics.positions(decoded) - kinematics.positions(original)
        errors["mpjpe_global"] = 1e3 * apart.norm(dim=-1).mean((-2, -1))
        errors["mpjpe"] = 1e3 * (apart - apart[..., :1, :]).norm(dim=-1).mean((-2, -1))
    return errors


@torch.no_grad()
def feature_errors(
    original: Float[Tensor, "*N F P"], decoded: Float[Tensor, "*N F P"], kinematics: Kinematics | None = None
) -> dict[str, Float[Tensor, "*N"]]:
    """`motion_errors` of features, as poses from one start, in double precision on the CPU."""
    first, second = (feature_poses(features.detach().cpu().double()) for features in (original, decoded))
    return motion_errors(first, second, kinematics)
