"""The objective against brute force over an enumerable code space, analytic gradients and an independent root."""

import itertools
import math
from collections.abc import Callable

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax
from scipy.stats import entropy
from torch import Tensor

from daps.objective import effective_sample_size, eta_loss, log_weights, policy_loss, solve_eta

Numbers = NDArray[np.float64]
DTYPES = (torch.float32, torch.float64)
EXACT = {torch.float32: 1e-5, torch.float64: 1e-12}  # some hundred roundings
MULTIPLIERS = [(0.7, 0.3), (0.0, 1.0), (2.0, 0.0), (30.0, 0.01)]  # eta, beta


def random_pair(k: int = 8, batch: int = 5, spread: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """log p and log q [K, B] of no particular structure."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(2, k, batch, generator=generator, dtype=torch.float64)
    return spread * draws[0] - 100, spread * draws[1] - 20


def advantage(log_p: Numbers) -> Numbers:
    """The paper's A: log p less its logsumexp over the samples."""
    return log_p - logsumexp(log_p, axis=0)


def mean_ess(log_p: Tensor, log_q: Tensor, eta: float, beta: float) -> float:
    """The mean ESS, from its definition."""
    scores = (advantage(log_p.double().numpy()) - beta * log_q.double().numpy()) / (eta + beta)
    weights = softmax(scores, axis=0)
    return float((weights.sum(0) ** 2 / (weights**2).sum(0)).mean())


# -- the closed form -------------------------------------------------------------------------------


@pytest.fixture
def code_space() -> tuple[Tensor, Tensor]:
    """All 27 codes of 3 tokens out of 3 symbols for 2 data: log p(x|z), and a normalised log q(z|x)."""
    log_p, logits = random_pair(27, 2, spread=2.0, seed=1)
    return log_p, logits.log_softmax(0)


def closed_form(log_p: Tensor, log_q: Tensor, eta: float, beta: float) -> Numbers:
    """q* [codes, B] by its formula and explicit normalisation."""
    q = log_q.exp().numpy()
    unnormalised = q * np.exp((advantage(log_p.numpy()) - beta * log_q.numpy()) / (eta + beta))
    return unnormalised / unnormalised.sum(0)


@pytest.mark.parametrize(("eta", "beta"), MULTIPLIERS)
def test_weights_at_all_codes_are_q_star_over_q(code_space: tuple[Tensor, Tensor], eta: float, beta: float) -> None:
    log_p, log_q = code_space
    ratio = closed_form(log_p, log_q, eta, beta) / log_q.exp().numpy()
    weights = log_weights(log_p, log_q, eta, beta).exp().numpy()
    np.testing.assert_allclose(weights, ratio / ratio.sum(0), rtol=1e-12)


@pytest.mark.parametrize(("eta", "beta"), MULTIPLIERS)
def test_q_star_is_the_best_policy(code_space: tuple[Tensor, Tensor], eta: float, beta: float) -> None:
    log_p, log_q = (t[:, 0].numpy() for t in code_space)
    q = np.exp(log_q)
    weights = log_weights(*code_space, eta, beta).exp().numpy()[:, 0]
    best = q * weights / (q * weights).sum()

    def gain(policy: Numbers) -> float:
        """E[A] + beta H - eta KL(policy || q)."""
        return float(policy @ advantage(log_p) + beta * entropy(policy) - eta * entropy(policy, q))

    rng = np.random.default_rng(0)
    for step in (1e-1, 1e-2, 1e-3):
        for other in rng.dirichlet(np.full(27, 0.3), size=50):
            assert gain(best) > gain((1 - step) * best + step * other)
    optimum = (eta + beta) * math.log((q * np.exp((advantage(log_p) - beta * log_q) / (eta + beta))).sum())
    assert gain(best) == pytest.approx(optimum, rel=1e-12)


def test_policy_loss_over_samples_of_q_is_the_cross_entropy_to_q_star() -> None:
    counts = torch.tensor([4, 1, 3, 2, 6])  # a q of multiples of 1/16: 16 samples hit it exactly
    samples = torch.arange(5).repeat_interleave(counts)
    q = counts / 16.0
    log_p, _ = random_pair(5, 1, spread=1.0)
    log_w = log_weights(log_p[samples], q.double().log()[samples, None], 0.5, 0.2)
    target = torch.from_numpy(closed_form(log_p, q.double().log()[:, None], 0.5, 0.2))[:, 0]
    logits = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)

    loss = policy_loss(log_w, logits.log_softmax(0)[samples, None])
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(-(target @ logits.log_softmax(0)).item(), rel=1e-12)
    torch.testing.assert_close(gradient, logits.softmax(0) - target, rtol=0, atol=1e-14)

    minimum = target.log().requires_grad_()
    (gradient,) = torch.autograd.grad(policy_loss(log_w, minimum.log_softmax(0)[samples, None]), minimum)
    torch.testing.assert_close(gradient, torch.zeros_like(target), rtol=0, atol=1e-14)


