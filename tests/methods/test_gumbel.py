"""Gumbel-softmax and GR-MCK: noise against rejection, gradients against integrals, PyTorch and explicit formulas."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad_vec
from scipy.stats import kstest
from torch import Tensor

from builders import NETS, normal
from daps.encoder import AutoregressiveEncoder, Encoder, sample_tokens
from daps.methods import METHODS, Autoencoder, GRMCKConfig, Gumbel, GumbelConfig
from daps.methods.gumbel import RelaxedConfig, conditional_weights, relaxed_one_hots, softmax_gradient
from daps.scaling import Affine
from enumeration import assert_same, gradients_of, small

LOGITS = torch.tensor([0.3, -1.0, 0.8, -0.2], dtype=torch.float64)
SLOPES = torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64)
KINDS = pytest.mark.parametrize("kind", ["autoregressive", "parallel"])


@pytest.fixture
def datum() -> Tensor:
    return normal(2, 4, seed=1)


# -- the noise -------------------------------------------------------------------------------------


def gaps_by_rejection(log_q: Tensor, symbol: int, count: int) -> Tensor:
    """exp(u - u_z) of Gumbel-perturbed logits u, those kept whose argmax is z."""
    u = log_q - torch.empty(count, len(log_q), dtype=torch.float64).exponential_().log()
    return (u - u.amax(-1, keepdim=True)).exp()[u.argmax(-1) == symbol]


def gaps_given(q: Tensor, symbol: int, count: int) -> Tensor:
    """The same by `conditional_weights`."""
    noise = torch.empty(count, len(q), dtype=torch.float64).exponential_()
    return conditional_weights(q.expand(count, -1), torch.full((count,), symbol), noise)


@pytest.mark.parametrize("symbol", range(4))
def test_noise_given_the_code_is_that_of_rejection(symbol: int) -> None:
    """Every coordinate, and two functions of all: a hundred of the same size would find none this far."""
    torch.manual_seed(symbol)
    log_q = LOGITS.log_softmax(-1)
    kept = gaps_by_rejection(log_q, symbol, 80_000)
    drawn = gaps_given(log_q.exp(), symbol, len(kept))
    wrong = gaps_given(log_q.exp().roll(1), symbol, len(kept))
    assert bool((drawn[:, symbol] == 1).all()) and bool((drawn <= 1).all())
    for v in set(range(4)) - {symbol}:
        assert kstest(kept[:, v], drawn[:, v]).pvalue > 1e-3
    for joint in (lambda w: w.sum(-1), lambda w: w.topk(2).values[:, 1]):
        assert kstest(joint(kept), joint(drawn)).pvalue > 1e-3
        assert kstest(joint(kept), joint(wrong)).pvalue < 1e-9


def test_weights_are_finite_where_probabilities_are_not_far_from_zero_or_are_zero() -> None:
    q = torch.tensor([0.0, 1e-38, 1e-20, 1.0])
    tiny = torch.finfo(torch.float32).tiny
    for noise in (torch.ones(4), torch.full((4,), tiny), torch.tensor([tiny, 80.0, tiny, 80.0])):
        for symbol in (1, 2, 3):
            weights = conditional_weights(q, torch.tensor(symbol), noise)
            assert bool(weights.isfinite().all()) and weights[symbol] == 1 and weights[0] == 0
            assert bool(((weights >= 0) & (weights <= 1)).all())
            assert bool(softmax_gradient(weights, torch.ones(4), 0.5).abs().max() < 1e-5)


# -- the gradient of a relaxed one-hot -------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_softmaxes_gradient_agrees_with_finite_differences(temperature: float) -> None:
    u, step = normal(4, seed=3), 1e-6

    def value(u: Tensor) -> float:
        return float((u / temperature).softmax(-1) @ SLOPES)

    found = softmax_gradient(7 * u.exp(), SLOPES, temperature)
    for v in range(4):
        shift = step * F.one_hot(torch.tensor(v), 4)
        assert float(found[v]) == pytest.approx((value(u + shift) - value(u - shift)) / (2 * step), rel=1e-7, abs=1e-9)


def explicit(logits: Tensor, codes: Tensor, temperature: float, inner: int, through: bool) -> Tensor:
    """Straight-through mean of softmaxes as Paulus et al. write their noise (eq. 10), by autograd."""
    seed = int(torch.randint(2**63 - 1, ()))
    generator, relaxed = torch.Generator().manual_seed(seed), []
    drawn = F.one_hot(codes, logits.shape[-1]).bool()
    for _ in range(inner):
        e = torch.empty(logits.shape, dtype=logits.dtype).exponential_(generator=generator)
        chosen, total = e[drawn].view(*codes.shape, 1), logits.exp().sum(-1, keepdim=True)
        u = torch.where(drawn, total.log() - chosen.log(), -(e / logits.exp() + chosen / total).log())
        assert torch.equal(u.argmax(-1), codes)
        noise = u - logits
        relaxed.append(((logits + (noise if through else noise.detach())) / temperature).softmax(-1))
    soft = torch.stack(relaxed).mean(0)
    return drawn.to(soft.dtype) + soft - soft.detach()


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize(("temperature", "inner"), [(1.0, 1), (0.6, 3), (2.0, 10)])
def test_one_hots_have_the_gradient_of_the_formulas(temperature: float, inner: int, through: bool) -> None:
    logits, slopes = (2 * normal(5, 3, 4)).requires_grad_(), normal(5, 3, 4, seed=2)
    codes = torch.arange(15).view(5, 3) % 4
    found = []
    for ours in (True, False):
        torch.manual_seed(7)
        if ours:
            one_hots = relaxed_one_hots(logits.log_softmax(-1), codes, temperature, inner, through)
            assert torch.equal(one_hots, F.one_hot(codes, 4).double())
        else:
            one_hots = explicit(logits, codes, temperature, inner, through)
        found.append(torch.autograd.grad((one_hots * slopes).sum() + (one_hots**2).sum(), logits)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-13)
    assert float(found[0].abs().max()) > 0.05


def test_each_call_draws_its_own_noise_and_the_same_seed_the_same() -> None:
    log_q, codes = normal(6, 4).log_softmax(-1).requires_grad_(), torch.zeros(6, dtype=torch.long)

    def slope() -> Tensor:
        return torch.autograd.grad((relaxed_one_hots(log_q, codes, 1.0) * SLOPES).sum(), log_q)[0]

    torch.manual_seed(1)
    one, other = slope(), slope()
    torch.manual_seed(1)
    assert torch.equal(slope(), one) and not torch.equal(one, other)


def test_inner_samples_take_no_memory() -> None:
    """Bytes that the forward pass keeps for the backward pass."""

    def kept(inner: int) -> int:
        log_q, sizes = normal(50, 20, 4).log_softmax(-1).requires_grad_(), []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            relaxed_one_hots(log_q, torch.zeros(50, 20, dtype=torch.long), 1.0, inner).sum().backward()
        return sum(sizes)

    assert 0 < kept(100) == kept(1)


# -- mean and variance over draws ------------------------------------------------------------------


def exact_mean(q: np.ndarray, slopes: np.ndarray, temperature: float) -> np.ndarray:
    """E[(s * a - s (s . a)) / temperature] for three symbols, s = softmax((log q + g) / temperature), by quadrature.

    s depends on the ratios of e = exp(-g) alone, and e / sum e is uniform on the simplex.
    """

    def slope(a: float, b: float) -> np.ndarray:
        e = np.array([a, (1 - a) * b, (1 - a) * (1 - b)])
        weights = (q * e.min() / e) ** (1 / temperature)
        s = weights / weights.sum()
        return 2 * (1 - a) * (s * slopes - s * (s @ slopes)) / temperature

    def inner(a: float) -> np.ndarray:
        return np.asarray(quad_vec(lambda b: slope(a, b), 1e-12, 1 - 1e-12, epsabs=1e-7, epsrel=1e-7)[0])

    return np.asarray(quad_vec(inner, 1e-12, 1 - 1e-12, epsabs=1e-6, epsrel=1e-6)[0])


def drawn_gradients(
    logits: Tensor, slopes: Tensor, count: int, temperature: float, inner: int, through: bool = False
) -> Tensor:
    """Gradients on the logits of that many draws, codes and noise: [count, V]."""
    rows = logits.expand(count, -1).clone().requires_grad_()
    codes = torch.distributions.Categorical(logits=rows.detach()).sample()
    one_hots = relaxed_one_hots(rows.log_softmax(-1), codes, temperature, inner, through)
    return torch.autograd.grad((one_hots * slopes).sum(), rows)[0]


def errors(found: Tensor) -> Tensor:
    """Standard errors of the mean over draws."""
    return found.std(0) / len(found) ** 0.5


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("inner", [1, 8])
def test_the_mean_is_the_integral(temperature: float, inner: int) -> None:
    torch.manual_seed(0)
    logits, slopes = LOGITS[:3], SLOPES[:3]
    truth = torch.from_numpy(exact_mean(logits.softmax(-1).numpy(), slopes.numpy(), temperature))
    found = drawn_gradients(logits, slopes, 100_000, temperature, inner)
    assert bool(((found.mean(0) - truth).abs() < 4 * errors(found)).all())
    assert float((errors(found) / truth.abs()).min()) < 0.01  # so that a small bias would show
    if inner > 1:
        biased = drawn_gradients(logits, slopes, 100_000, temperature, inner, through=True)
        assert float(biased.mean(0).norm() / truth.norm()) < 1 / 1.5
        assert float(((biased.mean(0) - truth).abs() / errors(biased)).max()) > 50


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_one_inner_sample_is_pytorchs_gumbel_softmax(temperature: float) -> None:
    """In distribution: every coordinate of the gradient, and a mixture of all."""
    torch.manual_seed(0)
    ours = drawn_gradients(LOGITS, SLOPES, 40_000, temperature, 1)
    rows = LOGITS.expand(40_000, -1).clone().requires_grad_()
    theirs = torch.autograd.grad((F.gumbel_softmax(rows, temperature, hard=True) * SLOPES).sum(), rows)[0]
    for view in (torch.eye(4, dtype=torch.float64), normal(3, 4)):
        for one, other in zip((ours @ view.T).T, (theirs @ view.T).T, strict=True):
            assert kstest(one, other).pvalue > 1e-3
    assert kstest(ours[:, 0], drawn_gradients(LOGITS, SLOPES, 40_000, temperature, 2)[:, 0]).pvalue < 1e-9


def test_more_inner_samples_have_the_same_mean_and_less_variance() -> None:
    """Var = Var E[.|z] + E Var[.|z] / S is linear in 1 / S."""
    torch.manual_seed(0)
    found = {inner: drawn_gradients(LOGITS, SLOPES, 100_000, 1.0, inner) for inner in (1, 2, 16)}
    for inner in (2, 16):
        gap = (found[inner].mean(0) - found[1].mean(0)).abs()
        assert bool((gap < 4 * (errors(found[inner]) ** 2 + errors(found[1]) ** 2).sqrt()).all())
    one, two, many = (found[inner].var(0) for inner in (1, 2, 16))
    assert bool((two < 0.8 * one).all()) and bool((many < 0.8 * two).all())
    torch.testing.assert_close((one - many) / (one - two), torch.full((4,), 15 / 8).double(), rtol=0.1, atol=0)


# -- the method ------------------------------------------------------------------------------------


def explicit_loss(model: Gumbel, x: Tensor, step: int, inner: int, through: bool) -> Tensor:
    """The loss from its definition, from the same random numbers: no cache, no custom backward."""
    config, encoder, y = model.config, model.encoder, model.scaling(x)
    k, share = config.samples, step / model.steps
    beta = config.beta_first ** (1 - share) * config.beta_last**share
    temperature = config.temperature_first ** (1 - share) * config.temperature_last**share
    if config.through_inputs and isinstance(encoder, AutoregressiveEncoder):
        context, table = encoder.trunk(y).repeat_interleave(k, 0), encoder.embedding.weight
        chosen: list[Tensor] = []
        scores: list[Tensor] = []
        for t in range(encoder.num_tokens):
            h = torch.stack([table[-1].expand(len(context), -1), *[one_hot @ table[:-1] for one_hot in chosen]], 1)
            h = h + encoder.positions[: t + 1]
            for block in encoder.blocks:
                h = block(h, causal=1, memory=block.memory(context))
            scores.append(encoder.head(encoder.norm(h[:, t])))
            codes = sample_tokens(scores[-1].unsqueeze(1), 1)[0][0]
            chosen.append(explicit(scores[-1].unsqueeze(1), codes, temperature, inner, through)[:, 0])
        one_hots, logits = (torch.stack(v, 1).unflatten(0, (-1, k)).transpose(0, 1) for v in (chosen, scores))
    else:
        codes, _ = encoder.sample(y, k)
        logits = encoder.logits(y, codes).expand(*codes.shape, -1)
        one_hots = explicit(logits, codes, temperature, inner, through)
    log_q = logits.log_softmax(-1)
    kl = (log_q.exp() * (log_q + math.log(model.vocab_size))).sum((-2, -1))
    return (beta * kl - model.decoder(one_hots).log_prob(y)).mean()


METHOD_CASES: dict[str, tuple[RelaxedConfig, int, bool]] = {
    "gumbel": (GumbelConfig(samples=2, temperature_last=0.5), 1, False),
    "gumbel, codes given": (GumbelConfig(samples=2, through_inputs=False), 1, False),
    "grmck": (GRMCKConfig(temperature_last=0.75, inner_samples=3), 3, False),
    "grmck through noise": (GRMCKConfig(inner_samples=2, through_noise=True), 2, True),
}


@KINDS
@pytest.mark.parametrize("case", METHOD_CASES)
def test_loss_and_gradients_are_those_of_the_definition(case: str, kind: str, datum: Tensor) -> None:
    config, inner, through = METHOD_CASES[case]
    model = small(config, kind)
    assert isinstance(model, Gumbel)
    torch.manual_seed(3)
    loss, _ = model(datum, 4)
    found = gradients_of(model, loss)
    torch.manual_seed(3)
    expected = explicit_loss(model, datum, 4, inner, through)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same(found, gradients_of(model, expected))


def encoder_gradients(config: RelaxedConfig, kind: str, x: Tensor, count: int) -> Tensor:
    """Of that many steps from different seeds: [count, parameters]."""
    model, rows = small(config, kind), []
    for seed in range(count):
        torch.manual_seed(seed)
        found = gradients_of(model, model(x, 0)[0])
        rows.append(torch.cat([g.flatten() for name, g in found.items() if name.startswith("encoder")]))
    return torch.stack(rows)


@KINDS
def test_rao_blackwellised_gradients_of_the_encoder_have_the_same_mean_and_less_variance(
    kind: str, datum: Tensor
) -> None:
    """Through chains of tokens, too; of some 1,000 parameters each within 5.5 standard errors."""
    plain = encoder_gradients(GumbelConfig(samples=64), kind, datum, 150)
    averaged = encoder_gradients(GRMCKConfig(samples=64, inner_samples=8), kind, datum, 150)
    moving = plain.std(0) > 1e-9
    gap = (plain.mean(0) - averaged.mean(0)).abs() / (errors(plain) ** 2 + errors(averaged) ** 2).sqrt()
    assert int(moving.sum()) > 300 and float(gap[moving].max()) < 5.5
    assert float(averaged.var(0).sum()) < 0.75 * float(plain.var(0).sum())
    biased = encoder_gradients(GRMCKConfig(samples=64, inner_samples=8, through_noise=True), kind, datum, 150)
    gap = (plain.mean(0) - biased.mean(0)).abs() / (errors(plain) ** 2 + errors(biased) ** 2).sqrt()
    assert float(gap[moving].max()) > 8  # so that the check above can fail


@KINDS
@pytest.mark.parametrize("config", [GumbelConfig(samples=6, temperature_last=0.5), GRMCKConfig(samples=6)])
def test_figures_are_those_of_the_draws(kind: str, config: RelaxedConfig) -> None:
    x = normal(5, 4, seed=1)
    model = small(dataclasses.replace(config, through_inputs=False), kind)
    torch.manual_seed(3)
    _, metrics = model(x, 10)
    torch.manual_seed(3)
    codes, _ = model.encoder.sample(x, 6)
    log_p, kl = model.decoder(codes).log_prob(x).mean().item(), model.encoder.kl(x, codes).sum(-1).mean().item()
    assert float(metrics["log_p"]) == pytest.approx(log_p, rel=1e-12)
    assert float(metrics["kl"]) == pytest.approx(kl, rel=1e-9)
    assert float(metrics["elbo"]) == pytest.approx(log_p - kl, rel=1e-9)
    assert metrics["beta"] == pytest.approx(config.beta_last) and model.final_beta == config.beta_last
    assert metrics["temperature"] == pytest.approx(config.temperature_last)
    assert not any(value.requires_grad for value in metrics.values() if isinstance(value, Tensor))


@KINDS
@pytest.mark.parametrize("structure", ["free", "lattice"])
@pytest.mark.parametrize("method", ["gumbel", "grmck"])
def test_it_learns_four_data(method: str, structure: Any, kind: str) -> None:
    torch.manual_seed(1)
    nets = dataclasses.replace(NETS, variance=(0.01, 0.01), structure=structure, encoder_kind=kind)
    model = METHODS[method]().build(nets, Affine(), steps=400)
    x = torch.randn(4, 6)
    batch = x.repeat(16, 1)  # one draw a datum is noise enough to leave two data on one code for good
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(400):
        optimizer.zero_grad()
        model(batch, step)[0].backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        optimizer.step()
    model.eval()
    error = ((model.decode(model.encode(x)).mean - x) ** 2).sum()
    # Two data left on one code are a local optimum of biased gradients, three or four on one are not.
    assert len(model.encode(x).unique(dim=0)) >= 3
    assert error < 0.25 * ((x - x.mean(0)) ** 2).sum()


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [GumbelConfig, GRMCKConfig])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, r"method.samples: K must be at least 1, got 0; 1 is usual"),
        ({"temperature_first": 0.0}, r"method.temperature_first: must be > 0 and finite, got 0; try 1"),
        ({"temperature_last": math.inf}, r"method.temperature_last: must be > 0 and finite, got inf; try 1"),
        ({"beta_first": -1.0}, r"method.beta_first: must be > 0 and finite, got -1; try 0.5"),
        ({"beta_last": math.nan}, r"method.beta_last: must be > 0 and finite, got nan; try 0.01"),
    ],
)
def test_settings_that_cannot_be(config: type[RelaxedConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_no_inner_sample_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"method.inner_samples: must be >= 1, got 0; the paper takes 100 or 10"):
        GRMCKConfig(inner_samples=0)


class Wrapped(Encoder):
    """An encoder of the user's own, which depends on its prefix but cannot be unrolled."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__()
        self.inner, self.num_tokens, self.vocab_size = inner, inner.num_tokens, inner.vocab_size

    def sample(self, *args: Any, **named: Any) -> tuple[Tensor, Tensor]:
        return self.inner.sample(*args, **named)

    def logits(self, x: Tensor, codes: Tensor) -> Tensor:
        return self.inner.logits(x, codes)


def test_an_encoder_of_ones_own_takes_codes_as_given(datum: Tensor) -> None:
    ours: Autoencoder = small(GumbelConfig(through_inputs=False), "autoregressive")
    wrapped = Wrapped(ours.encoder)
    with pytest.raises(
        ValueError, match=r"method.through_inputs: needs a daps.encoder.AutoregressiveEncoder, got Wrap"
    ):
        Gumbel(wrapped, ours.decoder, (4,), Affine(), GumbelConfig(), steps=10)
    other = Gumbel(wrapped, ours.decoder, (4,), Affine(), GumbelConfig(through_inputs=False), steps=10).double()
    losses = []
    for model in (ours, other):
        torch.manual_seed(3)
        losses.append(model(datum, 0)[0].item())
    assert losses[0] == losses[1]
