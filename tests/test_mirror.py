"""Mirrored motion as a data set, and its features."""

import pytest
import torch

from builders import normal
from daps.data import load
from daps.data.gait import gait
from daps.mirror import mirrored_joints, mirrored_poses, mirrored_velocities
from daps.motion import pose_features


def motion() -> torch.Tensor:
    poses = torch.from_numpy(gait(3, 64))
    poses[:, 7:] += 0.1 * normal(64, 29).cumsum(0)
    return poses


def test_twice_is_not_at_all() -> None:
    poses, speeds = motion(), normal(5, 35)
    assert torch.equal(mirrored_poses(mirrored_poses(poses)), poses)
    assert torch.equal(mirrored_velocities(mirrored_velocities(speeds)), speeds)
    assert not torch.equal(mirrored_joints(speeds[:, 6:]), speeds[:, 6:])


def test_features_of_the_mirrored_motion_are_the_features_mirrored() -> None:
    """To the left becomes to the right: sideways speed, turn and the vertical's y change signs."""
    there, here = pose_features(mirrored_poses(motion())), pose_features(motion())
    sign = torch.tensor([1.0, -1, -1, 1, 1, -1, 1], dtype=torch.float64)
    expected = torch.cat((here[:, :7] * sign, mirrored_joints(here[:, 7:])), -1)
    torch.testing.assert_close(there, expected, rtol=0, atol=1e-12)


def test_the_training_split_holds_the_mirror_images_too() -> None:
    alone, both = load("gait", "train"), load("gait", "train", mirror=True)
    assert len(both) == 2 * len(alone) and "mirror" in both.about
    window = torch.from_numpy(both.values[len(alone) + 5])
    sign = torch.tensor([1.0, -1, -1, 1, 1, -1, 1])
    original = torch.from_numpy(alone.values[5])
    expected = torch.cat((original[:, :7] * sign, mirrored_joints(original[:, 7:])), -1)
    torch.testing.assert_close(window, expected, rtol=0, atol=1e-5)
    assert len(load("gait", "validation", mirror=True)) == len(load("gait", "validation"))
    with pytest.raises(ValueError, match=r"^mirror: .*digits is no motion"):
        load("digits", "train", mirror=True)
