"""beta from a rate: a policy whose KL is a known function of beta, and the root that brentq finds."""

import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from daps.rate import RateController

REWARDS = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def kl(beta: float) -> Tensor:
    """KL of the best policy, softmax(reward / beta), to the uniform one, nats: it falls with beta."""
    log_q = (REWARDS / beta).log_softmax(0)
    return (log_q.exp() * (log_q + math.log(16))).sum()


@pytest.mark.parametrize("bits", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("first", [0.01, 30.0])
def test_it_finds_the_price_at_which_the_rate_is_met(bits: float, first: float) -> None:
    controller = RateController(first, bits, gain=0.2).double()
    assert controller(0) == pytest.approx(first, rel=1e-6)  # a float32 logarithm
    for step in range(300):
        controller.observe(kl(controller(step)))
    root = brentq(lambda log_beta: float(kl(math.exp(log_beta))) / math.log(2) - bits, -8, 8, xtol=1e-14)
    assert controller(300) == pytest.approx(math.exp(root), rel=1e-8)


def test_a_step_is_the_gain_times_the_relative_error_but_never_more_than_the_gain() -> None:
    controller = RateController(1.0, bits=2.0, gain=0.1).double()
    target, log_beta = 2 * math.log(2), 0.0
    for factor, change in ((1.5, 0.05), (0.75, -0.025), (1.0, 0.0), (50.0, 0.1), (-50.0, -0.1)):
        controller.observe(torch.tensor(factor * target, dtype=torch.float64))
        log_beta += change
        assert controller(0) == pytest.approx(math.exp(log_beta), rel=1e-12)


@pytest.mark.parametrize(("rate", "bound"), [(1e9, 5.0), (0.0, 0.2)])
def test_beta_stays_within_its_bounds(rate: float, bound: float) -> None:
    controller = RateController(1.0, bits=2.0, gain=0.5, floor=0.2, ceiling=5.0)
    for step in range(10):
        controller.observe(torch.tensor(rate))
        assert 0.2 * (1 - 1e-6) <= controller(step) <= 5 * (1 + 1e-6)
    assert controller(10) == pytest.approx(bound, rel=1e-6)


def test_its_state_goes_with_the_model() -> None:
    old, new = (RateController(first, bits=2.0, gain=0.1) for first in (1.0, 7.0))
    for controller in (old, new):
        controller.observe(torch.tensor(1.0))
    assert old(1) != new(1) and list(old.state_dict()) == ["log_beta"]
    new.load_state_dict(old.state_dict())
    for controller in (old, new):
        controller.observe(torch.tensor(3.0))
    assert old(2) == new(2)
