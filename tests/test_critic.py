"""First-order improvement: derivatives against finite differences, the trust region against scipy and rivals."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.distributions import Distribution

from builders import normal
from daps.architecture import Architecture
from daps.critic import improved, predicted_change
from daps.decoder import Decoder
from daps.likelihood import Likelihood
from daps.methods import FSQConfig
from daps.scaling import Affine
from daps.symbols import Structure

NETS = Architecture(num_tokens=3, vocab_size=5, width=4, heads=2, hidden=(8,), variance=(0.1, 1.0), data_shape=(6,))
CONV = dataclasses.replace(
    NETS, num_tokens=4, decoder_kind="conv", decoder_layers=1, decoder_grid=(2, 2), data_shape=(2, 4, 4)
)


def problem(nets: Architecture) -> tuple[Decoder, Tensor, Tensor]:
    """A random decoder, 3 data, and 2 sequences of codes for each."""
    torch.manual_seed(0)
    decoder = nets.decoder().double()
    codes = torch.randint(nets.vocab_size, (2, 3, nets.num_tokens), generator=torch.Generator().manual_seed(1))
    return decoder, normal(3, *nets.data_shape, seed=2), codes


# -- what the derivative predicts ------------------------------------------------------------------


@pytest.mark.parametrize("nets", [NETS, CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("structure", ["free", "bits"])
def test_the_prediction_is_the_directional_derivative_towards_every_symbol(
    nets: Architecture, structure: Structure
) -> None:
    decoder, y, codes = problem(dataclasses.replace(nets, structure=structure))
    gain = predicted_change(decoder, y, codes)
    table, step = decoder.embedding.table().detach(), 1e-5
    here = decoder.embedding(codes).detach()
    for t, v in itertools.product(range(nets.num_tokens), range(nets.vocab_size)):
        towards = torch.zeros_like(here)
        towards[:, :, t] = table[v] - here[:, :, t]
        ahead, behind = (decoder.from_vectors(here + sign * step * towards).log_prob(y) for sign in (1, -1))
        # central differences: errors of order step^2 and of rounding / step
        torch.testing.assert_close(gain[..., t, v], (ahead - behind).detach() / (2 * step), rtol=1e-5, atol=1e-5)


def test_staying_costs_nothing_and_parameters_are_left_alone() -> None:
    decoder, y, codes = problem(NETS)
    with torch.no_grad():
        gain = predicted_change(decoder, y, codes)
    assert not gain.requires_grad and all(p.grad is None for p in decoder.parameters())
    stay = gain.gather(-1, codes.unsqueeze(-1))
    assert torch.equal(stay, torch.zeros_like(stay)) and bool((gain != 0).any())


def test_samples_and_data_do_not_touch_each_other() -> None:
    decoder, y, codes = problem(CONV)
    alone = [[predicted_change(decoder, y[b : b + 1], codes[k : k + 1, b : b + 1]) for b in range(3)] for k in range(2)]
    together = torch.cat([torch.cat(row, 1) for row in alone])
    torch.testing.assert_close(predicted_change(decoder, y, codes), together, rtol=1e-9, atol=1e-9)


class Linear(Distribution):
    """An unnormalised log-likelihood <outputs, y>, linear in the decoder's outputs."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__(validate_args=False)
        self.outputs = outputs

    def log_prob(self, value: Tensor) -> Tensor:
        """<outputs, y>."""
        return (self.outputs * value).sum(-1)


class LinearLikelihood(Likelihood):
    """Makes `Linear`."""

    channels = 1

    def __call__(self, parameters: Tensor, event_dims: int) -> Distribution:
        """Of the only channel."""
        return Linear(parameters.squeeze(-event_dims - 1))


def test_it_is_exact_where_log_p_is_linear_in_the_vectors() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 6))
    decoder = Decoder(NETS.decoder().embedding, net, LinearLikelihood(), (6,)).double()
    _, y, codes = problem(NETS)
    gain = predicted_change(decoder, y, codes)
    before = decoder(codes).log_prob(y)
    for t, v in itertools.product(range(3), range(5)):
        changed = codes.clone()
        changed[..., t] = v
        torch.testing.assert_close(
            gain[..., t, v], (decoder(changed).log_prob(y) - before).detach(), rtol=1e-10, atol=1e-12
        )


def test_it_reads_the_lattice_of_fsq() -> None:
    torch.manual_seed(0)
    nets = dataclasses.replace(NETS, vocab_size=6, patches=(3,))
    model = FSQConfig(levels=(3, 2)).build(nets, Affine(), 10).double()
    codes = torch.randint(6, (1, 2, 3))
    gain = predicted_change(model.decoder, normal(2, 6), codes)
    assert gain.shape == (1, 2, 3, 6) and not bool(gain.gather(-1, codes.unsqueeze(-1)).any())


