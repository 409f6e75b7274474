"""DAPS: its gradients put together by hand, its multiplier, its settings, and a problem with a known best answer."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from builders import CONFIG, NETS, STEPS, K, build, gradients, normal, rollout
from daps.architecture import Architecture
from daps.methods import DAPS, DAPSConfig
from daps.objective import effective_sample_size, eta_loss, log_weights

# -- one step --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
@pytest.mark.parametrize("eta", ["solve", "gradient"])
def test_the_gradients_are_those_put_together_by_hand(kind: str, eta: str, x: Tensor) -> None:
    model = build(kind, eta=eta, eta_first=3.0)
    torch.manual_seed(7)
    loss, metrics = model(x, 2)
    loss.backward()
    encoder, decoder = gradients(model.encoder), gradients(model.decoder)

    y, codes, log_q, reward = rollout(model, x, 7)
    temperature = float(metrics["eta"]) + 0.4 * (0.1 / 0.4) ** (2 / STEPS)
    beta = temperature - float(metrics["eta"])
    weights = softmax(((reward - beta * log_q) / temperature).numpy(), axis=0)
    model.zero_grad()
    for k, b in itertools.product(range(K), range(5)):  # one score at a time
        score = model.encoder.log_prob(y[b : b + 1], codes[k : k + 1, b : b + 1]).sum()
        (-weights[k, b] / 5 * score).backward()
        (-model.decoder(codes[k, b][None]).log_prob(y[b]).sum() / (5 * K)).backward()
    for mine, expected in zip(encoder + decoder, gradients(model.encoder) + gradients(model.decoder), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-12)
    assert all(bool(gradient.any()) for gradient in decoder)


def test_solve_keeps_the_mean_ess_at_its_target_and_trains_no_eta(x: Tensor) -> None:
    model = build()
    loss, metrics = model(x, 0)
    loss.backward()
    assert float(metrics["ess"]) == pytest.approx(3, rel=1e-8) and float(metrics["eta"]) > 0
    assert not model.log_eta.requires_grad and model.log_eta.grad is None
    groups = model.parameter_groups(1e-3, 0.1)
    assert len(groups) == 1 and all(p is not model.log_eta for p in groups[0]["params"])


def test_gradient_moves_log_eta_by_the_papers_loss_alone(x: Tensor) -> None:
    model = build(eta="gradient", eta_first=3.0)
    torch.manual_seed(7)
    loss, metrics = model(x, 0)
    loss.backward()
    assert float(metrics["eta"]) == pytest.approx(3, rel=1e-6)
    _, _, log_q, reward = rollout(model, x, 7)
    log_eta = model.log_eta.detach().clone().requires_grad_()
    dual = eta_loss(reward, log_q, log_eta, float(metrics["beta"]), CONFIG.ess_target)
    dual.backward()
    torch.testing.assert_close(model.log_eta.grad, log_eta.grad, rtol=1e-12, atol=0)
    log_w = log_weights(reward, log_q, 3.0, float(metrics["beta"]))
    assert float(metrics["ess"]) == pytest.approx(effective_sample_size(log_w).mean().item(), rel=1e-6)

    nets, eta = model.parameter_groups(1e-3, 0.1)
    assert eta["params"] == [model.log_eta] and (eta["lr"], eta["weight_decay"]) == (1e-3, 0.0)
    assert (nets["lr"], nets["weight_decay"]) == (1e-3, 0.1)
    assert {id(p) for p in model.parameters()} == {id(p) for p in [*nets["params"], *eta["params"]]}


def test_gradient_descent_on_log_eta_reaches_the_target() -> None:
    model = build(eta="gradient", eta_first=30.0, eta_learning_rate=0.1)
    x = normal(64, 6)
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0, 0.0))
    sizes = []
    for _ in range(120):
        optimizer.zero_grad()
        loss, metrics = model(x, 0)
        loss.backward()
        optimizer.step()
        sizes.append(float(metrics["ess"]))
    assert sizes[0] > 4.5
    assert np.mean(sizes[-30:]) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
def test_metrics_are_finite_and_agree_with_each_other(kind: str, x: Tensor) -> None:
    model = build(kind)
    torch.manual_seed(7)
    loss, metrics = model(x, 0)
    figures = {name: float(value) for name, value in metrics.items()}
    _, _, log_q, reward = rollout(model, x, 7)
    assert loss.isfinite() and all(math.isfinite(value) for value in figures.values())
    assert figures["log_p"] == pytest.approx(reward.mean().item(), rel=1e-12)
    assert figures["kl"] == pytest.approx(log_q.mean().item() + 3 * math.log(4), rel=1e-12)
    assert figures["elbo"] == pytest.approx(figures["log_p"] - figures["kl"], rel=1e-12)
    assert 0 <= figures["bits"] <= 6
    assert not any(value.requires_grad for value in metrics.values() if isinstance(value, Tensor))


def test_beta_decays_over_the_steps(x: Tensor) -> None:
    model = build()
    betas = [float(model(x, step)[1]["beta"]) for step in (0, 5, 10, 20)]
    assert betas == pytest.approx([0.4, 0.2, 0.1, 0.1], rel=1e-12)
    assert model.final_beta == 0.1
    constant = build(beta_first=0.3, beta_last=0.3)
    assert [float(constant(x, step)[1]["beta"]) for step in (0, 10)] == [0.3, 0.3]


def test_data_are_taken_in_natural_units(x: Tensor) -> None:
    model = build().eval()
    codes = model.encode(x)
    assert torch.equal(codes, model.encoder.sample((x - 0.5) / 2, 1, 0.0)[0][0])
    assert torch.equal(codes, model.encode(x.numpy()))
    natural, scaled = model.decode(codes), model.decoder(codes)
    torch.testing.assert_close(natural.mean, scaled.mean * 2 + 0.5)
    torch.testing.assert_close(natural.log_prob(x), scaled.log_prob((x - 0.5) / 2))
    assert (model.num_tokens, model.vocab_size, model.bits, model.data_shape) == (3, 4, 6.0, (6,))


# -- a problem with a known answer -----------------------------------------------------------------


class TableDecoder(nn.Module):
    """p(x|z): a normal distribution of its own for each of the 9 codes of 2 tokens out of 3 symbols."""

    def __init__(self, means: Tensor, learned: bool) -> None:
        super().__init__()
        self.means = nn.Parameter(means, requires_grad=learned)

    def forward(self, codes: Tensor) -> Independent:
        """Code (a, b) has row 3 a + b."""
        return Independent(Normal(self.means[3 * codes[..., 0] + codes[..., 1]], 0.2), 1)


@pytest.mark.parametrize("learned", [False, True])
def test_it_finds_the_best_codes(learned: bool) -> None:
    torch.manual_seed(3)
    nets = Architecture(num_tokens=2, vocab_size=3, width=16, heads=2, patches=(2,), data_shape=(2,))
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    decoder = TableDecoder(torch.randn(9, 2), learned)
    config = DAPSConfig(samples=8, beta_first=0.5, beta_last=0.01)
    model = DAPS(nets.encoder(), decoder, (2,), config=config, steps=250)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for step in range(250):
        optimizer.zero_grad()
        model(x, step)[0].backward()
        optimizer.step()

    codes = model.encode(x)
    reached = model.decode(codes).log_prob(x)
    every = torch.tensor(list(itertools.product(range(3), repeat=2)))
    table = torch.stack([model.decode(every).log_prob(datum) for datum in x])  # [data, codes]
    torch.testing.assert_close(reached, table.amax(1), rtol=0, atol=1e-4)
    assert bool((model.encoder.log_prob(x, codes[None]).sum(-1).exp() > 0.9).all())
    if learned:
        highest = -math.log(2 * math.pi * 0.2**2)
        assert bool((reached > highest - 0.2).all())


# -- settings and input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, r"method.samples: K must be at least 2, got 0; the paper takes 8"),
        (
            {"ess_fraction": 0.1},
            r"method.ess_fraction: .* lie in \(1, K\] = \(1, 8\], got 0.1 x 8 = 0.8; change either",
        ),
        ({"ess_fraction": 1.1}, r"method.ess_fraction: .* got 1.1 x 8 = 8.8"),
        ({"ess_fraction": math.nan}, r"method.ess_fraction: .* got nan"),
        ({"beta_first": 0.0}, r"method: beta_first, beta_last and eta_first must be > 0 .* got 0, 0.01, 100, 0.001"),
        ({"beta_last": -1.0}, r"method: beta_first, beta_last .* got 0.5, -1, 100, 0.001"),
        ({"eta_first": 0.0}, r"method: beta_first, beta_last .* got 0.5, 0.01, 0, 0.001"),
        ({"eta_learning_rate": -1.0}, r"eta_learning_rate >= 0, all finite, got 0.5, 0.01, 100, -1"),
        ({"trained": -1}, r"method.trained: must lie in 0..K = 8, got -1; 0 trains on all"),
        ({"trained": 9}, r"method.trained: must lie in 0..K = 8, got 9; 0 trains on all"),
        ({"reach": -1}, r"method.reach: must be >= 0 and finite, got -1"),
        ({"fullness": -0.5}, r"method.fullness: must be >= 0 and finite, got -0.5"),
        ({"sweeps": -1}, r"method.sweeps: must be >= 0 and finite, got -1"),
        ({"critic": math.inf}, r"method.critic: must be >= 0 and finite, got inf"),
        ({"rate": math.nan}, r"method.rate: must be >= 0 and finite, got nan"),
        ({"rate_gain": -0.1}, r"method.rate_gain: must be >= 0 and finite, got -0.1"),
        ({"tail": 1.5}, r"method.tail: must lie in \[0, 1\], got 1.5; 1 for autoregressive encoders"),
        ({"tail": -0.1}, r"method.tail: must lie in \[0, 1\], got -0.1"),
        ({"fullness_first": 0.6}, r"0 <= fullness_first <= fullness_last <= 1, got 0.6 and 0.5; they are shares"),
        ({"fullness_last": 1.5}, r"method: needs 0 <= fullness_first .* got 0.3 and 1.5"),
        ({"eta": "gradient", "credit": "local"}, r"method.eta: local credit solves its multiplier; take eta = solve"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DAPSConfig(**changes)


def test_decoders_that_cannot_serve_an_option(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"method.credit: local credit needs a decoder whose tokens have places"):
        build(credit="local")
    nets = dataclasses.replace(NETS, num_tokens=2, vocab_size=3, patches=(2,), data_shape=(2,))

    def other(**changes: Any) -> DAPS:
        config = dataclasses.replace(CONFIG, **changes)
        return DAPS(nets.encoder(), TableDecoder(torch.zeros(9, 2), True), (2,), config=config, steps=1)

    with pytest.raises(ValueError, match=r"method.credit: needs a daps.decoder.Decoder, got TableDecoder; build the"):
        other(credit="local")
    for option, value in (("sweeps", 1), ("critic", 0.1)):
        with pytest.raises(ValueError, match=rf"method.{option}: needs a daps.decoder.Decoder, got TableDecoder"):
            other(**{option: value})(torch.randn(3, 2), 0)


def test_data_that_cannot_be_encoded(x: Tensor) -> None:
    model = build()
    with pytest.raises(ValueError, match=r"x: must have shape \[B, 6\], got \[5, 5\]; for one datum pass x\[None\]"):
        model.encode(x[:, :5])
    with pytest.raises(ValueError, match=r"x: must have shape \[B, 6\], got \[6\]"):
        model.encode(x[0])
    x[0, 0], x[1, 1] = math.nan, math.inf
    with pytest.raises(ValueError, match="x: must be finite, got 2 NaN or infinite values"):
        model.encode(x)


def test_codes_that_cannot_be_decoded() -> None:
    model = build()
    with pytest.raises(ValueError, match=r"codes: must have shape \[\.\.\., 3\] .* got \[3\]; .* pass codes\[None\]"):
        model.decode(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"codes: must have shape \[\.\.\., 3\] .* got \[2, 4\]"):
        model.decode(np.zeros((2, 4), dtype=np.int64))
    for symbol in (-1, 4):
        with pytest.raises(ValueError, match=rf"codes: symbols must lie in 0\.\.3, got .*{symbol}.* another model"):
            model.decode(torch.tensor([[0, symbol, 1]]))
