"""Unit quaternions w x y z (scalar first, as MuJoCo has them), batched and differentiable.

A quaternion and its negative are one rotation; `continuous` picks signs along a path.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def multiply(a: Float[Tensor, "*#N 4"], b: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N 4"]:
    """The Hamilton product: first b's rotation, then a's."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    real = aw * bw - (av * bv).sum(-1, keepdim=True)
    return torch.cat((real, aw * bv + bw * av + torch.linalg.cross(*torch.broadcast_tensors(av, bv))), -1)


def conjugate(q: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """The inverse rotation."""
    return torch.cat((q[..., :1], -q[..., 1:]), -1)


def rotate(q: Float[Tensor, "*#N 4"], v: Float[Tensor, "*#N 3"]) -> Float[Tensor, "*N 3"]:
    """Vectors v, rotated: v + 2 w (u x v) + 2 u x (u x v), where q = (w, u)."""
    u, v = torch.broadcast_tensors(q[..., 1:], v)
    twice = 2 * torch.linalg.cross(u, v)
    return v + q[..., :1] * twice + torch.linalg.cross(u, twice)


def about(axis: Float[Tensor, "*#N 3"], angle: Float[Tensor, "*#N"]) -> Float[Tensor, "*N 4"]:
    """Rotations about unit axes by angles, radians; continuous in the angle, with period 4 pi."""
    half = angle.unsqueeze(-1) / 2
    return torch.cat(
        (half.cos().expand(*torch.broadcast_shapes(half.shape[:-1], axis.shape[:-1]), 1), axis * half.sin()), -1
    )


def about_z(angle: Float[Tensor, "*N"]) -> Float[Tensor, "*N 4"]:
    """Rotations about the vertical by angles, radians; continuous in the angle, with period 4 pi."""
    half, zero = angle / 2, torch.zeros_like(angle)
    return torch.stack((half.cos(), zero, zero, half.sin()), -1)


def rotate_z(angle: Float[Tensor, "*N"], v: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
    """Planar vectors, turned counter-clockwise by angles, radians."""
    cos, sin, (x, y) = angle.cos(), angle.sin(), v.unbind(-1)
    return torch.stack((cos * x - sin * y, sin * x + cos * y), -1)


def wrapped(angle: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Angles in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def heading(q: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """The twist about the vertical in [-pi, pi): q = about_z(heading) * (a rotation about a horizontal axis).

    Unlike the yaw of Euler angles it is smooth for bodies that lie; only upside down, exactly, it is undefined.
    """
    return wrapped(2 * torch.atan2(q[..., 3], q[..., 0]))


def up(q: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 3"]:
    """The world's vertical as the body sees it (minus the direction of gravity): all of q but its heading."""
    vertical = q.new_tensor((0.0, 0.0, 1.0))
    return rotate(conjugate(q), vertical.expand(*q.shape[:-1], 3))


def tilt(up: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 4"]:
    """The rotation about a horizontal axis whose `up` has the direction of the vectors given, of any length but 0.

    It is halfway from the vertical to `up`: (length + z, y, -x, 0), normalised. Upside down the axis is x.
    """
    x, y, z = up.unbind(-1)
    tiny = torch.finfo(up.dtype).tiny
    larger = up.norm(dim=-1) + z.abs()
    half = torch.where(z >= 0, larger, (x * x + y * y) / larger.clamp_min(tiny))  # length + z without cancellation
    q = torch.stack((half, y, -x, torch.zeros_like(x)), -1)
    size = q.norm(dim=-1, keepdim=True)
    return torch.where(size > 0, q / size.clamp_min(tiny), q.new_tensor((0.0, 1.0, 0.0, 0.0)))


def angle_between(a: Float[Tensor, "*N 4"], b: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """The angle of the rotation from a to b, in [0, pi] radians; a and -a are alike."""
    between = multiply(conjugate(a), b)
    return 2 * torch.atan2(between[..., 1:].norm(dim=-1), between[..., 0].abs())


def from_vector(v: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 4"]:
    """The rotation about v by |v| radians: the exponential map; smooth at 0."""
    half = v.square().sum(-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny).sqrt() / 2
    return torch.cat((half.cos(), v / 2 * torch.sinc(half / math.pi)), -1)


def to_vector(q: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 3"]:
    """The inverse of from_vector, of length at most pi; q and -q are alike. Smooth but at half turns."""
    q = torch.where(q[..., :1] < 0, -q, q)
    size = q[..., 1:].square().sum(-1, keepdim=True).clamp_min(torch.finfo(q.dtype).tiny).sqrt()
    return q[..., 1:] * (2 * torch.atan2(size, q[..., :1]) / size)


def continuous(q: Float[Tensor, "*N F 4"]) -> Float[Tensor, "*N F 4"]:
    """The same rotations with w >= 0 in the first frame, and no negative dot product of neighbours."""
    flips = (q[..., 1:, :] * q[..., :-1, :]).sum(-1) < 0
    first = q[..., :1, 0] < 0
    odd = torch.cat((first, flips), -1).cumsum(-1) % 2
    return q * (1 - 2 * odd).unsqueeze(-1)
