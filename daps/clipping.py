"""Adaptive gradient clipping (Brock et al., 2021), the paper's choice instead of clipping by the global norm."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@torch.no_grad()
def adaptive_clip(parameters: Iterable[nn.Parameter], limit: float, floor: float = 1e-3) -> Float[Tensor, ""]:
    """Scales each unit's gradient so that its norm is at most limit * max(norm of the unit's parameters, floor).

    A unit is one row along the first axis; a bias vector or scalar is one unit as a whole.

    Returns:
        The global gradient norm before clipping: not finite if any gradient is not.
    """
    squares = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        gradient_norm = _unit_norm(parameter.grad)
        squares.append((gradient_norm**2).sum())
        allowed = limit * _unit_norm(parameter).clamp(min=floor)
        parameter.grad.mul_((allowed / gradient_norm.clamp(min=1e-6)).clamp(max=1.0))
    return torch.stack(squares).sum().sqrt()


def _unit_norm(x: Tensor) -> Tensor:
    """Norms per unit, shaped to broadcast against x."""
    if x.ndim < 2:
        return torch.linalg.vector_norm(x)
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
