"""Likelihoods against scipy, at ordinary and at extreme network outputs."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from daps.likelihood import BernoulliLikelihood, GaussianLikelihood

SHAPE = (2, 3)


def parameters(channels: int) -> Tensor:
    """Network outputs of a batch of 4."""
    return 3 * torch.randn(4, channels, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_bernoulli_log_p_is_that_of_scipy() -> None:
    logits, x = parameters(1), (parameters(1)[:, 0] > 0.3).double()
    distribution = BernoulliLikelihood()(logits, 2)
    assert distribution.batch_shape == (4,) and distribution.event_shape == SHAPE
    share = 1 / (1 + np.exp(-logits[:, 0].numpy()))
    expected = stats.bernoulli.logpmf(x.numpy(), share).sum((1, 2))
    np.testing.assert_allclose(distribution.log_prob(x).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(distribution.mean.numpy(), share, rtol=1e-12)


@pytest.mark.parametrize("logit", [1e4, -1e4, 30.0])
def test_a_confident_mistake_keeps_its_gradient(logit: float) -> None:
    logits = torch.full((1, 1, 2), logit, requires_grad=True)
    x = torch.tensor([[0.0, 1.0]])
    log_p = BernoulliLikelihood()(logits, 1).log_prob(x)
    log_p.sum().backward()
    assert log_p.item() == pytest.approx(-abs(logit), rel=1e-6)
    assert logits.grad.flatten().tolist() == pytest.approx([-1.0, 0.0] if logit > 0 else [0.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("bounds", [(0.01, 1.0), (1e-3, 4.0)])
def test_gaussian_log_p_is_that_of_scipy(bounds: tuple[float, float]) -> None:
    outputs, x = parameters(2), parameters(1)[:, 0] + 0.5
    distribution = GaussianLikelihood(*bounds)(outputs, 2)
    mean, raw = outputs.numpy().swapaxes(0, 1)
    low, high = np.log(bounds)
    deviation = np.exp((low + (high - low) / (1 + np.exp(-raw))) / 2)
    expected = stats.norm.logpdf(x.numpy(), mean, deviation).sum((1, 2))
    np.testing.assert_allclose(distribution.log_prob(x).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(distribution.stddev.numpy(), deviation, rtol=1e-12)
    assert torch.equal(distribution.mean, outputs[:, 0])


def test_the_variance_stays_in_its_bounds_and_its_gradient_finite() -> None:
    outputs = torch.zeros(1, 2, 5, requires_grad=True)
    with torch.no_grad():
        outputs[0, 1] = torch.tensor([-1e4, -10.0, 0.0, 10.0, 1e4])
    distribution = GaussianLikelihood(0.01, 1.0)(outputs, 1)
    variance = distribution.variance[0].tolist()
    assert variance == sorted(variance)
    assert variance[0] == pytest.approx(0.01, rel=1e-5) and variance[4] == pytest.approx(1.0, rel=1e-5)
    assert variance[2] == pytest.approx(0.1, rel=1e-5)
    distribution.log_prob(torch.full((5,), 1e4)).sum().backward()
    assert bool(outputs.grad.isfinite().all())


def test_equal_bounds_fix_the_variance() -> None:
    likelihood = GaussianLikelihood(0.25, 0.25)
    assert likelihood.channels == 1 and GaussianLikelihood(0.25, 0.26).channels == 2
    outputs, x = parameters(1), parameters(1)[:, 0] - 1
    distribution = likelihood(outputs, 2)
    expected = stats.norm.logpdf(x.numpy(), outputs[:, 0].numpy(), 0.5).sum((1, 2))
    np.testing.assert_allclose(distribution.log_prob(x).numpy(), expected, rtol=1e-12)
    assert bool((distribution.variance == 0.25).all())


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)])
def test_bounds_that_bound_nothing(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"nets.variance: needs 0 < min <= max < inf, got \(.*equal bounds fix"):
        GaussianLikelihood(*bounds)
