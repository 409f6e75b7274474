"""Reweighted wake-sleep: its weights are the posterior's, its gradients those put together by hand."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy.special import softmax
from torch import Tensor

from builders import normal
from daps.architecture import Architecture
from daps.methods import DAPSConfig, RWSConfig
from daps.objective import log_weights
from daps.scaling import Affine
from daps.schedules import Exponential
from enumeration import STEPS, assert_same, draw_these, every_code, gradients_of, log_joint, small

KINDS = pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
PRIOR = -3 * math.log(3)  # log p(z) of the small model


@pytest.fixture
def x() -> Tensor:
    return normal(5, 4, seed=1)


@KINDS
def test_the_wake_phase_is_the_one_put_together_by_hand(kind: str, x: Tensor) -> None:
    """Weights p(x, z) / q(z|x), normalised over the samples, times log q and log p(x, z)."""
    model = small(RWSConfig(samples=6), kind)
    torch.manual_seed(3)
    loss, metrics = model(x, 0)
    found = gradients_of(model, loss)
    torch.manual_seed(3)
    codes, log_q = model.encoder.sample(x, 6)
    log_q, log_p = log_q.sum(-1), model.decoder(codes).log_prob(x).detach()
    weights = torch.tensor(softmax((log_p + PRIOR - log_q).numpy(), axis=0))
    learned = model.encoder.log_prob(x, codes).sum(-1) + model.decoder(codes).log_prob(x) + PRIOR
    assert_same(found, gradients_of(model, -(weights * learned).sum() / 5))
    assert float(metrics["ess"]) == pytest.approx(float((1 / (weights**2).sum(0)).mean()), rel=1e-9)
    assert model.final_beta == 1


@KINDS
def test_with_every_code_once_the_wake_phase_follows_the_exact_posterior(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoder: the gradient of log p(x). Encoder: that of KL(posterior || q). The codes count as drawn uniformly."""
    model, x = small(RWSConfig(samples=27), kind), normal(1, 4, seed=1)
    codes = every_code(model).unsqueeze(1)
    draw_these(monkeypatch, codes, torch.full(codes.shape, -math.log(3), dtype=torch.float64))
    found = gradients_of(model, model(x, 0)[0])
    log_p, log_q = log_joint(model, x)
    evidence = torch.logsumexp(log_p + PRIOR, 0)
    posterior = (log_p + PRIOR - evidence).exp().detach()
    assert_same(found, gradients_of(model, -evidence - (posterior * log_q).sum()))


