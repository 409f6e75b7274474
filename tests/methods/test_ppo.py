"""PPO: its surrogate's gradient inside and outside the clip, its frozen copy, and its mean gradient at ratio 1."""

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
from daps.methods.ppo import ROUNDING, clipped_surrogate, group_advantage
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


@pytest.mark.parametrize("interrupted", [1, 4, 5])
def test_resuming_between_two_renewals_is_exact(interrupted: int, tmp_path: Path) -> None:
    """A copy that a resumed training took anew from the encoder would draw other codes."""
    nets = Architecture(
        num_tokens=3, vocab_size=3, width=8, heads=2, patches=(3,), hidden=(8,), variance=(0.1, 1.0), data_shape=(4,)
    )
    config = Config(
        "array",
        DataConfig("array"),
        nets,
        PPOConfig(samples=4, updates=4),
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
        ({"samples": 1}, r"method.samples: K must be at least 2, to compare samples, got 1"),
        ({"updates": 1}, r"method.updates: must be >= 2, or no ratio ever leaves 1, got 1; .* take --method rloo"),
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
