"""Quaternions against scipy's rotations, and the split into heading and tilt."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from builders import normal
from daps import rotation

NEAR = {"rtol": 0.0, "atol": 1e-12}


def quaternions(count: int = 200, seed: int = 0) -> Tensor:
    q = normal(count, 4, seed=seed)
    return q / q.norm(dim=-1, keepdim=True)


def scipys(q: Tensor) -> Rotation:
    return Rotation.from_quat(q.numpy(), scalar_first=True)


def alike(a: Tensor, b: Tensor) -> None:
    """The same rotations, whatever the signs."""
    torch.testing.assert_close((a * b).sum(-1).abs(), torch.ones(len(a), dtype=a.dtype), **NEAR)


def test_products_and_rotated_vectors_are_scipys() -> None:
    a, b, v = quaternions(), quaternions(seed=1), normal(200, 3, seed=2)
    product = torch.from_numpy((scipys(a) * scipys(b)).as_quat(scalar_first=True))
    alike(rotation.multiply(a, b), product)
    np.testing.assert_allclose(rotation.rotate(a, v).numpy(), scipys(a).apply(v.numpy()), atol=1e-12)
    np.testing.assert_allclose(
        rotation.rotate(rotation.conjugate(a), v).numpy(), scipys(a).inv().apply(v.numpy()), atol=1e-12
    )


def test_one_quaternion_turns_many_vectors_and_the_other_way_round() -> None:
    q, v = quaternions(1), normal(5, 3)
    assert rotation.rotate(q, v).shape == (5, 3)
    assert rotation.multiply(quaternions(5).view(5, 1, 4), quaternions(2)).shape == (5, 2, 4)
    assert rotation.about(v[0] / v[0].norm(), normal(4, 2)).shape == (4, 2, 4)


def test_rotations_about_axes_are_scipys() -> None:
    axis, angle = normal(100, 3), normal(100, seed=1) * 3
    axis = axis / axis.norm(dim=-1, keepdim=True)
    expected = Rotation.from_rotvec((axis * angle.unsqueeze(-1)).numpy())
    alike(rotation.about(axis, angle), torch.from_numpy(expected.as_quat(scalar_first=True)))
    vertical = axis.new_tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(rotation.about_z(angle), rotation.about(vertical, angle))
    planar = rotation.rotate_z(angle, axis[:, :2])
    turned = rotation.rotate(rotation.about_z(angle), torch.cat((axis[:, :2], 0 * angle.unsqueeze(-1)), -1))
    torch.testing.assert_close(planar, turned[:, :2], **NEAR)


def test_about_z_is_continuous_where_the_heading_wraps() -> None:
    before, after = rotation.about_z(torch.tensor([math.pi - 1e-6, math.pi + 1e-6], dtype=torch.float64))
    assert torch.dist(before, after) < 1e-5


def test_heading_and_up_make_the_rotation() -> None:
    q = quaternions(1000)
    whole = rotation.multiply(rotation.about_z(rotation.heading(q)), rotation.tilt(rotation.up(q)))
    alike(whole, q)
    assert rotation.tilt(rotation.up(q))[:, 3].abs().max() == 0  # about a horizontal axis


def test_up_is_minus_gravity_as_the_body_feels_it() -> None:
    q = quaternions()
    np.testing.assert_allclose(rotation.up(q).numpy(), scipys(q).as_matrix()[:, 2], atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1e-3, 3.0, math.pi - 1e-3, math.pi - 1e-7])
def test_tilts_keep_their_digits_near_none_and_near_upside_down(angle: float) -> None:
    q = rotation.about(torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64), torch.tensor(angle, dtype=torch.float64))
    back = rotation.tilt(rotation.up(q))
    assert rotation.angle_between(q, back) < 1e-14 + 1e-12 * angle
    single = rotation.tilt(3 * rotation.up(q.float()))  # a decoder's vectors have any length
    assert rotation.angle_between(q.float(), single) < 1e-6


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (0.0, 0.0, 0.0)])
def test_where_the_axis_is_undefined_tilts_are_rotations_with_finite_gradients(up: tuple[float, ...]) -> None:
    vector = torch.tensor(up, dtype=torch.float64, requires_grad=True)
    q = rotation.tilt(vector)
    q.sum().backward()
    assert q.norm() == 1 and vector.grad is not None and vector.grad.isfinite().all()


def test_tilt_has_the_gradient_of_finite_differences() -> None:
    for up in ((0.0, 0.0, 1.0), (0.1, -0.2, 0.9), (0.3, 0.2, -1.5)):
        assert torch.autograd.gradcheck(rotation.tilt, torch.tensor(up, dtype=torch.float64, requires_grad=True))


def test_the_heading_is_smooth_for_a_body_that_lies() -> None:
    """Where the yaw of Euler angles jumps: pitching through a right angle changes no heading."""
    pitch = torch.linspace(1.2, 2.0, 50, dtype=torch.float64)
    down = rotation.about(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), pitch)
    facing = rotation.multiply(rotation.about_z(torch.full_like(pitch, 0.7)), down)
    torch.testing.assert_close(rotation.heading(facing), torch.full_like(pitch, 0.7), **NEAR)


def test_headings_and_angles_know_the_double_cover() -> None:
    q = quaternions()
    torch.testing.assert_close(rotation.heading(q), rotation.heading(-q), **NEAR)
    assert rotation.angle_between(q, -q).max() < 1e-12
    other = quaternions(seed=1)
    expected = (scipys(q).inv() * scipys(other)).magnitude()
    np.testing.assert_allclose(rotation.angle_between(q, other).numpy(), expected, atol=1e-12)


def test_wrapped_angles_lie_within_half_a_turn() -> None:
    angle = torch.tensor([0.0, math.pi, -math.pi, 3.5, -3.5, 100.0], dtype=torch.float64)
    result = rotation.wrapped(angle)
    assert result.min() >= -math.pi and result.max() < math.pi
    torch.testing.assert_close(torch.sin(result), torch.sin(angle), **NEAR)
    torch.testing.assert_close(torch.cos(result), torch.cos(angle), **NEAR)


def test_signs_are_made_continuous() -> None:
    path = rotation.about_z(torch.linspace(0, 8, 60, dtype=torch.float64)).repeat(3, 1, 1)
    signs = torch.where(normal(3, 60) > 0, 1.0, -1.0).double()
    torch.testing.assert_close(rotation.continuous(path * signs.unsqueeze(-1)), path, **NEAR)