def test_eta_0_and_beta_1_are_the_weights_of_reweighted_wake_sleep() -> None:
    log_p, log_q = random_pair()
    ratio = np.exp((log_p - log_q).numpy() + 80)  # p(x|z) / q(z|x), the uniform prior cancels
    weights = log_weights(log_p, log_q, 0.0, 1.0).exp().numpy()
    np.testing.assert_allclose(weights, ratio / ratio.sum(0), rtol=1e-12)


@pytest.mark.parametrize("baseline", [lambda p: p.mean(0), lambda p: p.logsumexp(0), lambda p: 1e4 * p[0].sin()])
def test_a_baseline_changes_nothing(baseline: Callable[[Tensor], Tensor]) -> None:
    log_p, log_q = random_pair()
    moved = log_p - baseline(log_p)
    tolerance = 1e-10  # of 1e4 nats, float64 keeps 2e-12
    for first, second in (
        (log_weights(log_p, log_q, 1.5, 0.1), log_weights(moved, log_q, 1.5, 0.1)),
        (solve_eta(log_p, log_q, 0.1, 3.0), solve_eta(moved, log_q, 0.1, 3.0)),
    ):
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [None, 3])
def test_policy_loss_has_the_gradient_of_weighted_maximum_likelihood(tokens: int | None) -> None:
    log_p, log_q = random_pair(4, 3)
    log_w = log_weights(log_p, log_q, 1.0, 0.1).requires_grad_()
    scored = log_q if tokens is None else (log_q / tokens).unsqueeze(-1).repeat(1, 1, tokens)
    scored = scored.clone().requires_grad_()
    policy_loss(log_w, scored).backward()
    weights = log_w.detach().exp() / 3
    expected = -weights if tokens is None else -weights.unsqueeze(-1).expand_as(scored)
    torch.testing.assert_close(scored.grad, expected, rtol=1e-15, atol=0)
    assert log_w.grad is None
    assert torch.autograd.gradcheck(lambda q: policy_loss(log_w, q), scored)


