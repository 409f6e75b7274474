"""Features of motion: what they leave out, and the way back."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import normal
from daps import rotation
from daps.data.gait import gait
from daps.motion import FPS, G1_JOINTS, POSE, feature_poses, next_start, pose_features, pose_start


def walk(seed: int = 0, frames: int = 96) -> Tensor:
    return torch.from_numpy(gait(seed, frames))


def tumble(frames: int = 400) -> Tensor:
    """Poses that turn every way, upside down too, along a random walk on the sphere of quaternions."""
    q = normal(frames, 4).cumsum(0) * 0.15 + torch.tensor([1.0, 0.0, 0.0, 0.0])
    q = rotation.continuous(q / q.norm(dim=-1, keepdim=True))
    return torch.cat((normal(frames, 3, seed=1).cumsum(0), q, normal(frames, 29, seed=2)), -1)


def test_every_public_model_names_the_joints_so() -> None:
    assert len(G1_JOINTS) == 29 and POSE == 36
    assert G1_JOINTS[:2] == ("left_hip_pitch_joint", "left_hip_roll_joint")
    assert G1_JOINTS[12:16] == ("waist_yaw_joint", "waist_roll_joint", "waist_pitch_joint", "left_shoulder_pitch_joint")
    assert G1_JOINTS[-1] == "right_wrist_yaw_joint"


@pytest.mark.parametrize("poses", [walk(), walk(3), tumble()], ids=["walk", "another walk", "tumble"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_features_lead_back_to_the_poses(poses: Tensor, dtype: torch.dtype, limit: float) -> None:
    """Within 1e-4 m and rad over windows of 32 frames in single precision, and one sign for all quaternions of one."""
    windows = poses[: len(poses) // 32 * 32].view(-1, 32, POSE)
    back = feature_poses(pose_features(windows).to(dtype), pose_start(windows[:, 0]).to(dtype)).double()
    signs = (back[..., 3:7] * windows[..., 3:7]).sum(-1).sign()
    assert (signs == signs[:, :1]).all() and (back[:, 0, 3] >= 0).all()
    back[..., 3:7] *= signs[:, :1, None]
    assert (back - windows).abs().max() < limit


def test_features_are_of_the_motion_and_not_of_where_it_starts() -> None:
    poses, angle = walk(), torch.tensor(2.0, dtype=torch.float64)
    moved = poses.clone()
    moved[:, :2] = rotation.rotate_z(angle.expand(len(poses)), poses[:, :2]) + torch.tensor([5.0, -3.0])
    moved[:, 3:7] = rotation.multiply(rotation.about_z(angle), poses[:, 3:7])
    torch.testing.assert_close(pose_features(moved), pose_features(poses), rtol=0, atol=1e-11)


def test_features_are_what_their_names_say() -> None:
    """A robot that strides sideways at 0.5 m/s and turns at 0.3 rad/s, lying on its back."""
    time = torch.arange(40, dtype=torch.float64) / FPS
    heading = 3.0 + 0.3 * time  # passes pi
    lying = rotation.about(
        torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), torch.tensor(-math.pi / 2, dtype=torch.float64)
    )
    poses = torch.zeros(40, POSE, dtype=torch.float64)
    steps = torch.stack((-heading.sin(), heading.cos()), -1) * 0.5 / FPS  # to the left
    poses[1:, :2] = steps[:-1].cumsum(0)
    poses[:, 2], poses[:, 7:] = 0.2, 0.1
    poses[:, 3:7] = rotation.multiply(rotation.about_z(heading), lying)
    features = pose_features(poses)
    expected = torch.tensor([0.0, 0.5, 0.3, 0.2, 1.0, 0.0, 0.0] + [0.1] * 29, dtype=torch.float64)
    torch.testing.assert_close(features, expected.expand(40, -1), rtol=0, atol=1e-9)


def test_without_a_start_motion_begins_at_the_origin() -> None:
    back = feature_poses(pose_features(walk()))
    torch.testing.assert_close(pose_start(back[0]), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_windows_follow_each_other() -> None:
    poses = walk()
    features = pose_features(poses)[:32]
    after = next_start(features, pose_start(poses[0]))
    torch.testing.assert_close(after, pose_start(poses[32]), rtol=0, atol=1e-11)


def test_a_decoders_vertical_need_not_have_length_one() -> None:
    features = pose_features(walk())
    longer = features.clone()
    longer[:, 4:7] *= 1.7
    torch.testing.assert_close(feature_poses(longer), feature_poses(features), rtol=0, atol=1e-12)


def test_poses_have_gradients_to_the_features() -> None:
    features = pose_features(walk(frames=6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: feature_poses(f)[..., :7], (features,))


def test_the_gait_is_a_function_of_its_seed_and_walks() -> None:
    poses = gait(5, 300)
    np.testing.assert_array_equal(poses, gait(5, 300))
    assert np.abs(poses - gait(6, 300)).max() > 0.1
    np.testing.assert_allclose(np.linalg.norm(poses[:, 3:7], axis=1), 1, atol=1e-12)
    assert (np.sum(poses[1:, 3:7] * poses[:-1, 3:7], axis=1) > 0.9).all()
    features = pose_features(torch.from_numpy(poses))
    assert 0.3 < features[:, 0].mean() < 1.7 and features[:, 1].abs().max() < 0.2  # forward
    assert features[:, 2].abs().max() > 0.05  # with turns
    left, right = (poses[:, 7 + G1_JOINTS.index(f"{side}_knee_joint")] for side in ("left", "right"))
    assert np.corrcoef(left, right)[0, 1] < 0 and left.min() >= 0 and left.max() < 2.88  # in turn, within the limits
