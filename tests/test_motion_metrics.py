"""Errors of motion: by hand, by scipy, and zero where nothing is wrong."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from builders import normal
from daps import rotation
from daps.data.gait import gait
from daps.kinematics import Kinematics, Link
from daps.motion import feature_poses, pose_features
from daps.motion_metrics import UNITS, feature_errors, motion_errors

STICK = Kinematics(
    (
        Link("root", -1, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)),
        *(Link(f"rod{i}", i, (0.0, 0.0, 0.1), (1.0, 0.0, 0.0, 0.0), f"hinge{i}", (0.0, 1.0, 0.0)) for i in range(29)),
    )
)


def walk(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(gait(seed, 32)).unsqueeze(0)


def noisy(seed: int = 1) -> torch.Tensor:
    poses = walk() + 0.05 * normal(1, 32, 36, seed=seed)
    poses[..., 3:7] /= poses[..., 3:7].norm(dim=-1, keepdim=True)
    return poses


def test_equal_motion_has_no_error_whatever_the_signs() -> None:
    other = walk()
    other[..., 3:7] *= -1
    errors = motion_errors(walk(), other, STICK)
    assert set(errors) == set(UNITS)
    assert all(error.shape == (1,) and error.item() < 1e-11 for error in errors.values())


def test_errors_are_those_of_numpy() -> None:
    a, b = walk()[0].numpy(), noisy()[0].numpy()
    errors = {name: error.item() for name, error in motion_errors(walk(), noisy(), STICK).items()}
    joints, root = b[:, 7:] - a[:, 7:], b[:, :3] - a[:, :3]
    assert errors["joint_rms"] == pytest.approx(math.sqrt((joints**2).mean()))
    assert errors["joint_velocity_rms"] == pytest.approx(math.sqrt((np.diff(joints * 30, axis=0) ** 2).mean()))
    assert errors["root_position"] == pytest.approx(np.linalg.norm(root, axis=1).mean())
    assert errors["root_velocity"] == pytest.approx(np.linalg.norm(np.diff(root * 30, axis=0), axis=1).mean())
    turns = [Rotation.from_quat(p[:, 3:7], scalar_first=True) for p in (a, b)]
    assert errors["root_orientation"] == pytest.approx((turns[0].inv() * turns[1]).magnitude().mean())
    places = [STICK.positions(torch.from_numpy(p)).numpy() for p in (a, b)]
    assert errors["mpjpe_global"] == pytest.approx(1e3 * np.linalg.norm(places[1] - places[0], axis=-1).mean())
    local = [p - p[:, :1] for p in places]
    assert errors["mpjpe"] == pytest.approx(1e3 * np.linalg.norm(local[1] - local[0], axis=-1).mean())


def test_a_shift_counts_in_the_world_alone() -> None:
    moved = walk()
    moved[..., 0] += 0.03
    moved[..., 1] += 0.04
    errors = motion_errors(walk(), moved, STICK)
    assert errors["mpjpe_global"].item() == pytest.approx(50) and errors["mpjpe"].item() == pytest.approx(0, abs=1e-9)
    assert errors["root_position"].item() == pytest.approx(0.05) and errors["root_velocity"].item() < 1e-9


def test_a_turn_counts_in_both() -> None:
    """Turned upside down about its root, a straight rod of 29 pieces of 10 cm: piece i moves by 2 i 10 cm."""
    straight = walk()
    straight[..., 3:7], straight[..., 7:] = torch.tensor([1.0, 0.0, 0.0, 0.0]), 0.0
    turned = straight.clone()
    turned[..., 3:7] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    errors = motion_errors(straight, turned, STICK)
    mean = 1e3 * 0.2 * sum(range(30)) / 30
    assert errors["mpjpe"].item() == pytest.approx(mean) == errors["mpjpe_global"].item()
    assert errors["root_orientation"].item() == pytest.approx(math.pi)


def test_without_a_robot_there_are_no_positions() -> None:
    assert set(motion_errors(walk(), noisy())) == set(UNITS) - {"mpjpe", "mpjpe_global"}


def test_errors_of_features_are_those_of_their_poses() -> None:
    """From one start, though the originals began at different places; in single precision."""
    pairs = torch.cat((walk(), walk(1))), torch.cat((walk(2), walk(1)))
    first, second = (pose_features(poses).float() for poses in pairs)
    errors = feature_errors(first, second, STICK)
    expected = motion_errors(feature_poses(first.double()), feature_poses(second.double()), STICK)
    for name, error in errors.items():
        torch.testing.assert_close(error, expected[name])
        assert error.shape == (2,) and error[1] < 1e-12 and error[0] > 1e-3


def test_a_constant_error_of_heading_grows_into_one_of_position() -> None:
    features = pose_features(walk())
    turning = features.clone()
    turning[..., 2] += 0.3  # rad/s
    errors = feature_errors(features, turning)
    assert errors["root_orientation"].item() == pytest.approx(0.3 / 30 * sum(range(32)) / 32, rel=1e-6)
    assert errors["root_position"].item() > 0.01 and errors["joint_rms"].item() == 0


def test_positions_turn_with_the_robot() -> None:
    """Poses that are turned about the vertical have turned positions: kinematics has no direction of its own."""
    angle = torch.tensor(0.7, dtype=torch.float64)
    turned = walk()
    turned[..., :2] = rotation.rotate_z(angle.expand(1, 32), turned[..., :2])
    turned[..., 3:7] = rotation.multiply(rotation.about_z(angle), turned[..., 3:7])
    expected = rotation.rotate(rotation.about_z(angle), STICK.positions(walk()))
    torch.testing.assert_close(STICK.positions(turned), expected)
