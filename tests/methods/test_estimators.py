"""What the estimators of the encoder's gradient promise, exactly: every draw of K codes, every resampling of them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Independent, Normal

from daps.credit import Credit, LocalCredit, Reach, Returns, SequenceCredit
from daps.objective import log_weights, policy_loss
from daps.selection import resample, take

T, BETA = 4, 0.3
CODES = torch.tensor(list(itertools.product(range(2), repeat=T)))  # every code of 4 binary tokens


def every_draw(k: int) -> Tensor:
    """Indices of codes [K, N = 16^K]."""
    return torch.cartesian_prod(*[torch.arange(len(CODES))] * k).view(-1, k).T


class Toy:
    """A policy over the 16 codes and a decoder whose cell t sees tokens t - 1 to t + 1, all from one seed."""

    def __init__(self, factorised: bool, credit: Credit | None = None, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        means = torch.empty(len(CODES), 1, T, 1, dtype=torch.float64)
        for t in range(T):
            seen = CODES[:, max(t - 1, 0) : t + 2]
            means[:, 0, t, 0] = normal(*[2] * seen.shape[1])[tuple(seen.T)]
        distribution, y = Independent(Normal(means, 0.7), 2), normal(1, T, 1)
        prefix = [0 * CODES[:, 0] + t if factorised else 2**t - 1 + self._number(CODES[:, :t]) for t in range(T)]
        self.parameters = normal(2**T - 1).requires_grad_()
        logits = self.parameters[torch.stack(prefix, -1)]
        log_q = F.logsigmoid(torch.where(CODES == 1, logits, -logits))  # [16, T]
        self.scores = torch.stack(  # d log q_t: [16, T, P]
            [
                torch.stack([torch.autograd.grad(each, self.parameters, retain_graph=True)[0] for each in row])
                for row in log_q
            ]
        )
        self.log_q = log_q.detach()
        self.log_p = distribution.log_prob(y)[:, 0]
        self.returns = Returns(
            *((credit or SequenceCredit()).double()(distribution, y, self.log_q[:, None])[1]),
        )

    @staticmethod
    def _number(prefixes: Tensor) -> Tensor:
        return (prefixes * 2 ** torch.arange(prefixes.shape[1])).sum(-1)

    @property
    def q(self) -> Tensor:
        """Chances of the codes."""
        return self.log_q.sum(-1).exp()

    def log_weights(self, draws: Tensor, eta: float) -> Tensor:
        """Of every draw, per sequence [K, N] or per token [K, N, T]."""
        reward, price = (values[:, 0][draws] for values in self.returns)
        tokens = reward.shape[2:]
        log_w = log_weights(reward.flatten(1), price.flatten(1), eta, BETA)  # each token of each draw is a datum
        return log_w.unflatten(1, (-1, *tokens)) if tokens else log_w

    def gradients(self, draws: Tensor, log_w: Tensor, baseline: float = 0.0) -> Tensor:
        """That of `policy_loss` for every draw by itself: [N, P]."""
        log_q = self.log_q[draws].requires_grad_()
        slope = torch.autograd.grad(policy_loss(log_w, log_q, baseline) * draws.shape[1], log_q)[0]
        return torch.einsum("knt,kntp->np", slope, self.scores[draws])

    def moments(self, draws: Tensor, gradients: Tensor, chances: Tensor | float = 1.0) -> tuple[Tensor, float]:
        """Sum over draws of chance times gradient, and times its square."""
        chances = chances * self.q[draws].prod(0)
        return chances @ gradients, float(chances @ (gradients**2).sum(-1))

    def truth(self, eta: float) -> Tensor:
        """-sum_z q*(z) grad log q(z), with q* from its definition."""
        log_q = self.log_q.sum(-1)
        target = (log_q + (self.log_p - BETA * log_q) / (eta + BETA)).softmax(0)
        return -(target @ self.scores.sum(1))

    def policy_gradient(self) -> Tensor:
        """The gradient of E_q[log p] + beta H(q)."""
        log_q = self.log_q.sum(-1)
        return (self.q * (self.log_p - BETA * log_q)) @ self.scores.sum(1)


@pytest.mark.parametrize("factorised", [False, True])
@pytest.mark.parametrize("eta", [0.2, 1.0, 10.0])
@pytest.mark.parametrize("k", [2, 3])
def test_centred_weights_have_the_same_mean_and_less_variance(factorised: bool, eta: float, k: int) -> None:
    for seed, credit in itertools.product(range(2), (None, LocalCredit(Reach(T, (T,), 1), 1.0))):
        toy, draws = Toy(factorised, credit, seed), every_draw(k)
        log_w = toy.log_weights(draws, eta)
        mean, square = toy.moments(draws, toy.gradients(draws, log_w))
        centred_mean, centred_square = toy.moments(draws, toy.gradients(draws, log_w, 1 / k))
        torch.testing.assert_close(centred_mean, mean, rtol=1e-9, atol=1e-12)
        assert centred_square < 0.8 * square  # with equal means, of the variances too


def test_self_normalised_weights_are_biased_by_about_one_in_k() -> None:
    toy, eta = Toy(factorised=False), 1.0
    truth, errors = toy.truth(eta), []
    for k in (1, 2, 3, 4):
        draws = every_draw(k)
        mean, _ = toy.moments(draws, toy.gradients(draws, toy.log_weights(draws, eta)))
        errors.append(float((mean - truth).norm() / truth.norm()))
    assert errors[0] == pytest.approx(1.0)  # one sample weighs 1 whatever it is worth: no gradient in the mean
    assert errors == sorted(errors, reverse=True)
    assert errors[3] * 4 == pytest.approx(errors[2] * 3, rel=0.3)


def outcomes(log_w: Tensor, count: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """All that `resample` may do, by telling it what to draw: chances [N], chosen [count, N], new log-weights."""
    shares = log_w.exp() if log_w.ndim == 2 else log_w.exp().mean(-1)
    upper = shares.T.cumsum(-1)
    strata = torch.arange(count, dtype=torch.float64).view(-1, 1, 1) / count
    low, high = torch.maximum(upper - shares.T, strata), torch.minimum(upper, strata + 1 / count)
    chances, middles = (high - low).clamp(min=0) * count, (((low + high) / 2 - strata) * count).clamp(0, 1)
    found = []
    for picks in itertools.product(range(len(log_w)), repeat=count):
        uniforms = torch.stack([middles[i, :, k] for i, k in enumerate(picks)], -1)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", lambda *shape, uniforms=uniforms, **_: uniforms.view(shape))
            chosen, log_w_few = resample(log_w, count)
        chance = torch.stack([chances[i, :, k] for i, k in enumerate(picks)]).prod(0)
        for i, k in enumerate(picks):
            assert bool((chosen[i] == k)[chance > 1e-9].all())
        found.append((chance, chosen, log_w_few))
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("tokens", [False, True], ids=["sequence", "token"])
def test_a_few_resampled_by_weight_have_the_same_mean(
    count: int, tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, draws = Toy(False, LocalCredit(Reach(T, (T,), 0), 1.0) if tokens else None), every_draw(2)
    log_w = toy.log_weights(draws, eta=0.5)
    mean, square = toy.moments(draws, toy.gradients(draws, log_w))
    total, few_mean, few_square = torch.zeros_like(mean), torch.zeros_like(mean), 0.0
    for chance, chosen, log_w_few in outcomes(log_w, count, monkeypatch):
        gradients = toy.gradients(take(draws, chosen), log_w_few)
        total = total + (toy.q[draws].prod(0) @ chance)
        part, part_square = (chance * toy.q[draws].prod(0)) @ gradients, (gradients**2).sum(-1)
        few_mean = few_mean + part
        few_square += float((chance * toy.q[draws].prod(0)) @ part_square)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-9, atol=0)
    torch.testing.assert_close(few_mean, mean, rtol=1e-9, atol=1e-12)
    assert few_square > square  # what it costs


@pytest.mark.parametrize(
    ("factorised", "tail"), [(False, None), (False, 1.0), (True, None), (True, 1.0), (True, 0.0), (False, 0.0)]
)
def test_for_small_steps_the_mean_is_the_exact_policy_gradient(factorised: bool, tail: float | None) -> None:
    """As eta grows, eta times the mean tends to -(K - 1) / K of it; with tail 0 for parallel encoders alone."""
    toy = Toy(factorised, None if tail is None else LocalCredit(Reach(T, (T,), 1), tail))
    k, exact = 3, toy.policy_gradient()
    draws = every_draw(k)
    limits = []
    for eta in (1e4, 2e4):
        mean, _ = toy.moments(draws, toy.gradients(draws, toy.log_weights(draws, eta), 1 / k))
        limits.append(-(eta + BETA) * mean * k / (k - 1))
    limit = 2 * limits[1] - limits[0]  # the error of each is of order 1 / eta; what is left is of order 1 / eta^2
    if factorised or tail != 0.0:
        torch.testing.assert_close(limit, exact, rtol=1e-6, atol=1e-6)
    else:
        assert float((limit - exact).norm() / exact.norm()) > 0.02
