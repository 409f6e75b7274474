"""PPO: its surrogate's gradient inside and outside the clip, its frozen copy, and its mean gradient at ratio 1."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import normal
from daps.architecture import Architecture
from daps.config import Config, DataConfig, TrainConfig
from daps.data import Dataset
from daps.methods import PPOConfig
from daps.methods.ppo import KL_PRICES, ROUNDING, adapted_price, batch_advantage, clipped_surrogate, group_advantage
from daps.run import Run
from daps.train import Trainer, build_model
from enumeration import assert_same, every_code, gradients_of, log_joint, mean_gradients, small

KINDS = pytest.mark.parametrize("kind", ["autoregressive", "parallel"])


@pytest.fixture
def x() -> Tensor:
    return normal(5, 4, seed=1)


def moved(model: torch.nn.Module, size: float, seed: int = 5) -> None:
    """Moves the encoder away from its copy."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(size * torch.randn(p.shape, dtype=torch.float64, generator=generator))


# -- the surrogate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.0, 2.0, 2.0),  # where an update begins: A grad log q
        (1.0, -2.0, -2.0),
        (1.1, 2.0, 2.2),  # within the clip: r A
        (0.9, -2.0, -1.8),
        (1.3, 2.0, 0.0),  # past it on the side that A favours: nothing, exactly
        (0.7, -2.0, 0.0),
        (1.3, -2.0, -2.6),  # past it on the other side: all
        (0.7, 2.0, 1.4),
    ],
)
def test_the_clip_takes_the_gradient_on_the_side_that_the_advantage_favours(
    ratio: float, advantage: float, slope: float
) -> None:
    log_ratio = torch.full((1, 1, 1), math.log(ratio), dtype=torch.float64, requires_grad=True)
    value = clipped_surrogate(log_ratio, torch.full((1, 1, 1), advantage, dtype=torch.float64), 0.2)
    value.sum().backward()
    assert log_ratio.grad is not None
    assert float(log_ratio.grad) == 0.0 if slope == 0 else float(log_ratio.grad) == pytest.approx(slope, rel=1e-12)
    expected = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_advantages_are_against_the_mean_of_the_samples() -> None:
    returns = 10 * normal(6, 3, 2)
    torch.testing.assert_close(group_advantage(returns, False), returns - returns.mean(0))
    normalised = group_advantage(returns, True)
    torch.testing.assert_close(normalised, (returns - returns.mean(0)) / (returns.std(0, correction=0) + ROUNDING))
    equal = group_advantage(torch.full((6, 3, 1), -1000.1), True)  # in float32, whose mean of these is off by 1e-4
    assert float(equal.abs().max()) < 0.02


# -- a step ----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("normalised", [False, True])
def test_at_ratio_one_the_gradient_is_the_advantage_weighted_score(kind: str, normalised: bool, x: Tensor) -> None:
    model = small(PPOConfig(samples=6, normalised=normalised, beta_first=0.3, beta_last=0.3), kind)
    torch.manual_seed(3)
    loss, metrics = model(x, 0)
    found = gradients_of(model, loss)
    torch.manual_seed(3)
    codes, _ = model.encoder.sample(x, 6)
    reward = model.decoder(codes).log_prob(x).detach()
    advantage = reward - reward.mean(0)
    if normalised:
        advantage = advantage / (reward.std(0, correction=0) + ROUNDING)
    policy = advantage * model.encoder.log_prob(x, codes).sum(-1) + 0.3 * model.encoder.entropy(x, codes).sum(-1)
    assert_same(found, gradients_of(model, -(policy + model.decoder(codes).log_prob(x)).mean()))
    assert float(metrics["clipped"]) == 0


