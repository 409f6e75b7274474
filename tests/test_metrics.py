"""Figures against numpy, scipy and scikit-image, and the importance-weighted bound against exact enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import entropy
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from daps.metrics import code_bits, count_entropy, importance_weighted, psnr, symbol_counts

V, T = 6, 3


@pytest.fixture
def codes() -> Tensor:
    return torch.randint(V - 1, (4, 25, T), generator=torch.Generator().manual_seed(0)) ** 2 % V


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_symbol_counts_are_those_of_numpy(codes: Tensor, dtype: torch.dtype) -> None:
    counts = symbol_counts(codes.to(dtype), V)
    flat = codes.flatten(0, 1).numpy()
    expected = np.stack([np.bincount(flat[:, t], minlength=V) for t in range(T)])
    np.testing.assert_array_equal(counts.numpy(), expected)
    assert (expected == 0).any()  # a symbol that never occurs has its place


def test_entropies_are_those_of_scipy(codes: Tensor) -> None:
    counts = symbol_counts(codes, V)
    np.testing.assert_allclose(count_entropy(counts).numpy(), entropy(counts.numpy(), axis=1), rtol=1e-12)
    assert code_bits(codes, V).item() == pytest.approx(entropy(counts.numpy(), base=2, axis=1).sum(), rel=1e-12)


def test_bits_at_the_ends() -> None:
    uniform = torch.arange(8)[:, None].expand(8, 5)
    assert code_bits(uniform, 8).item() == pytest.approx(15, rel=1e-12)
    assert code_bits(torch.zeros_like(uniform), 8).item() == 0
    assert count_entropy(torch.zeros(2, 4, dtype=torch.long)).tolist() == [0.0, 0.0]


def test_psnr_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    x_hat = x + rng.normal(0, 20, x.shape)
    values = psnr(torch.from_numpy(x), torch.from_numpy(x_hat), 255.0)
    expected = [peak_signal_noise_ratio(a.astype(float), b, data_range=255) for a, b in zip(x, x_hat, strict=True)]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-12)
    assert psnr(torch.ones(1, 4), torch.ones(1, 4), 1.0).item() == math.inf


# -- the importance-weighted bound -----------------------------------------------------------------

BITS = 2.0  # four codes under a uniform prior


@pytest.fixture
def model() -> tuple[np.ndarray, np.ndarray, float]:
    """log p(x|z) and log q(z|x) of four codes, and the exact log p(x)."""
    rng = np.random.default_rng(0)
    log_p, log_q = rng.normal(-50, 2, 4), np.log(rng.dirichlet(np.ones(4)))
    return log_p, log_q, float(logsumexp(log_p) - math.log(4))


def bound(log_p: np.ndarray, log_q: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """The bound for each column of picked codes [S, B]."""
    return importance_weighted(torch.from_numpy(log_p[picks]), torch.from_numpy(log_q[picks]), BITS).numpy()


def test_its_exponential_is_unbiased_and_more_samples_are_tighter(model: tuple[np.ndarray, np.ndarray, float]) -> None:
    log_p, log_q, exact = model
    means = []
    for samples in (1, 2, 3, 4):
        picks = np.array(list(itertools.product(range(4), repeat=samples))).T  # every draw there is
        chance = np.exp(log_q[picks].sum(0))
        values = bound(log_p, log_q, picks)
        assert (chance * np.exp(values - exact)).sum() == pytest.approx(1, rel=1e-12)
        means.append(float((chance * values).sum()))
    elbo = float(np.exp(log_q) @ (log_p - log_q - math.log(4)))
    assert means[0] == pytest.approx(elbo, rel=1e-12)
    assert means == sorted(means) and means[-1] < exact


def test_many_samples_reach_the_likelihood(model: tuple[np.ndarray, np.ndarray, float]) -> None:
    log_p, log_q, exact = model
    picks = np.random.default_rng(1).choice(4, size=(100_000, 1), p=np.exp(log_q))
    weights = np.exp(log_p - log_q - math.log(4) - exact)
    error = math.sqrt(float(np.exp(log_q) @ (weights - 1) ** 2) / 100_000)
    assert bound(log_p, log_q, picks).item() == pytest.approx(exact, abs=5 * error)


def test_the_posterior_makes_the_bound_exact(model: tuple[np.ndarray, np.ndarray, float]) -> None:
    log_p, _, exact = model
    posterior = log_p - logsumexp(log_p)
    np.testing.assert_allclose(bound(log_p, posterior, np.array([[0, 1, 2, 3]])), exact, rtol=1e-12)
