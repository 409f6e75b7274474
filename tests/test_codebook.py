"""Rare symbols: the reward by loops; its policy gradient against that of the aggregate's entropy, by enumeration."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from builders import build
from daps.codebook import RareSymbols, Revival
from daps.symbols import StructuredEmbedding, StructuredHead

T, V, B = 2, 3, 4
NEAR = {"rtol": 1e-12, "atol": 1e-12}  # float64, some dozen roundings


def random_codes(count: int, seed: int) -> Tensor:
    """[count, B, T]."""
    return torch.randint(V, (count, B, T), generator=torch.Generator().manual_seed(seed))


def test_the_price_rises_linearly_between_two_steps() -> None:
    rarity = RareSymbols(T, V, weight=0.6, first=10.0, last=30.0)
    prices = [rarity.price(step) for step in (0, 10, 15, 20, 30, 1000)]
    assert prices == pytest.approx([0, 0, 0.15, 0.3, 0.6, 0.6], abs=1e-15)
    assert [RareSymbols(T, V, 0.6, 10.0, 10.0).price(step) for step in (10, 11)] == [0, 0.6]


def test_the_running_frequency_is_that_of_a_loop() -> None:
    rarity = RareSymbols(T, V, 1.0, 0.0, 1.0, memory=5.0).double()
    expected = [[1 / V] * V for _ in range(T)]
    for step in range(7):
        codes = random_codes(6, step)
        rarity.observe(codes)
        for t, v in itertools.product(range(T), range(V)):
            share = sum(int(code) == v for code in codes[..., t].flatten()) / (6 * B)
            expected[t][v] += (share - expected[t][v]) / 5
    torch.testing.assert_close(rarity.frequency, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0)
    torch.testing.assert_close(rarity.frequency.sum(-1), torch.ones(T, dtype=torch.float64), rtol=1e-7, atol=0)
    assert set(rarity.state_dict()) == {"frequency"}


def test_the_reward_is_the_rarity_of_every_token() -> None:
    rarity = RareSymbols(T, V, weight=0.5, first=0.0, last=10.0).double()
    frequency = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]], dtype=torch.float64)
    rarity.frequency.copy_(frequency)
    codes = random_codes(6, 0)
    reward = rarity(codes, 4)
    for k, b, t in itertools.product(range(6), range(B), range(T)):
        seen = max(float(frequency[t, codes[k, b, t]]), 1e-6)
        assert float(reward[k, b, t]) == pytest.approx(-0.2 * math.log(seen), rel=1e-12)
    assert not reward.requires_grad and bool((codes[..., 0] == 2).any())
    assert torch.equal(rarity.frequency, frequency)
    assert not rarity(codes, 0).any()


def test_the_policy_gradient_is_that_of_the_aggregates_entropy() -> None:
    logits = torch.randn(B, T, V, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    log_q = logits.log_softmax(-1)
    aggregate = log_q.exp().mean(0)  # q(z_t) = E_x q(z_t|x)
    entropies = -(aggregate * aggregate.log()).sum()
    (expected,) = torch.autograd.grad(entropies, logits, retain_graph=True)

    rarity = RareSymbols(T, V, weight=1.0, first=0.0, last=1.0).double()
    rarity.frequency.copy_(aggregate.detach())
    codes = torch.tensor(list(itertools.product(range(V), repeat=T)))[:, None].expand(-1, B, -1)  # all 9
    score = log_q.expand(len(codes), -1, -1, -1).gather(-1, codes.unsqueeze(-1)).squeeze(-1).sum(-1)  # log q(z|x)
    reward = rarity(codes, 1).sum(-1)
    surrogate = (score.detach().exp() * reward * score).sum(0).mean()
    (gradient,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(gradient, expected, **NEAR)
    assert float(expected.abs().max()) > 0.01


class Twin(torch.nn.Module):
    """What an encoder and a decoder hold of symbols."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.embedding = StructuredHead("lattice", 16, 5), StructuredEmbedding("lattice", 16, 7)
        with torch.no_grad():
            for own in (self.head.vectors.own, self.embedding.vectors.own):
                own.normal_()
            self.head.bias[3] = -40.0  # dead


@torch.no_grad()
def test_a_revived_symbol_shares_the_draws_of_another_and_changes_no_distribution() -> None:
    nets, revival = Twin(), Revival(16, rare=0.1, last=1_000.0, every=10, noise=0.0)
    h = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    before, table = nets.head(h).softmax(-1), nets.embedding.table().clone()
    frequency = before.mean(0)
    revival.frequency.copy_(frequency)
    popular = int(frequency.argmax())
    assert revival(nets, 20) == 1
    after = nets.head(h).softmax(-1)
    torch.testing.assert_close(after[:, [3, popular]], before[:, [popular, popular]] / 2, rtol=1e-4, atol=1e-6)
    others = [v for v in range(16) if v not in (3, popular)]
    torch.testing.assert_close(after[:, others], before[:, others], rtol=1e-4, atol=1e-6)
    found = nets.embedding.table()
    torch.testing.assert_close(found[3], table[popular])
    torch.testing.assert_close(found[others], table[others], rtol=0, atol=0)
    torch.testing.assert_close(revival.frequency[[3, popular]], frequency[popular].expand(2) / 2)


@torch.no_grad()
def test_twins_part_by_noise_of_opposite_signs() -> None:
    nets, revival = Twin(), Revival(16, rare=0.1, last=1_000.0, every=10, noise=0.1)
    revival.frequency.fill_(1 / 16)
    revival.frequency[3], revival.frequency[5] = 0.0, 0.2
    before = nets.embedding.table().clone()
    assert revival(nets, 10) == 1
    found = nets.embedding.table()
    torch.testing.assert_close((found[3] + found[5]) / 2, before[5])
    apart = float((found[3] - before[5]).norm()) / (7**0.5 * float(before.std()))
    assert 0.03 < apart < 0.3


def test_symbols_are_revived_only_now_and_then_and_not_at_the_end() -> None:
    nets, revival = Twin(), Revival(16, rare=0.1, last=30.0, every=10)
    dead = torch.tensor([0.0, 0.0, 0.0, 0.3, *[0.7 / 12] * 12])
    counts = []
    for step in (0, 5, 10, 30, 40):
        revival.frequency.copy_(dead)
        counts.append(revival(nets, step))
    assert counts == [0, 0, 1, 1, 0]  # three are dead, but only one is used more than on average
    revival.frequency.fill_(1 / 16)
    assert revival(nets, 10) == 0
    codes = torch.tensor([[[1, 2], [1, 1]]])
    revival.observe(codes)
    expected = torch.full((16,), 0.8 / 16)
    expected[1] += 0.2 * 0.75
    expected[2] += 0.2 * 0.25
    torch.testing.assert_close(revival.frequency, expected)


def test_free_symbols_cannot_be_revived() -> None:
    assert build(revival=0.0).revival is None
    with pytest.raises(ValueError, match="method.revival: symbols take after others where they share features"):
        build(revival=0.1)
