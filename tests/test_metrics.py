"""Figures against numpy, scipy and scikit-image, and the importance-weighted bound against exact enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import logsumexp
from scipy.stats import entropy, norm
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from daps.metrics import (
    bits_per_dim,
    code_bits,
    count_entropy,
    frechet_distance,
    importance_weighted,
    psnr,
    symbol_counts,
)

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


def test_psnr_of_features_with_ranges_of_their_own_is_that_of_features_brought_to_one_range() -> None:
    rng = np.random.default_rng(1)
    span = np.array([0.5, 30.0, 4.0])
    x, x_hat = rng.normal(size=(2, 5, 8, 3)) * span
    values = psnr(torch.from_numpy(x), torch.from_numpy(x_hat), torch.from_numpy(span))
    for value, a, b in zip(values, x / span, x_hat / span, strict=True):
        assert value.item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), rel=1e-12)


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


def test_bits_per_dim_of_a_fair_die_and_of_a_change_of_units() -> None:
    assert bits_per_dim(3 * math.log(1 / 256), 3, 0.0) == pytest.approx(
        8, rel=1e-12
    )  # bytes, each as likely as another
    x, scale = np.array([3.0, -1.0]), np.array([50.0, 0.1])  # a density of x = scale * y, by scipy in both units
    log_y, log_x = norm.logpdf(x / scale).sum(), norm.logpdf(x, scale=scale).sum()
    assert bits_per_dim(log_y, 2, float(np.log(scale).sum())) == pytest.approx(-log_x / (2 * math.log(2)), rel=1e-12)


# -- the Frechet distance --------------------------------------------------------------------------


def gaussian(size: int, seed: int, count: int = 200) -> tuple[Tensor, Tensor]:
    """Mean and covariance of so many random, correlated vectors."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size)
    return torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False).reshape(size, size))


@pytest.mark.parametrize("size", [1, 2, 17, 60])
def test_frechet_distance_is_that_of_scipys_matrix_root(size: int) -> None:
    (mean_a, a), (mean_b, b) = gaussian(size, 1), gaussian(size, 2)
    root = sqrtm(a.numpy() @ b.numpy())
    expected = float(((mean_a - mean_b) ** 2).sum() + a.trace() + b.trace()) - 2 * np.trace(root).real
    assert frechet_distance(mean_a, a, mean_b, b).item() == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(mean_b, b, mean_a, a).item() == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_independent_features_has_a_closed_form() -> None:
    rng = np.random.default_rng(0)
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(9, 9)))[0])  # the same rotation of both changes nothing
    mean, spread = torch.from_numpy(rng.normal(size=(2, 9))), torch.from_numpy(rng.uniform(0, 3, (2, 9)))
    spread[0, :4] = 0  # singular: constant features
    covariances = [turn @ torch.diag(s**2) @ turn.T for s in spread]
    value = frechet_distance(turn @ mean[0], covariances[0], turn @ mean[1], covariances[1])
    expected = ((mean[0] - mean[1]) ** 2 + (spread[0] - spread[1]) ** 2).sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("count", [2, 10, 39])
def test_frechet_distance_of_fewer_data_than_features_is_exact(count: int) -> None:
    """The root's trace is also the sum of the singular values of the cross-Gram matrix, which needs no covariance."""
    x, y = np.random.default_rng(count).normal(size=(2, count, 40)) * np.linspace(1e-3, 10, 40)
    a, b = (torch.from_numpy(np.cov(v, rowvar=False)) for v in (x, y))
    mean_a, mean_b = torch.from_numpy(x.mean(0)), torch.from_numpy(y.mean(0))
    cross = np.linalg.svd((x - x.mean(0)) @ (y - y.mean(0)).T, compute_uv=False).sum() / (count - 1)
    expected = float(((mean_a - mean_b) ** 2).sum() + a.trace() + b.trace() - 2 * cross)
    assert frechet_distance(mean_a, a, mean_b, b).item() == pytest.approx(expected, rel=1e-9)
    near = frechet_distance(mean_a, a, mean_a, a).item()
    assert 0 <= near < 1e-12 * float(a.trace())  # no matrix root of a singular matrix gets that near


def test_frechet_distance_of_constants_is_that_of_the_means() -> None:
    none = torch.zeros(3, 3, dtype=torch.float64)
    one, two = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([1.0, 0.0, 3.0]).double()
    assert frechet_distance(one, none, two, none).item() == 4.0