@KINDS
def test_at_ratio_one_the_mean_gradient_is_the_exact_policy_gradient(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 27 x 27 draws: (K - 1) / K of that of E_q[log p], the baseline being the mean of all K; and the bonus."""
    x, model = normal(1, 4, seed=1), small(PPOConfig(samples=2, normalised=False, beta_first=0.3, beta_last=0.3), kind)
    mean = mean_gradients(model, x, 2, monkeypatch)
    log_p, log_q = log_joint(model, x)
    entropy = model.encoder.entropy(x, every_code(model).unsqueeze(1)).sum(-1)[:, 0]
    policy = (log_q.exp() * log_p.detach()).sum() / 2 + 0.3 * (log_q.detach().exp() * entropy).sum()
    assert_same(mean, gradients_of(model, -policy - (log_q.detach().exp() * log_p).sum()))


@KINDS
@pytest.mark.parametrize("trained", [0, 2])
def test_later_steps_weigh_the_copys_codes_by_their_clipped_ratio(kind: str, trained: int, x: Tensor) -> None:
    """Put together by hand, one token at a time."""
    model = small(PPOConfig(samples=6, trained=trained, updates=4, clip=0.2, normalised=False), kind)
    model(x, 0)
    moved(model, 0.05)
    torch.manual_seed(3)
    loss, metrics = model(x, 2)
    found = gradients_of(model, loss)
    torch.manual_seed(3)
    codes, log_q_old = model.old_encoder.sample(x, 6)
    reward = model.decoder(codes).log_prob(x).detach()
    advantage = reward - reward.mean(0)
    log_q = model.encoder.log_prob(x, codes)
    ratio, total, clipped = (log_q.detach() - log_q_old).exp(), torch.zeros((), dtype=torch.float64), 0
    for k in range(6):
        for b in range(5):
            for t in range(3):
                past = ratio[k, b, t] > 1.2 if advantage[k, b] > 0 else ratio[k, b, t] < 0.8
                clipped += bool((ratio[k, b, t] - 1).abs() > 0.2)
                if not past:
                    total = total + ratio[k, b, t] * advantage[k, b] * log_q[k, b, t]
    bonus = float(metrics["beta"]) * model.encoder.entropy(x, codes).sum(-1).mean()
    log_p = model.decoder(codes[: trained or 6]).log_prob(x).mean()
    assert_same(found, gradients_of(model, -total / 30 - bonus - log_p))
    assert float(metrics["clipped"]) == pytest.approx(clipped / 90) and 0.05 < clipped / 90 < 0.95


# -- the authors' options --------------------------------------------------------------------------


@KINDS
def test_one_ratio_a_sequence_is_clipped_as_a_whole(kind: str, x: Tensor) -> None:
    model = small(PPOConfig(samples=6, ratio="sequence", normalised=False), kind)
    model(x, 0)
    moved(model, 0.05)
    torch.manual_seed(3)
    loss, metrics = model(x, 2)
    found = gradients_of(model, loss)
    torch.manual_seed(3)
    codes, log_q_old = model.old_encoder.sample(x, 6)
    log_p = model.decoder(codes).log_prob(x)
    advantage = log_p.detach() - log_p.detach().mean(0)
    log_q = model.encoder.log_prob(x, codes).sum(-1)
    ratio = (log_q.detach() - log_q_old.sum(-1)).exp()
    past = torch.where(advantage > 0, ratio > 1.2, ratio < 0.8)
    assert 0.05 < float(past.double().mean()) < 0.95
    policy = (ratio * advantage * log_q).where(~past, 0.0).mean()
    bonus = float(metrics["beta"]) * model.encoder.entropy(x, codes).sum(-1).mean()
    assert_same(found, gradients_of(model, -policy - bonus - log_p.mean()))
    assert float(metrics["clipped"]) == pytest.approx(float(((ratio - 1).abs() > 0.2).double().mean()))


@KINDS
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_with_a_learned_baseline_one_sample_gives_the_exact_policy_gradient(
    kind: str, ratio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all 27 draws of one code; and the baseline's own gradient is that of its mean square error."""
    config = PPOConfig(samples=1, baseline="learned", ratio=ratio, normalised=False, beta_first=0.3, beta_last=0.3)
    x, model = normal(1, 4, seed=1), small(config, kind)
    assert model.baseline is not None
    mean = mean_gradients(model, x, 1, monkeypatch, others=(model.baseline,))
    log_p, log_q = log_joint(model, x)
    q = log_q.detach().exp()
    entropy = model.encoder.entropy(x, every_code(model).unsqueeze(1)).sum(-1)[:, 0]
    policy = (log_q.exp() * log_p.detach()).sum() + 0.3 * (q * entropy).sum()
    weights, bias = model.baseline.map.weight[0], model.baseline.map.bias[0]
    error = (q * (log_p.detach() / 4 - x[0] @ weights - bias).square()).sum()
    assert_same(mean, gradients_of(model, error - policy - (q * log_p).sum()))


def test_a_learned_baseline_finds_an_affine_reward() -> None:
    model = small(PPOConfig(samples=1, baseline="learned"), "parallel")
    assert model.baseline is not None
    y = normal(64, 4, seed=3)
    reward = y @ normal(4, seed=4) - 7
    optimizer = torch.optim.LBFGS(model.baseline.parameters(), max_iter=500, tolerance_grad=1e-14, tolerance_change=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.baseline.loss(model.baseline(y), reward[None])
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(model.baseline(y), reward, atol=1e-6, rtol=0)


def test_advantages_against_a_prediction_are_normalised_over_the_batch() -> None:
    returns, expected = 10 * normal(2, 5, 1), normal(5, seed=2)
    difference = returns - expected[:, None]
    torch.testing.assert_close(batch_advantage(returns, expected, False), difference)
    normalised = (difference - difference.mean()) / (difference.std(correction=0) + ROUNDING)
    torch.testing.assert_close(batch_advantage(returns, expected, True), normalised)


@pytest.mark.parametrize(
    ("price", "kl", "expected"),
    [
        (10.0, 0.05, 10.0),
        (10.0, 0.034, 10.0),
        (10.0, 0.033, 5.0),  # below 0.05 / 1.5
        (10.0, 0.074, 10.0),
        (10.0, 0.076, 20.0),  # above 0.05 * 1.5
        (KL_PRICES[0], 0.0, KL_PRICES[0]),
        (KL_PRICES[1], 1.0, KL_PRICES[1]),
    ],
)
def test_the_price_of_kl_is_halved_and_doubled(price: float, kl: float, expected: float) -> None:
    assert float(adapted_price(torch.tensor(price), torch.tensor(kl), 0.05)) == pytest.approx(expected)


@KINDS
def test_the_penalty_is_the_price_of_the_exact_kl_from_the_copy(kind: str, x: Tensor) -> None:
    config = PPOConfig(samples=6, normalised=False)
    plain, priced = small(config, kind), small(dataclasses.replace(config, kl_target=0.01, kl_price=3.0), kind)
    for model in (plain, priced):
        model(x, 0)
        moved(model, 0.05)
    assert float(priced.kl_price) == pytest.approx(1.5)  # the first step had no KL
    torch.manual_seed(3)
    without = gradients_of(plain, plain(x, 2)[0])
    torch.manual_seed(3)
    loss, metrics = priced(x, 2)
    found = gradients_of(priced, loss)
    torch.manual_seed(3)
    codes, _ = priced.old_encoder.sample(x, 6)
    pairs = [
        torch.distributions.Categorical(logits=net.logits(x, codes)) for net in (priced.old_encoder, priced.encoder)
    ]
    kl = torch.distributions.kl_divergence(*pairs).sum(-1).mean()
    assert float(metrics["kl_copy"]) == pytest.approx(float(kl.detach())) and float(kl.detach()) > 0.015
    assert float(metrics["kl_price"]) == pytest.approx(3.0) == pytest.approx(float(priced.kl_price))
    penalty = gradients_of(priced, 1.5 * kl)
    assert_same(found, {name: without[name] + penalty[name] for name in without})


# -- the frozen copy -------------------------------------------------------------------------------


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """To the bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@KINDS
def test_the_copy_is_renewed_every_so_many_steps_and_never_trained(kind: str, x: Tensor) -> None:
    model = small(PPOConfig(samples=4, updates=3), kind)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    copies = []
    for step in range(7):
        optimizer.zero_grad()
        before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
        model(x, step)[0].backward()
        current = all(torch.equal(before[name], value) for name, value in model.old_encoder.state_dict().items())
        assert current == (step % 3 == 0)
        copies.append({name: value.clone() for name, value in model.old_encoder.state_dict().items()})
        optimizer.step()
    for step in range(1, 7):
        kept = all(torch.equal(copies[step - 1][name], value) for name, value in copies[step].items())
        assert kept == (step % 3 != 0)
    assert not any(p.requires_grad or p.grad is not None for p in model.old_encoder.parameters())
    assert torch.equal(model.encode(x), model.encoder.sample(x, 1, 0.0)[0][0])  # codes are the encoder's


def test_a_lagging_copy_is_the_encoder_of_one_step_before(x: Tensor) -> None:
    model = small(PPOConfig(samples=1, updates=1, lag=True, baseline="learned"), "parallel")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for step in range(3):
        before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
        optimizer.zero_grad()
        model(x, step)[0].backward()
        optimizer.step()
        assert all(torch.equal(before[name], value) for name, value in model.old_encoder.state_dict().items())
        assert not same(model.encoder, model.old_encoder)


AUTHORS = PPOConfig(
    samples=1, updates=1, lag=True, ratio="sequence", baseline="learned", normalised=False, kl_target=0.05
)


@pytest.mark.parametrize("interrupted", [1, 4, 5])
@pytest.mark.parametrize("method", [PPOConfig(samples=4, updates=4), AUTHORS], ids=["ours", "authors"])
def test_resuming_between_two_renewals_is_exact(method: PPOConfig, interrupted: int, tmp_path: Path) -> None:
    """A copy that a resumed training took anew from the encoder would draw other codes."""
    nets = Architecture(
        num_tokens=3, vocab_size=3, width=8, heads=2, patches=(3,), hidden=(8,), variance=(0.1, 1.0), data_shape=(4,)
    )
    config = Config(
        "array",
        DataConfig("array"),
        nets,
        method,
        TrainConfig(steps=8, batch_size=4, learning_rate=1e-2),
    )
    data = Dataset(normal(20, 4).float().numpy(), "array", "train", 1.0, "random numbers")

    def trainer() -> Trainer:
        return Trainer(config, build_model(config, data).train(), data.fingerprint)

    whole, resumed = trainer(), trainer()
    for step in range(8):
        if step == interrupted:
            whole.save(Run(tmp_path))
        whole.advance(data)
    assert resumed.restore(Run(tmp_path)) and resumed.step == interrupted
    while resumed.step < 8:
        resumed.advance(data)
    assert same(resumed.model, whole.model) and not same(whole.model.encoder, whole.model.old_encoder)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"samples": 1},
            r"method.samples: K must be at least 2, to compare samples, got 1; try 16, or --method.baseline learned",
        ),
        ({"samples": 0, "baseline": "learned"}, r"method.samples: K must be at least 1, got 0"),
        ({"updates": 0, "lag": True}, r"method.updates: must be >= 1.*got 0"),
        ({"credit": "local", "ratio": "sequence"}, r"method.credit: local needs .* got sequence and samples"),
        ({"credit": "local", "baseline": "learned"}, r"method.credit: local needs .* got token and learned"),
        ({"kl_target": -1.0}, r"method.kl_target: must be >= 0 nats and finite, got -1"),
        ({"kl_target": math.nan}, r"method.kl_target: must be >= 0 nats and finite, got nan"),
        ({"kl_price": 0.0}, r"method.kl_price: must lie in 0.001..1000, got 0; 10 is usual"),
        ({"updates": 1}, r"method.updates: must be >= 2, or no ratio ever leaves 1, got 1; .* or --method rloo"),
        ({"clip": 0.0}, r"method.clip: must lie in \(0, 1\), got 0; 0.2 is usual"),
        ({"clip": 1.0}, r"method.clip: must lie in \(0, 1\), got 1"),
        ({"clip": math.nan}, r"method.clip: must lie in \(0, 1\), got nan"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reach": -1}, r"method.reach: must be >= 0 tokens, got -1; 0 is a token's own cell"),
        ({"credit": "local"}, r"method.credit: local credit needs a decoder whose tokens have places"),
    ],
)
def test_settings_that_the_networks_cannot_serve(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(PPOConfig(**changes), "parallel")