# -- the policy in the trust region ----------------------------------------------------------------


def mean_kl(log_policy: Tensor, log_q: Tensor) -> float:
    """Mean over tokens of KL(policy || q), nats."""
    return float((log_policy.exp() * (log_policy - log_q)).sum(-1).mean())


def value(log_policy: Tensor, gain: Tensor, beta: float) -> float:
    """Mean over tokens of E[gain] + beta H."""
    return float((log_policy.exp() * (gain - beta * log_policy)).sum(-1).mean())


def closed_form(log_q: Tensor, gain: Tensor, beta: float, tau: float) -> Tensor:
    """q exp((gain - beta log q) / tau), normalised by scipy."""
    scores = log_q.numpy() + (gain.numpy() - beta * log_q.numpy()) / tau
    return torch.as_tensor(log_softmax(scores, axis=-1))


@pytest.mark.parametrize("beta", [0.01, 0.5])
@pytest.mark.parametrize("kl", [1e-3, 0.05, 0.4])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_its_kl_is_the_one_asked_for(beta: float, kl: float, scale: float) -> None:
    log_q, gain = (2 * normal(3, 2, 4, 6)).log_softmax(-1), scale * normal(3, 2, 4, 6, seed=1)
    log_policy = improved(log_q, gain, beta, kl)
    torch.testing.assert_close(log_policy.exp().sum(-1), torch.ones(3, 2, 4, dtype=torch.float64))
    assert mean_kl(log_policy, log_q) == pytest.approx(kl, rel=1e-5)

    def excess(log_tau: float) -> float:
        return mean_kl(closed_form(log_q, gain, beta, math.exp(log_tau)), log_q) - kl

    tau = math.exp(brentq(excess, math.log(beta), math.log(1e8), xtol=1e-12))
    # 30 halvings of a bracket of 18 to 23 nats leave 2e-8 of log tau
    torch.testing.assert_close(log_policy, closed_form(log_q, gain, beta, tau), rtol=1e-6, atol=1e-5)


@given(seed=st.integers(0, 10_000), beta=st.sampled_from([0.0, 0.1, 1.0]), kl=st.sampled_from([0.02, 0.3]))
def test_no_policy_within_the_region_is_worth_more(seed: int, beta: float, kl: float) -> None:
    log_q, gain = normal(2, 1, 2, 4, seed=seed).log_softmax(-1), 2 * normal(2, 1, 2, 4, seed=seed + 1)
    best = improved(log_q, gain, beta, kl)
    assert mean_kl(best, log_q) <= kl * (1 + 1e-9)
    rng = np.random.default_rng(seed)
    for size in (0.01, 0.1, 1.0):
        moved = best + size * torch.as_tensor(rng.normal(size=best.shape))
        for rival in (moved.log_softmax(-1), (0.5 * (moved.softmax(-1) + log_q.exp())).log()):
            if mean_kl(rival, log_q) <= kl:
                assert value(rival, gain, beta) <= value(best, gain, beta) + 1e-6


def test_where_the_region_is_wide_enough_the_optimum_without_it_is_the_answer() -> None:
    log_q, gain = normal(2, 1, 3, 5).log_softmax(-1), 0.1 * normal(2, 1, 3, 5, seed=1)
    free = (gain / 0.5).log_softmax(-1)  # maximises E[gain] + beta H
    assert mean_kl(free, log_q) < 5
    torch.testing.assert_close(improved(log_q, gain, 0.5, 5.0), free, rtol=1e-12, atol=1e-12)


def test_a_wider_region_is_worth_more_and_none_is_worth_what_q_is() -> None:
    log_q, gain = normal(2, 1, 3, 5).log_softmax(-1), normal(2, 1, 3, 5, seed=1)
    values = [value(improved(log_q, gain, 0.1, kl), gain, 0.1) for kl in (1e-10, 0.01, 0.1, 1.0)]
    assert values == sorted(values) and values[-1] > values[0] + 0.1
    assert values[0] == pytest.approx(value(log_q, gain, 0.1), abs=1e-4)


def test_one_multiplier_for_all_tokens_spends_the_region_where_there_is_most_to_gain() -> None:
    log_q = torch.zeros(1, 1, 2, 4, dtype=torch.float64).log_softmax(-1)
    gain = normal(1, 1, 2, 4, seed=1) * torch.tensor([[0.1], [3.0]])
    log_policy = improved(log_q, gain, 0.0, 0.1)
    little, much = (log_policy.exp() * (log_policy - log_q)).sum(-1)[0, 0].tolist()
    assert much > 50 * little and (much + little) / 2 == pytest.approx(0.1, rel=1e-5)