@pytest.mark.parametrize("baseline", [0.0, 0.25])
@pytest.mark.parametrize("per_token", [False, True])
def test_policy_loss_is_the_sum_over_samples_and_tokens(baseline: float, per_token: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, log_q = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=generator)
    log_w = (scores if per_token else scores[..., 0]).log_softmax(0)
    expected = 0.0
    for k, b, t in itertools.product(range(4), range(3), range(5)):
        weight = float(log_w[k, b, t] if per_token else log_w[k, b])
        expected -= (math.exp(weight) - baseline) * float(log_q[k, b, t]) / 3
    assert float(policy_loss(log_w, log_q, baseline)) == pytest.approx(expected, rel=1e-12)
    if not per_token:
        assert float(policy_loss(log_w, log_q.sum(-1), baseline)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_a_baseline_leaves_the_expected_gradient_and_lowers_its_variance(spread: float) -> None:
    """Over all 64 triples of samples from a policy of 4 symbols, and the weights that their rewards give."""
    logits, rewards = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    logits.requires_grad_()
    moments = {}
    for baseline in (0.0, 1 / 3):
        gradients, chances = [], []
        for triple in itertools.product(range(4), repeat=3):
            log_q = logits.log_softmax(0)[list(triple), None]
            log_w = log_weights(spread * rewards[list(triple), None], torch.zeros(3, 1).double(), 1.0, 0.0)
            gradients += torch.autograd.grad(policy_loss(log_w, log_q, baseline), logits)
            chances.append(log_q.detach().sum().exp())
        stacked, q = torch.stack(gradients), torch.stack(chances)[:, None]
        mean = (q * stacked).sum(0)
        moments[baseline] = mean, float((q * (stacked - mean) ** 2).sum())
    (plain, noise), (centred, less) = moments.values()
    torch.testing.assert_close(centred, plain, rtol=0, atol=1e-14)
    assert less < 0.9 * noise
    if spread == 0:  # nothing to learn, and nothing but noise without the baseline
        assert noise > 0.1 and less < 1e-30 and float(plain.abs().max()) < 1e-14
    else:
        assert float(plain.abs().max()) > 0.01


def test_weights_carry_no_gradient() -> None:
    log_p, log_q = (t.requires_grad_() for t in random_pair())
    eta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    assert not log_weights(log_p, log_q, eta, 0.1).requires_grad
    assert not solve_eta(log_p, log_q, 0.1, 3.0).requires_grad


@pytest.mark.parametrize("log_eta", [-1.0, 0.5, 3.0])
def test_eta_loss_has_the_analytic_gradient_to_log_eta_alone(log_eta: float) -> None:
    log_p, log_q = (t.requires_grad_() for t in random_pair())
    beta, target = 0.3, 3.0
    parameter = torch.tensor(log_eta, dtype=torch.float64, requires_grad=True)
    loss = eta_loss(log_p, log_q, parameter, beta, target)
    loss.backward()
    assert log_p.grad is None and log_q.grad is None

    eta, temperature = math.exp(log_eta), math.exp(log_eta) + beta
    scores = advantage(log_p.detach().numpy()) - beta * log_q.detach().numpy()
    w = softmax(scores / temperature, axis=0)
    ess = 1 / (w**2).sum(0)
    w_slope = -w * (scores - (w * scores).sum(0)) / temperature**2
    slope = (-(ess**2) * (2 * w * w_slope).sum(0)).mean() * eta
    assert loss.item() == pytest.approx((ess.mean() - target) ** 2, rel=1e-10)
    assert float(parameter.grad) == pytest.approx(2 * (ess.mean() - target) * slope, rel=1e-10)
    assert torch.autograd.gradcheck(
        lambda e: eta_loss(log_p, log_q, e, beta, target), parameter.detach().requires_grad_()
    )


# -- effective sample size -------------------------------------------------------------------------


def test_ess_is_that_of_the_weights_normalised_or_not() -> None:
    log_w, _ = random_pair()
    weights = (log_w + 100).exp()
    expected = weights.sum(0) ** 2 / (weights**2).sum(0)
    torch.testing.assert_close(effective_sample_size(log_w), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(effective_sample_size(log_w.log_softmax(0)), expected, rtol=1e-12, atol=0)
    one = torch.tensor([0.0, -torch.inf, -torch.inf])[:, None]
    assert effective_sample_size(one).tolist() == [1.0]
    assert effective_sample_size(torch.zeros(5, 1)).item() == pytest.approx(5, rel=1e-6)


nats = st.floats(-1e5, 1e5) | st.floats(-2, 2) | st.just(-math.inf)


@given(
    arrays.arrays(np.float64, (2, 4, 3), elements=nats),
    st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)),
    st.sampled_from([0.0, 0.01, 1.0, 50.0]),
    st.sampled_from(DTYPES),
)
def test_weights_are_normalised_and_ess_rises_with_eta(
    pair: Numbers, etas: tuple[float, float], beta: float, dtype: torch.dtype
) -> None:
    log_p, log_q = torch.from_numpy(pair).to(dtype)
    less, more = (log_weights(log_p, log_q, eta, beta) for eta in sorted(etas))
    rounding = EXACT[dtype]
    for log_w in (less, more):
        torch.testing.assert_close(log_w.exp().sum(0), torch.ones(3, dtype=dtype), rtol=rounding, atol=0)
    low, high = effective_sample_size(less), effective_sample_size(more)
    assert bool((low >= 1).all()) and bool((high <= 4).all())
    assert bool((high >= low - 10 * rounding).all())


