"""DAPS' options: each trains every parameter, and its step is that put together by hand."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from builders import CONFIG, STEPS, K, build, gradients, normal, rollout
from daps.architecture import Architecture
from daps.methods import DAPS
from daps.methods.daps import Parts
from daps.proposal import Searched
from daps.rate import RateController
from daps.scaling import Affine
from daps.schedules import Constant
from daps.selection import resample

IMAGES = Architecture(
    num_tokens=4, vocab_size=5, width=8, heads=2, patches=(2, 2), decoder_kind="conv", decoder_grid=(2, 2),
    hidden=(4,), decoder_layers=1, variance=(0.1, 1.0), data_shape=(1, 4, 4),
)  # fmt: skip
FULL = {"fullness": 0.5, "fullness_first": 0.0, "fullness_last": 0.1}
OPTIONS: dict[str, dict[str, Any]] = {
    "trained": {"trained": 2},
    "the decoder on samples as drawn": {"trained": 2, "decoder_samples": "drawn"},
    "centred": {"centred": True},
    "local": {"credit": "local", "reach": 0},
    "local with a tail": {"credit": "local", "tail": 1.0},
    "fullness": FULL,
    "sweeps": {"sweeps": 1},
    "critic": {"critic": 0.1},
    "rate": {"rate": 4.0},
    "few by local credit": {"trained": 2, "credit": "local"},
    "few with a critic": {"trained": 2, "critic": 0.1},
    "all of them": {**FULL, "trained": 2, "credit": "local", "sweeps": 1, "critic": 0.1, "rate": 4.0},
}


def build_images(kind: str, **changes: Any) -> DAPS:
    """A small model of images in float64, whose decoder is local."""
    torch.manual_seed(0)
    nets = dataclasses.replace(IMAGES, encoder_kind=kind)
    return dataclasses.replace(CONFIG, **changes).build(nets, Affine(), STEPS).double()


@pytest.fixture
def images() -> Tensor:
    return normal(5, 1, 4, 4, seed=1)


@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_trains_every_parameter(kind: str, option: str, images: Tensor) -> None:
    model = build_images(kind, **OPTIONS[option])
    loss, metrics = model(images, 2)
    loss.backward()
    assert loss.isfinite() and all(math.isfinite(float(value)) for value in metrics.values())
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()), name


def weighted(model: DAPS, y: Tensor, codes: Tensor, weights: Tensor, decoded: Tensor) -> list[Tensor]:
    """Gradients of every parameter, from weights of codes [K, B] or [K, B, T] and the codes that are decoded."""
    model.zero_grad()
    log_q = model.encoder.log_prob(y, codes)
    if weights.ndim == 2:
        log_q = log_q.sum(-1)
    (-(weights * log_q).sum() / codes.shape[1]).backward()
    (-model.decoder(decoded).log_prob(y).mean()).backward()
    return gradients(model.encoder) + gradients(model.decoder)


def step_and_draws(model: DAPS, x: Tensor) -> tuple[list[Tensor], float, float, tuple[Tensor, ...]]:
    """Gradients of a step, its eta and beta, and what it drew: data, codes, log q per token, log p."""
    torch.manual_seed(7)
    loss, metrics = model(x, 2)
    loss.backward()
    found = gradients(model.encoder) + gradients(model.decoder)
    y = model.scaling(x)
    torch.manual_seed(7)
    codes, log_q = model.encoder.sample(y, K)
    draws = y, codes, log_q, model.decoder(codes).log_prob(y).detach()
    return found, float(metrics["eta"]), float(metrics["beta"]), draws


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """To float64's rounding over some thousand terms."""
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("source", ["resampled", "drawn"])
@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
def test_trained_takes_few_for_the_decoder_and_for_an_encoder_that_pays_per_sample(
    kind: str, source: str, x: Tensor
) -> None:
    model = build(kind, trained=2, decoder_samples=source)
    found, eta, beta, (y, codes, log_q, reward) = step_and_draws(model, x)
    log_w = ((reward - beta * log_q.sum(-1)) / (eta + beta)).log_softmax(0)
    chosen = resample(log_w, 2).chosen  # goes on where the draws stopped
    few = torch.stack([codes[chosen[n], torch.arange(5)] for n in range(2)])
    decoded = few if source == "resampled" else codes[:2]
    if kind == "parallel":
        assert_same(found, weighted(model, y, codes, log_w.exp(), decoded))
    else:
        assert_same(found, weighted(model, y, few, torch.full((2, 5), 0.5), decoded))


