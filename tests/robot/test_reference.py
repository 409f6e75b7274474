"""Poses at the control rate: MuJoCo's own calculus of poses is the oracle, and curves that are known."""

import math
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from daps import rotation
from daps.data.gait import gait
from daps.robot.model import build
from daps.robot.reference import References, advance, difference, resampled, velocities
from robot.stick import write_stick


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mujoco.MjModel:
    return build(write_stick(Path(tmp_path_factory.mktemp("robot"))))


def random_poses(count: int) -> torch.Tensor:
    poses = torch.randn(count, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    poses[:, 3:7] /= poses[:, 3:7].norm(dim=-1, keepdim=True)
    return poses


def test_the_calculus_of_poses_is_mujocos(model: mujoco.MjModel) -> None:
    poses = random_poses(20)
    for before, after in zip(poses[:-1], poses[1:], strict=True):
        expected = np.zeros(35)
        mujoco.mj_differentiatePos(model, expected, 0.1, before.numpy(), after.numpy())
        np.testing.assert_allclose(difference(before, after) / 0.1, expected, atol=1e-9)
        moved = before.numpy().copy()
        mujoco.mj_integratePos(model, moved, expected, 0.03)
        np.testing.assert_allclose(advance(before, torch.from_numpy(expected), 0.03), moved, atol=1e-9)


def test_advancing_by_the_difference_arrives() -> None:
    before, after = random_poses(9)[:-1], random_poses(9)[1:]
    arrived = advance(before, difference(before, after), 1.0)
    signs = torch.sign((arrived[:, 3:7] * after[:, 3:7]).sum(-1, keepdim=True))
    arrived[:, 3:7] *= signs
    torch.testing.assert_close(arrived, after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 1.0, 3.1])
def test_rotation_vectors_come_back_and_have_gradients(size: float) -> None:
    v = torch.tensor([[0.6, -0.48, 0.64]], dtype=torch.float64) * size
    torch.testing.assert_close(rotation.to_vector(rotation.from_vector(v)), v, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.to_vector(-rotation.from_vector(v)), v, rtol=0, atol=1e-12)
    axis = torch.tensor([[0.6, -0.48, 0.64]], dtype=torch.float64)
    torch.testing.assert_close(rotation.from_vector(v), rotation.about(axis, torch.tensor([size]).double()))
    v.requires_grad_()
    assert torch.autograd.gradcheck(lambda u: rotation.to_vector(rotation.from_vector(u)), v)


def test_resampling_keeps_the_frames_and_follows_smooth_curves() -> None:
    time = torch.arange(31, dtype=torch.float64) / 30
    poses = torch.zeros(31, 36, dtype=torch.float64)
    poses[:, 0], poses[:, 7] = time**2, torch.sin(3 * time)
    poses[:, 3:7] = rotation.about_z(2 * time)
    again = resampled(poses)
    at = torch.arange(51, dtype=torch.float64) / 50
    assert again.shape == (51, 36)
    torch.testing.assert_close(again[::5], poses[::3], rtol=0, atol=1e-12)
    torch.testing.assert_close(again[2:-2, 0], at[2:-2] ** 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(again[2:-2, 7], torch.sin(3 * at[2:-2]), rtol=0, atol=2e-5)
    torch.testing.assert_close(again[:, 3:7], rotation.about_z(2 * at), rtol=0, atol=1e-5)
    speed = velocities(again)
    torch.testing.assert_close(speed[3:-3, 0], 2 * at[3:-3], rtol=0, atol=1e-9)
    torch.testing.assert_close(speed[3:-3, 5], torch.full((45,), 2.0).double(), rtol=0, atol=2e-3)
    torch.testing.assert_close(speed[3:-3, 6], 3 * torch.cos(3 * at[3:-3]), rtol=0, atol=1e-2)
    flipped = poses.clone()
    flipped[::2, 3:7] *= -1
    torch.testing.assert_close(resampled(flipped), again)


def test_clips_lie_end_to_end() -> None:
    clips = {f"walk {seed}": torch.from_numpy(gait(seed, frames)) for seed, frames in ((0, 40), (1, 100))}
    table = References.of(clips)
    assert table.names == ("walk 0", "walk 1") and len(table) == 2
    assert table.lengths.tolist() == [66, 166] and table.starts.tolist() == [0, 66] and len(table.poses) == 232
    torch.testing.assert_close(table.poses[66 + 5], clips["walk 1"][3].float())
    assert table.rows(torch.tensor([0, 1, 1]), torch.tensor([7, 2, 900])).tolist() == [7, 68, 231]
    later = advance(table.poses.double(), table.velocities.double(), 1 / 50)[66:231]
    assert (later - table.poses[67:232])[:, 7:].abs().max() < 0.03
    points = table.starting_points(100)
    assert len(points) == 1 + 66 and points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 65]
    with pytest.raises(ValueError, match="no clips to follow"):
        References.of({})
    with pytest.raises(ValueError, match="needs at least 2 frames, got 1"):
        resampled(clips["walk 0"][:1])
    assert math.isclose(float(table.poses[:, 3:7].norm(dim=-1).min()), 1, abs_tol=1e-6)
