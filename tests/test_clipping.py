"""Adaptive clipping against a loop over single units."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from daps.clipping import adaptive_clip


@pytest.fixture
def net() -> nn.Module:
    """Matrices, convolutions, vectors, a scalar and a table, some of them zero."""
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 3),
            "convolution": nn.Conv2d(2, 5, 3),
            "transposed": nn.ConvTranspose2d(2, 5, 3),
            "norm": nn.LayerNorm(6),
            "table": nn.Embedding(7, 4),
        }
    ).double()
    net.register_parameter("scalar", nn.Parameter(torch.tensor(0.3, dtype=torch.float64)))
    nn.init.zeros_(net["linear"].bias)
    for index, parameter in enumerate(net.parameters()):  # some far above, some far below their limit
        parameter.grad = torch.randn_like(parameter) * 10.0 ** (index % 5 - 3)
    return net


def norm(values: Tensor) -> float:
    """Square root of the sum of squares."""
    return math.sqrt(sum(value**2 for value in values.flatten().tolist()))


def clipped_unit(weight: Tensor, gradient: Tensor, limit: float, floor: float) -> Tensor:
    """One unit's gradient, no longer than it may be."""
    longest, length = limit * max(norm(weight), floor), norm(gradient)
    return gradient if length <= longest else gradient / length * longest


@pytest.mark.parametrize(("limit", "floor"), [(1.0, 1e-3), (0.01, 1e-3), (0.1, 0.5)])
def test_each_unit_is_clipped_by_itself(net: nn.Module, limit: float, floor: float) -> None:
    before = copy.deepcopy([p.grad for p in net.parameters()])
    weights = copy.deepcopy([p.detach() for p in net.parameters()])
    total = adaptive_clip(net.parameters(), limit, floor)
    assert total.item() == pytest.approx(math.sqrt(sum(norm(g) ** 2 for g in before)), rel=1e-12)
    changed = 0
    for parameter, weight, gradient in zip(net.parameters(), weights, before, strict=True):
        units = [(weight, gradient)] if weight.ndim < 2 else list(zip(weight, gradient, strict=True))
        expected = [clipped_unit(w, g, limit, floor) for w, g in units]
        torch.testing.assert_close(parameter.grad, torch.stack(expected).view_as(weight), rtol=1e-12, atol=0)
        assert torch.equal(parameter, weight)
        changed += not torch.equal(parameter.grad, gradient)
    assert 0 < changed < len(before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_reported(net: nn.Module, bad: float) -> None:
    net["table"].weight.grad[2, 1] = bad
    assert not adaptive_clip(net.parameters(), 1.0).isfinite()


def test_parameters_without_gradient_and_gradients_of_zero_stay(net: nn.Module) -> None:
    net["linear"].weight.grad = None
    net["table"].weight.grad.zero_()
    assert adaptive_clip(net.parameters(), 1.0).isfinite()
    assert net["linear"].weight.grad is None
    assert not net["table"].weight.grad.any()