@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
def test_centred_takes_the_mean_off_the_weights(kind: str, x: Tensor) -> None:
    model = build(kind, centred=True)
    found, eta, beta, (y, codes, log_q, reward) = step_and_draws(model, x)
    weights = ((reward - beta * log_q.sum(-1)) / (eta + beta)).softmax(0)
    assert_same(found, weighted(model, y, codes, weights - 1 / K, codes))


@pytest.mark.parametrize("tail", [0.0, 1.0])
def test_local_credit_weighs_every_token_by_its_own_cell(tail: float, images: Tensor) -> None:
    model = build_images("autoregressive", credit="local", reach=0, tail=tail)
    found, eta, beta, (y, codes, log_q, _) = step_and_draws(model, images)
    pixels = model.decoder(codes).base_dist.log_prob(y).detach()[:, :, 0]  # K B H W
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    cells = torch.stack([pixels[..., r : r + 2, c : c + 2].sum((-1, -2)) for r, c in corners], -1)
    scores = cells - beta * log_q
    returns = torch.stack([scores[..., t] + tail * scores[..., t + 1 :].sum(-1) for t in range(4)], -1)
    assert_same(found, weighted(model, y, codes, (returns / (eta + beta)).softmax(0), codes))


def test_fullness_rewards_rare_symbols_and_then_counts_them(x: Tensor) -> None:
    model = build(fullness=0.5, fullness_first=0.0, fullness_last=0.4)  # steps 0 to 4: half on at step 2
    frequency = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(-1)
    model.rarity.frequency.copy_(frequency)
    found, eta, beta, (y, codes, log_q, log_p) = step_and_draws(model, x)
    bonus = sum(-0.25 * frequency[t].log()[codes[..., t]] for t in range(3))
    weights = ((log_p + bonus - beta * log_q.sum(-1)) / (eta + beta)).softmax(0)
    assert_same(found, weighted(model, y, codes, weights, codes))
    assert not torch.equal(model.rarity.frequency, frequency)


def test_sweeps_learn_from_codes_of_higher_likelihood(x: Tensor) -> None:
    figures = []
    for sweeps in (0, 1, 3):
        torch.manual_seed(7)
        figures.append(float(build(sweeps=sweeps)(x, 0)[1]["log_p"]))
    assert figures[0] < figures[1] - 0.01 and figures[1] <= figures[2]


@pytest.mark.parametrize(("bits", "sign"), [(0.01, 1), (6.0, -1)])
def test_rate_moves_beta_towards_the_bits_asked_for(bits: float, sign: int, x: Tensor) -> None:
    model = build(rate=bits, rate_gain=0.1)
    figures = [model(x, step)[1] for step in range(3)]
    betas = [float(row["beta"]) for row in figures]
    assert betas[0] == pytest.approx(0.4, rel=1e-6)
    changes = [math.log(b / a) for a, b in itertools.pairwise(betas)]
    errors = [max(-1.0, min(1.0, float(row["kl"]) / (bits * math.log(2)) - 1)) for row in figures[:2]]
    assert changes == pytest.approx([0.1 * error for error in errors], rel=1e-5)
    assert all(change * sign > 0 for change in changes)


