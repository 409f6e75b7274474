"""RLOO and VIMCO: their mean gradients over every draw are the exact ones of what they promise to ascend."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor

from builders import normal
from daps.architecture import Architecture
from daps.methods import RLOOConfig, VIMCOConfig
from daps.methods.reinforce import bound_without, leave_one_out, multi_sample_bound
from daps.methods.sampled import credit_part
from daps.objective import log_weights, policy_loss
from daps.scaling import Affine
from enumeration import assert_same, gradients_of, log_joint, mean_gradients, small

KINDS = pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
IMAGES = Architecture(
    num_tokens=4, vocab_size=2, width=8, heads=2, patches=(2, 2), decoder_kind="conv", decoder_grid=(2, 2),
    hidden=(4,), decoder_layers=0, variance=(0.1, 1.0), data_shape=(1, 4, 4),
)  # fmt: skip


@pytest.fixture
def datum() -> Tensor:
    return normal(1, 4, seed=1)


# -- RLOO ------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("trained", [0, 1])
def test_rloo_ascends_log_p_minus_beta_kl(
    kind: str, trained: int, datum: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 27 x 27 draws, for the gradients of encoder and decoder alike."""
    model = small(RLOOConfig(samples=2, trained=trained, beta_first=0.7, beta_last=0.7), kind)
    mean = mean_gradients(model, datum, 2, monkeypatch)
    log_p, log_q = log_joint(model, datum)
    kl = (log_q.exp() * log_q).sum() + 3 * math.log(3)
    assert_same(mean, gradients_of(model, -((log_q.exp() * log_p).sum() - 0.7 * kl)))