# -- the exact dual --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [1e-3, 3.0, 1e4])
@pytest.mark.parametrize(("beta", "target"), [(0.0, 1.5), (0.0, 2.64), (1e-5, 4.0), (1e-5, 7.9)])
def test_solve_eta_meets_the_target(dtype: torch.dtype, spread: float, beta: float, target: float) -> None:
    log_p, log_q = (t.to(dtype) for t in random_pair(spread=spread))
    eta = solve_eta(log_p, log_q, beta, target)
    assert eta.dtype == dtype and eta.shape == () and eta > 0
    ess = effective_sample_size(log_weights(log_p, log_q, eta, beta)).mean()
    assert float(ess) == pytest.approx(target, rel={torch.float32: 1e-5, torch.float64: 1e-9}[dtype])


@pytest.mark.parametrize(("beta", "target"), [(0.0, 2.64), (0.05, 2.64), (0.3, 6.0)])
def test_solve_eta_is_the_root_that_brentq_finds(beta: float, target: float) -> None:
    log_p, log_q = random_pair()
    root = brentq(lambda e: mean_ess(log_p, log_q, math.exp(e), beta) - target, -20, 20, xtol=1e-14, rtol=1e-14)
    assert float(solve_eta(log_p, log_q, beta, target)) == pytest.approx(math.exp(root), rel=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_solve_eta_spans_data_of_all_scales(dtype: torch.dtype) -> None:
    scales = torch.tensor([1e5, 1e-3, 2e-3, 1e-3, 3e-3])  # nats between the samples of each datum
    log_p = ((random_pair()[0] + 100) / 3 * scales).to(dtype)
    log_q = torch.zeros_like(log_p)
    for target in (2.0, 6.5):  # of which the first datum contributes one
        log_w = log_weights(log_p, log_q, solve_eta(log_p, log_q, 0.0, target), 0.0)
        ess = effective_sample_size(log_w)
        assert ess.mean().item() == pytest.approx(target, rel=1e-5)
        assert ess[0].item() == pytest.approx(1, rel=1e-5)


def test_solve_eta_is_zero_where_the_constraint_is_slack() -> None:
    log_p, log_q = random_pair()
    slack = mean_ess(log_p, log_q, 0.0, 20.0)
    assert slack > 1.1
    assert solve_eta(log_p, log_q, 20.0, slack - 1e-6) == 0
    assert solve_eta(log_p, log_q, 20.0, slack + 1e-6) > 0
    same = torch.zeros(8, 5)
    assert solve_eta(same, same, 0.0, 8.0) == 0


def test_solve_eta_where_no_eta_reaches_the_target() -> None:
    log_p, log_q = random_pair(6, 1)
    log_p[2:] = -torch.inf
    log_w = log_weights(log_p, log_q, solve_eta(log_p, log_q, 0.1, 4.0), 0.1)
    assert effective_sample_size(log_w).item() == pytest.approx(2, rel=1e-9)


def test_the_whole_of_k_can_be_asked_for() -> None:
    log_p, log_q = random_pair()
    log_w = log_weights(log_p, log_q, solve_eta(log_p, log_q, 0.1, 8.0), 0.1)
    torch.testing.assert_close(log_w.exp(), torch.full_like(log_w, 1 / 8), rtol=1e-4, atol=0)


@pytest.mark.parametrize("target", [1.0, 0.0, 8.001, math.nan, math.inf])
def test_solve_eta_refuses_a_target_outside_its_range(target: float) -> None:
    with pytest.raises(ValueError, match=r"target: .* lies in \(1, K\] = \(1, 8\], got .*; try K / 3"):
        solve_eta(*random_pair(), 0.1, target)


# -- extremes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_log_p_keeps_small_differences(dtype: torch.dtype) -> None:
    differences = torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=dtype)[:, None]  # exact in float32 beside 1e5
    log_q = torch.tensor([0.0, 1e-3, -2e-3, 0.5], dtype=dtype)[:, None] - 4.0
    for level in (1e5, -1e5, 0.0):
        expected = softmax((differences - 0.5 * log_q).double().numpy() / 0.75, axis=0)
        weights = log_weights(differences + level, log_q, 0.25, 0.5).exp()
        np.testing.assert_allclose(weights.numpy(), expected, rtol=EXACT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_differences_of_ten_thousand_nats(dtype: torch.dtype) -> None:
    log_p = torch.tensor([[1e5], [9e4], [1e5 - 10]], dtype=dtype)
    log_w = log_weights(log_p, torch.zeros_like(log_p), 1.0, 0.0)
    torch.testing.assert_close(log_w, torch.tensor([[0], [-1e4], [-10]], dtype=dtype), rtol=1e-5, atol=1e-4)
    sharp = log_weights(log_p, torch.zeros_like(log_p), 1e-30, 0.0)
    assert sharp[:, 0].exp().tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["log_p", "log_q"])