@KINDS
def test_beta_is_the_posterior_of_the_tempered_likelihood(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best policy for E_q[log p] - beta KL."""
    model, x = small(RWSConfig(samples=27, beta_first=0.2, beta_last=0.2), kind), normal(1, 4, seed=1)
    codes = every_code(model).unsqueeze(1)
    draw_these(monkeypatch, codes, torch.full(codes.shape, -math.log(3), dtype=torch.float64))
    found = gradients_of(model, model(x, 0)[0])
    log_p, log_q = log_joint(model, x)
    best = (log_p / 0.2).softmax(0).detach()
    assert_same(found, gradients_of(model, -(best * (log_q + log_p)).sum()))


@KINDS
def test_the_encoders_update_is_daps_without_a_trust_region_at_beta_one(kind: str, x: Tensor) -> None:
    """eta = 0 where the effective sample size is slack, beta = 1: as functions, and as steps of the two methods."""
    log_p, log_q = 30 * normal(8, 5), 3 * normal(8, 5, seed=1)
    joint = log_p + PRIOR - log_q
    torch.testing.assert_close(log_weights(log_p, log_q, 0.0, 1.0), joint - joint.logsumexp(0), rtol=1e-12, atol=1e-12)

    daps = small(DAPSConfig(samples=6, ess_fraction=1.001 / 6, beta_first=1.0, beta_last=1.0), kind)
    rws = small(RWSConfig(samples=6), kind)
    rws.load_state_dict({name: value for name, value in daps.state_dict().items() if name != "log_eta"})
    steps = {}
    for name, model in (("daps", daps), ("rws", rws)):
        torch.manual_seed(3)
        loss, metrics = model(x, 0)
        steps[name] = gradients_of(model, loss)
        assert name == "rws" or float(metrics["eta"]) == 0
    assert_same(steps["rws"], steps["daps"], "encoder")


@KINDS
def test_the_decoder_learns_from_a_few_by_their_weight(kind: str, x: Tensor) -> None:
    found = {}
    for trained in (0, 2):
        model = small(RWSConfig(samples=6, trained=trained), kind)
        torch.manual_seed(3)
        found[trained] = gradients_of(model, model(x, 0)[0])
    assert_same(found[2], found[0], "encoder")
    torch.manual_seed(3)
    codes, log_q = model.encoder.sample(x, 6)
    weights = (model.decoder(codes).log_prob(x) - log_q.sum(-1)).softmax(0)
    strata = ((torch.arange(2) + torch.rand(5, 2)) / 2).double()
    chosen = (strata.unsqueeze(-1) > weights.T.cumsum(-1).unsqueeze(1)).sum(-1)
    few = torch.stack([codes[chosen[:, n], torch.arange(5)] for n in range(2)])
    assert_same(found[2], gradients_of(model, -model.decoder(few).log_prob(x).mean()), "decoder")


# -- sleep -----------------------------------------------------------------------------------------


@KINDS
def test_sleep_fits_the_encoder_to_dreams(kind: str, x: Tensor) -> None:
    """Codes from the prior, data from the decoder; the decoder's gradient stays that of the wake phase."""
    found = {}
    for sleep in (0.0, 0.7):
        model = small(RWSConfig(samples=6, sleep=sleep), kind)
        torch.manual_seed(3)
        loss, metrics = model(x, 0)
        found[sleep] = gradients_of(model, loss)
    assert_same(found[0.7], found[0.0], "decoder")
    torch.manual_seed(3)
    model.encoder.sample(x, 6)
    codes = torch.randint(3, (1, 5, 3))
    dreams = model.decoder(codes).sample()[0]
    log_q = model.encoder.log_prob(dreams, codes).sum(-1).mean()
    dreamt = gradients_of(model, -log_q)
    expected = {name: found[0.0][name] + 0.7 * dreamt[name] for name in dreamt}
    assert_same(found[0.7], expected, "encoder")
    assert float(metrics["sleep_log_q"]) == pytest.approx(log_q.item(), rel=1e-12)


def test_dreams_are_of_all_codes_alike_and_as_the_decoder_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frequencies within four standard errors; means of the data given each code likewise."""
    model, seen = small(RWSConfig(samples=2, sleep=1.0), "parallel", tokens=2), []
    log_prob = model.encoder.log_prob
    monkeypatch.setattr(model.encoder, "log_prob", lambda y, codes: seen.append((y, codes)) or log_prob(y, codes))
    torch.manual_seed(0)
    model(normal(9_000, 4), 0)
    ((dreams, codes),) = seen
    assert not dreams.requires_grad
    numbers = codes[0] @ torch.tensor([3, 1])
    counts = torch.bincount(numbers, minlength=9)
    assert len(counts) == 9 and bool(((counts - 1000).abs() < 4 * math.sqrt(1000 * 8 / 9)).all())
    for number, code in enumerate(every_code(model)):
        p = model.decoder(code.unsqueeze(0))
        error = dreams[numbers == number].mean(0) - p.mean[0]
        assert bool((error.abs() < 4 * p.stddev[0] / math.sqrt(int(counts[number]))).all())


def test_dreams_leave_batch_statistics_alone() -> None:
    nets = Architecture(
        num_tokens=4, vocab_size=3, width=8, heads=2, patches=(2, 2), decoder_kind="conv", decoder_grid=(2, 2),
        hidden=(4,), decoder_layers=1, norm="batch", variance=(0.1, 1.0), data_shape=(1, 4, 4),
    )  # fmt: skip
    found = []
    for sleep in (0.0, 1.0):
        torch.manual_seed(0)
        model = RWSConfig(samples=2, sleep=sleep).build(nets, Affine(), STEPS).train()
        torch.manual_seed(1)
        model(normal(5, 1, 4, 4).float(), 0)
        assert all(part.training for part in model.modules())
        found.append({name: value.clone() for name, value in model.decoder.named_buffers()})
    assert any("running" in name and bool(value.any()) for name, value in found[0].items())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# -- settings --------------------------------------------------------------------------------------


def test_beta_decays_from_first_to_last(x: Tensor) -> None:
    model = small(RWSConfig(samples=2, beta_first=2.0, beta_last=0.02), "parallel")
    found = [model(x, step)[1]["beta"] for step in (0, 5, STEPS, 2 * STEPS)]
    assert found == pytest.approx([2.0, 0.2, 0.02, 0.02]) and model.final_beta == 0.02
    assert model.beta == Exponential(2.0, 0.02, STEPS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, r"method.samples: K must be at least 2, to compare samples, got 1"),
        ({"beta_last": 0.0}, r"method: beta_first and beta_last must be > 0 and finite, got 1 and 0"),
        ({"sleep": -0.5}, r"method.sleep: must be >= 0 and finite, got -0.5; 0 is the wake phase alone"),
        ({"sleep": math.inf}, r"method.sleep: must be >= 0 and finite, got inf"),
        ({"sleep": math.nan}, r"method.sleep: must be >= 0 and finite, got nan"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RWSConfig(), **changes)
