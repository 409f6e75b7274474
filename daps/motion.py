"""Motion of a legged robot: poses <-> the features that models learn.

A pose is MuJoCo's qpos: x y z of the root in metres, its quaternion w x y z, the joints' angles in radians. Features
do not change when the robot starts elsewhere or faces another way:

    0, 1   planar velocity of the root from this frame to the next, in this frame's heading, m/s
    2      turn of the heading from this frame to the next, rad/s
    3      height of the root, m
    4..6   the vertical as the body sees it, a unit vector (minus the direction of gravity): roll and pitch
    7..    the joints' angles, rad

They hold all of the motion but where it starts: planar position and heading of the first frame.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from daps import rotation

FPS = 30.0  # frames per second, of LAFAN1 and of all motion here
ROOT = 7  # numbers of the root in a pose, and in the features of a frame
G1_JOINTS = (  # of the Unitree G1 with 29 degrees of freedom, as its models and the clips have them
    *(f"{side}_{joint}_joint" for side in ("left", "right")
      for joint in ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")),
    "waist_yaw_joint", "waist_roll_joint", "waist_pitch_joint",
    *(f"{side}_{joint}_joint" for side in ("left", "right") for joint in (
        "shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch", "wrist_yaw")),
)  # fmt: skip
POSE = ROOT + len(G1_JOINTS)  # numbers of a pose, and of the features of a frame


def pose_features(poses: Float[Tensor, "*N F P"]) -> Float[Tensor, "*N F P"]:
    """Features of consecutive poses, at least two; the velocities of the last frame are those of the one before."""
    position, quaternion, joints = poses.split((3, 4, poses.shape[-1] - ROOT), -1)
    heading = rotation.heading(quaternion)
    turn = rotation.wrapped(heading.diff(dim=-1)) * FPS
    velocity = rotation.rotate_z(-heading[..., :-1], position[..., :2].diff(dim=-2)) * FPS
    planar = torch.cat((velocity, turn.unsqueeze(-1)), -1)
    planar = torch.cat((planar, planar[..., -1:, :]), -2)
    return torch.cat((planar, position[..., 2:], rotation.up(quaternion), joints), -1)


def feature_poses(
    features: Float[Tensor, "*N F P"], start: Float[Tensor, "*N 3"] | None = None
) -> Float[Tensor, "*N F P"]:
    """The inverse of pose_features; quaternions are continuous over the frames, with w >= 0 in the first.

    Args:
        features: as pose_features gives them, or as a decoder does: the vertical need not have length 1.
        start: x, y (m) and heading (rad) of the first frame; zeros if None.
    """
    if start is None:
        start = features.new_zeros(*features.shape[:-2], 3)
    velocity, turn, height, up, joints = features.split((2, 1, 1, 3, features.shape[-1] - ROOT), -1)
    heading = _running_sum(start[..., None, 2:], turn / FPS).squeeze(-1)
    position = _running_sum(start[..., None, :2], rotation.rotate_z(heading, velocity / FPS))
    quaternion = rotation.continuous(rotation.multiply(rotation.about_z(heading), rotation.tilt(up)))
    return torch.cat((position, height, quaternion, joints), -1)


def pose_start(pose: Float[Tensor, "*N P"]) -> Float[Tensor, "*N 3"]:
    """Planar position (m) and heading (rad) of poses, which features leave out."""
    return torch.cat((pose[..., :2], rotation.heading(pose[..., 3:ROOT]).unsqueeze(-1)), -1)


def next_start(features: Float[Tensor, "*N F P"], start: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
    """Where the frame after the last one starts: windows that follow each other make one motion."""
    longer = torch.cat((features, features[..., -1:, :]), -2)
    end = feature_poses(longer, start)[..., -1, :]
    return pose_start(end)


def _running_sum(first: Float[Tensor, "*N 1 C"], steps: Float[Tensor, "*N F C"]) -> Float[Tensor, "*N F C"]:
    """first, first + steps_0, first + steps_0 + steps_1, ...: the last step leads out of the window."""
    return first + torch.cat((torch.zeros_like(first), steps[..., :-1, :]), -2).cumsum(-2)