@KINDS
def test_local_credit_that_reaches_all_is_without_bias(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 16 x 16 draws. Every token answers for the whole image, but for the log q of tokens that it cannot change."""
    torch.manual_seed(0)
    config = RLOOConfig(samples=2, beta_first=0.3, beta_last=0.3, credit="local", reach=1)
    model = config.build(dataclasses.replace(IMAGES, encoder_kind=kind), Affine(), 10).double()
    x = normal(1, 1, 4, 4, seed=1)
    mean = mean_gradients(model, x, 2, monkeypatch)
    log_p, log_q = log_joint(model, x)
    assert_same(mean, gradients_of(model, -(log_q.exp() * (log_p - 0.3 * log_q)).sum()))


@KINDS
def test_daps_tends_to_rloo_as_its_trust_region_shrinks(kind: str) -> None:
    """The difference is of order 1 / eta, and so is nothing after extrapolation from two etas but order 1 / eta^2."""
    model, x = small(RLOOConfig(samples=6, beta_first=0.7, beta_last=0.7), kind), normal(5, 4, seed=1)
    torch.manual_seed(3)
    found = gradients_of(model, model(x, 0)[0])
    torch.manual_seed(3)
    codes, log_q = model.encoder.sample(x, 6)
    log_p, limits = model.decoder(codes).log_prob(x).detach(), []
    for eta in (1e5, 2e5):
        log_w = log_weights(log_p, log_q.sum(-1), eta, 0.7)
        step = gradients_of(model, policy_loss(log_w, model.encoder.log_prob(x, codes), 1 / 6))
        limits.append({name: g * (eta + 0.7) * 6 / 5 for name, g in step.items()})
    limit = {name: 2 * limits[1][name] - limits[0][name] for name in found if "encoder" in name}
    for name, gradient in limit.items():
        torch.testing.assert_close(gradient, found[name], rtol=1e-6, atol=1e-7)


def test_leave_one_out_takes_off_the_mean_of_the_others() -> None:
    returns = normal(4, 3, 2)
    for k in range(4):
        others = torch.cat([returns[:k], returns[k + 1 :]])
        torch.testing.assert_close(leave_one_out(returns)[k], returns[k] - others.mean(0))


@KINDS
def test_rloo_spends_the_decoders_gradient_on_as_many_samples_as_asked(kind: str) -> None:
    x, found = normal(5, 4, seed=1), {}
    for trained in (0, 2, 6):
        model = small(RLOOConfig(samples=6, trained=trained), kind)
        torch.manual_seed(3)
        found[trained] = gradients_of(model, model(x, 0)[0])
        torch.manual_seed(3)
        codes, _ = model.encoder.sample(x, 6)
        expected = gradients_of(model, -model.decoder(codes[: trained or 6]).log_prob(x).mean())
        assert_same(found[trained], expected, "decoder")
    assert_same(found[2], found[0], "encoder")


# -- VIMCO -----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_vimco_ascends_the_multi_sample_bound(
    kind: str, beta: float, datum: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 9^3 draws of three samples."""
    model = small(VIMCOConfig(samples=3, beta_first=beta, beta_last=beta), kind, tokens=2)
    mean = mean_gradients(model, datum, 3, monkeypatch)
    log_p, log_q = log_joint(model, datum)
    draws = torch.cartesian_prod(*[torch.arange(9)] * 3).T
    f = (log_p - beta * (log_q + 2 * math.log(3))).exp()
    bounds = f[draws].mean(0).log()
    assert_same(mean, gradients_of(model, -(log_q[draws].sum(0).exp() * bounds).sum()))


def test_the_bound_without_a_sample_has_the_geometric_mean_of_the_others_in_its_place() -> None:
    log_f = 20 * normal(4, 3)
    assert multi_sample_bound(log_f).numpy() == pytest.approx(np.log(np.exp(log_f.numpy()).mean(0)))
    for k, b in itertools.product(range(4), range(3)):
        others = [float(log_f[j, b]) for j in range(4) if j != k]
        expected = logsumexp([*others, sum(others) / 3]) - math.log(4)
        assert float(bound_without(log_f)[k, b]) == pytest.approx(expected, rel=1e-12)


def test_the_bound_stands_far_from_zero_in_float32() -> None:
    """Log-likelihoods of thousands of nats, whose differences are what counts."""
    log_f = torch.tensor([[-5000.0], [-5003.0], [-5001.0]])
    expected = bound_without(log_f.double() + 5000) - 5000
    torch.testing.assert_close(bound_without(log_f).double(), expected, rtol=0, atol=2e-3)


def test_the_bound_tightens_with_samples(datum: Tensor) -> None:
    """In the mean over all draws it lies between the ELBO and log p(x), nearer to log p(x) the more samples."""
    model = small(VIMCOConfig(), "autoregressive", tokens=2)
    log_p, log_q = (values.detach() for values in log_joint(model, datum))
    log_f, bounds = log_p - log_q - 2 * math.log(3), []
    for k in (1, 2, 3, 4):
        draws = torch.cartesian_prod(*[torch.arange(9)] * k).view(-1, k).T
        bounds.append(float(log_q[draws].sum(0).exp() @ multi_sample_bound(log_f[draws])))
    exact = float(torch.logsumexp(log_p, 0) - 2 * math.log(3))
    assert bounds[0] == pytest.approx(float(log_q.exp() @ log_f), rel=1e-12)
    assert bounds == sorted(bounds) and bounds[3] < exact
    assert exact - bounds[3] < 0.5 * (exact - bounds[0])


@KINDS
def test_the_bound_told_is_that_of_the_draws(kind: str) -> None:
    model, x = small(VIMCOConfig(samples=6, beta_first=0.4, beta_last=0.4), kind), normal(5, 4, seed=1)
    torch.manual_seed(3)
    metrics = model(x, 0)[1]
    torch.manual_seed(3)
    codes, log_q = model.encoder.sample(x, 6)
    log_f = (model.decoder(codes).log_prob(x) - 0.4 * (log_q.sum(-1) + 3 * math.log(3))).detach().numpy()
    assert float(metrics["bound"]) == pytest.approx(np.log(np.exp(log_f).mean(0)).mean(), rel=1e-12)
    weights = softmax(log_f, axis=0)
    assert float(metrics["ess"]) == pytest.approx((1 / (weights**2).sum(0)).mean(), rel=1e-9)


@KINDS
def test_vimcos_decoder_learns_from_a_few_by_their_weight(kind: str) -> None:
    x, found = normal(5, 4, seed=1), {}
    for trained in (0, 2):
        model = small(VIMCOConfig(samples=6, trained=trained), kind)
        torch.manual_seed(3)
        found[trained] = gradients_of(model, model(x, 0)[0])
    assert_same(found[2], found[0], "encoder")
    torch.manual_seed(3)
    codes, log_q = model.encoder.sample(x, 6)
    weights = (model.decoder(codes).log_prob(x) - log_q.sum(-1)).softmax(0)  # 6 x 5
    strata = ((torch.arange(2) + torch.rand(5, 2)) / 2).double()
    chosen = (strata.unsqueeze(-1) > weights.T.cumsum(-1).unsqueeze(1)).sum(-1)
    few = torch.stack([codes[chosen[:, n], torch.arange(5)] for n in range(2)])
    assert_same(found[2], gradients_of(model, -model.decoder(few).log_prob(x).mean()), "decoder")


# -- both ------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("config", [RLOOConfig(samples=6), VIMCOConfig(samples=6)], ids=["rloo", "vimco"])
def test_figures_are_those_of_the_draws(kind: str, config: Any) -> None:
    model, x = small(config, kind), normal(5, 4, seed=1)
    torch.manual_seed(3)
    _, metrics = model(x, 10)
    torch.manual_seed(3)
    codes, _ = model.encoder.sample(x, 6)
    log_p, kl = model.decoder(codes).log_prob(x).mean().item(), model.encoder.kl(x, codes).sum(-1).mean().item()
    assert float(metrics["log_p"]) == pytest.approx(log_p, rel=1e-12)
    assert float(metrics["kl"]) == pytest.approx(kl, rel=1e-9)
    assert float(metrics["elbo"]) == pytest.approx(log_p - kl, rel=1e-9)
    assert metrics["beta"] == pytest.approx(config.beta_last) and model.final_beta == config.beta_last
    assert not any(value.requires_grad for value in metrics.values() if isinstance(value, Tensor))


def test_local_credit_needs_a_grid() -> None:
    model = small(RLOOConfig(), "parallel")
    with pytest.raises(ValueError, match=r"method.credit: local credit needs a decoder whose tokens have places"):
        credit_part("local", 1, model.encoder, model.decoder)
    with pytest.raises(ValueError, match=r"method.credit: needs a daps.decoder.Decoder, got Linear"):
        credit_part("local", 1, model.encoder, torch.nn.Linear(1, 1))


@pytest.mark.parametrize("config", [RLOOConfig, VIMCOConfig])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, r"method.samples: K must be at least 2, to compare samples, got 1; try 16"),
        ({"trained": -1}, r"method.trained: must lie in 0..K = 16, got -1; 0 trains on all"),
        ({"trained": 17}, r"method.trained: must lie in 0..K = 16, got 17; 0 trains on all"),
        ({"beta_first": 0.0}, r"method: beta_first and beta_last must be > 0 and finite, got 0 and .*take 0.001"),
        ({"beta_last": math.inf}, r"method: beta_first and beta_last must be > 0 and finite, got .* and inf"),
        ({"beta_last": math.nan}, r"method: beta_first and beta_last must be > 0 and finite, got .* and nan"),
    ],
)
def test_settings_that_cannot_be(config: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_a_reach_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"method.reach: must be >= 0 tokens, got -1; 0 is a token's own cell"):
        small(RLOOConfig(reach=-1), "parallel")