@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
def test_critic_adds_the_cross_entropy_to_the_first_order_policy(kind: str, x: Tensor) -> None:
    """Its gains by the derivative to one-hot codes, its temperature by brentq."""
    losses = []
    for critic in (0.0, 0.1):
        torch.manual_seed(7)
        model = build(kind, critic=critic)
        torch.manual_seed(7)
        loss, metrics = model(x, 2)
        losses.append(loss.item())
    y, codes, log_q, reward = rollout(model, x, 7)
    beta = float(metrics["beta"])
    weights = ((reward - beta * log_q) / (float(metrics["eta"]) + beta)).softmax(0)[..., None, None]
    one_hots = torch.nn.functional.one_hot(codes, 4).double().requires_grad_()
    (slope,) = torch.autograd.grad(model.decoder(one_hots).log_prob(y).sum(), one_hots)
    gain = slope - slope.gather(-1, codes.unsqueeze(-1))
    if kind == "parallel":  # one distribution for all samples, and one target
        gain, weights = (weights * gain).sum(0, keepdim=True), torch.ones(1, 1, 1, 1)
    q = model.encoder.logits(y, codes).log_softmax(-1).detach()

    def policy(log_tau: float) -> Tensor:
        return (q + (gain - beta * q) / math.exp(log_tau)).log_softmax(-1)

    def distance(log_tau: float) -> float:
        return float((policy(log_tau).exp() * (policy(log_tau) - q)).sum(-1).mean())

    target = policy(brentq(lambda log_tau: distance(log_tau) - 0.1, math.log(beta), 15, xtol=1e-14)).exp()
    expected = -(weights * target * q).sum((0, 2, 3)).mean()
    assert losses[1] - losses[0] == pytest.approx(expected.item(), rel=1e-6)  # 30 halvings of the bracket


@pytest.mark.parametrize("changes", [{"trained": 2}, {"sweeps": 1}])
def test_centred_refuses_samples_that_are_not_the_encoders(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"method\.centred: holds for all K samples"):
        build("autoregressive", centred=True, **changes)
    if "trained" in changes:
        build("parallel", centred=True, **changes)  # trains its encoder on all K


def test_the_beta_reported_under_a_rate_is_the_one_reached() -> None:
    model = build(rate=4.0, beta_first=0.4)
    assert isinstance(model.beta, RateController)
    model.beta.log_beta.fill_(math.log(0.2))
    assert model.final_beta == pytest.approx(0.2)


def test_kl_is_that_of_the_encoder_not_of_the_search(x: Tensor) -> None:
    figures = []
    for sweeps in (0, 2):
        torch.manual_seed(3)
        figures.append(float(build(sweeps=sweeps)(x, 0)[1]["kl"]))
    assert figures[0] == figures[1]


@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
@pytest.mark.parametrize("option", ["trained", "local"])
def test_a_datum_that_is_not_finite_makes_the_loss_so_and_no_crash(kind: str, option: str, images: Tensor) -> None:
    model = build_images(kind, trained=2, credit="local" if option == "local" else "sequence")
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(math.nan)
    assert not bool(model(images, 0)[0].isfinite())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 1000.0}, r"method\.rate: 3 tokens of 4 symbols carry 6 bits, got 1000"),
        ({"rate": 4.0, "rate_gain": 0.0}, r"method\.rate_gain: must lie in \(0, 1\], got 0"),
        ({"rate": 4.0, "beta_first": 5000.0}, r"method\.beta_first: a rate keeps beta in \[0\.0001, 1000\], got 5000"),
        ({"tail": 1.0}, r"method\.tail: belongs to local credit, got 1 with credit = sequence"),
    ],
)
def test_settings_that_would_do_nothing(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_parts_of_your_own_take_the_place_of_the_settings(x: Tensor) -> None:
    plain = build()
    own = Parts(beta=Constant(0.25), proposal=Searched(1))
    model = DAPS(plain.encoder, plain.decoder, plain.data_shape, plain.scaling, CONFIG, steps=STEPS, parts=own).double()
    assert model.final_beta == 0.25 and model(x, 3)[1]["beta"] == 0.25
    centred = dataclasses.replace(CONFIG, centred=True)
    with pytest.raises(ValueError, match="holds for all K samples"):
        DAPS(plain.encoder, plain.decoder, plain.data_shape, None, centred, steps=STEPS, parts=own)
