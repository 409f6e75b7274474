"""Motion as a mirror shows it: left and right of a robot change places.

The robot is its own mirror image in the plane of x and z, so what it can do to the left it can do to the right, and
every clip is two. Vectors lose the sign of y; rotations, and all turning about x and z, which mirrors reverse, change
theirs: joints of roll and yaw, the heading, two numbers of a quaternion.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from daps.motion import G1_JOINTS, ROOT

_TWINS = {"left": "right", "right": "left"}


def _twin(joint: str) -> str:
    side, _, rest = joint.partition("_")
    return f"{_TWINS[side]}_{rest}" if side in _TWINS else joint


_FROM = torch.tensor([G1_JOINTS.index(_twin(joint)) for joint in G1_JOINTS])  # where each joint's angle comes from
_SIGN = torch.tensor([-1.0 if "roll" in joint or "yaw" in joint else 1.0 for joint in G1_JOINTS])


def mirrored_joints(angles: Float[Tensor, "*N J"]) -> Float[Tensor, "*N J"]:
    """Angles of the 29 joints, or their speeds or torques."""
    return angles[..., _FROM] * _SIGN.to(angles)


def mirrored_poses(poses: Float[Tensor, "*N P"]) -> Float[Tensor, "*N P"]:
    """Poses: x y z, quaternion w x y z, joints."""
    sign = poses.new_tensor([1, -1, 1, 1, -1, 1, -1])
    return torch.cat((poses[..., :ROOT] * sign, mirrored_joints(poses[..., ROOT:])), -1)


def mirrored_velocities(velocities: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
    """Velocities as MuJoCo has them: of the root, its turning in its own frame, joints."""
    sign = velocities.new_tensor([1, -1, 1, -1, 1, -1])
    return torch.cat((velocities[..., :6] * sign, mirrored_joints(velocities[..., 6:])), -1)