def test_an_impossible_sample_weighs_nothing(dtype: torch.dtype, which: str) -> None:
    log_p, log_q = (t.to(dtype) for t in random_pair(4, 2))
    dead = log_p if which == "log_p" else log_q
    dead[1, 0] = -torch.inf
    dead[:, 1] = -torch.inf
    for eta, beta in [*MULTIPLIERS, (math.inf, 0.0), (0.0, 0.0)]:
        log_w = log_weights(log_p, log_q, eta, beta)
        assert log_w[1, 0] == -torch.inf
        alive = [0, 2, 3]
        others = log_weights(log_p[alive], log_q[alive], eta, beta)[:, 0]
        torch.testing.assert_close(log_w[alive, 0], others, rtol=EXACT[dtype], atol=EXACT[dtype])
        torch.testing.assert_close(log_w[:, 1].exp(), torch.full((4,), 0.25, dtype=dtype))
    log_eta = torch.zeros((), dtype=dtype, requires_grad=True)
    eta_loss(log_p, log_q, log_eta, 0.1, 2.0).backward()
    assert bool(log_eta.grad.isfinite())
    assert bool(solve_eta(log_p, log_q, 0.1, 2.9).isfinite())


def test_a_sample_of_weight_zero_may_have_log_q_of_minus_infinity() -> None:
    log_w = torch.tensor([[0.0], [-torch.inf]])
    log_q = torch.tensor([[-3.0], [-torch.inf]], requires_grad=True)
    loss = policy_loss(log_w, log_q)
    loss.backward()
    assert loss.item() == 3.0
    assert log_q.grad.tolist() == [[-1.0], [0.0]]


def test_nan_stays_visible_and_in_its_datum() -> None:
    log_p, log_q = random_pair(4, 2)
    log_p[2, 0] = torch.nan
    log_w = log_weights(log_p, log_q, 1.0, 0.1)
    assert bool(log_w[:, 0].isnan().all()) and bool(log_w[:, 1].isfinite().all())
    assert bool(effective_sample_size(log_w)[0].isnan())
    assert bool(policy_loss(log_w, log_q).isnan())


def test_one_sample_weighs_one() -> None:
    log_p, log_q = random_pair(1, 3)
    for eta in (0.0, 1.0, math.inf, solve_eta(log_p, log_q, 0.1, 0.33)):
        log_w = log_weights(log_p, log_q, eta, 0.1)
        assert log_w.tolist() == [[0.0, 0.0, 0.0]]
        assert effective_sample_size(log_w).tolist() == [1.0, 1.0, 1.0]
    assert solve_eta(log_p, log_q, 0.1, 0.33) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_an_infinite_eta_gives_uniform_weights(dtype: torch.dtype, beta: float) -> None:
    log_p, log_q = (t.to(dtype) for t in random_pair(spread=1e4))
    weights = log_weights(log_p, log_q, math.inf, beta).exp()
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 8))


def test_eta_and_beta_of_zero_take_the_best_samples() -> None:
    log_p = torch.tensor([[1.0, 3.0], [2.0, 3.0], [2.0, -1.0]])
    weights = log_weights(log_p, torch.zeros_like(log_p), 0.0, 0.0).exp()
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.5], [0.5, 0.5], [0.5, 0.0]]))
