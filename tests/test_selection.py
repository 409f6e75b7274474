"""Resampling by enumeration: a grid of uniforms, whose cells the weights divide evenly, gives expectations exactly."""

import math

import pytest
import torch
from torch import Tensor

from daps.selection import recombine, resample, take

GRID = 64  # uniforms per stratum; weights are multiples of 1/16, so that no cell of the grid straddles two samples
SEQUENCES = torch.tensor([6, 0, 7, 1, 2], dtype=torch.float64) / 16  # [K]
TOKENS = torch.tensor([[8, 4], [4, 8], [0, 2], [4, 2]], dtype=torch.float64) / 16  # [K, T]
BELOW_ONE = 1 - 2**-24  # the largest that torch.rand makes in float32
NEAR = {"rtol": 1e-12, "atol": 1e-12}  # float64, some dozen roundings


def on_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.rand gives datum b the midpoint of the grid's cell b, the same for all draws of a datum."""

    def midpoints(rows: int, count: int, **_: object) -> Tensor:
        cells = torch.arange(rows, dtype=torch.float64) // (rows // GRID)
        return ((cells + 0.5) / GRID)[:, None].expand(rows, count)

    monkeypatch.setattr(torch, "rand", midpoints)


def repeated(weights: Tensor, times: int = GRID) -> Tensor:
    """log of the weights [K, ...] for so many data alike: [K, times, ...]."""
    return weights.log().unsqueeze(1).expand(-1, times, *weights.shape[1:]).clone()


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("weights", [SEQUENCES, TOKENS], ids=["per sequence", "per token"])
def test_sequences_are_drawn_as_often_as_they_weigh(
    monkeypatch: pytest.MonkeyPatch, count: int, weights: Tensor
) -> None:
    on_a_grid(monkeypatch)
    chosen, _ = resample(repeated(weights), count)
    assert chosen.shape == (count, GRID)
    mean_counts = torch.bincount(chosen.flatten(), minlength=len(weights)) / GRID
    chances = weights if weights.ndim == 1 else weights.mean(-1)
    torch.testing.assert_close(mean_counts.double(), count * chances, rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("weights", [SEQUENCES, TOKENS], ids=["per sequence", "per token"])
def test_weighted_sums_keep_their_expectation(monkeypatch: pytest.MonkeyPatch, count: int, weights: Tensor) -> None:
    on_a_grid(monkeypatch)
    values = torch.randn(weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen, log_w = resample(repeated(weights), count)
    selected = (log_w.exp() * take(values.unsqueeze(1).expand(-1, GRID, *weights.shape[1:]), chosen)).sum(0)
    torch.testing.assert_close(selected.mean(0), (weights * values).sum(0), **NEAR)


def test_expectations_hold_for_real_uniforms_too() -> None:
    torch.manual_seed(0)
    data, count = 20_000, 3
    chosen, _ = resample(repeated(SEQUENCES, data), count)
    for k, weight in enumerate(SEQUENCES.tolist()):
        counts = (chosen == k).sum(0).double()
        assert abs(float(counts.mean()) - count * weight) <= 5 * float(counts.std()) / data**0.5  # the seed is fixed
        assert int(counts.max()) - int(counts.min()) <= 2  # stratified: independent draws would spread from 0 to 3
    assert len(chosen.unique(dim=1)[0]) > 5  # every datum and stratum has a uniform of its own


def test_each_datum_is_resampled_by_its_own_weights() -> None:
    log_w = torch.full((3, 3), -math.inf).fill_diagonal_(0.0)
    chosen, kept = resample(log_w, 4)
    assert chosen.tolist() == [[0, 1, 2]] * 4
    torch.testing.assert_close(kept, torch.full((4, 3), -math.log(4)))


def test_selected_sequences_weigh_the_same() -> None:
    log_w = torch.randn(6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    kept = resample(log_w.requires_grad_(), 4).log_w
    torch.testing.assert_close(kept, torch.full_like(kept, -math.log(4)), **NEAR)
    assert not kept.requires_grad


def test_selected_tokens_carry_their_weight_over_the_chance_of_their_sequence() -> None:
    log_w = torch.randn(6, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    chosen, kept = resample(log_w, 4)
    for n, b, t in ((0, 0, 0), (3, 49, 2), (1, 7, 1)):
        weights = log_w[chosen[n, b], b].exp()
        assert float(kept[n, b, t].exp()) == pytest.approx(float(weights[t]) / (4 * float(weights.mean())), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dead", [[0], [2], [5], [0, 1, 4, 5]])
@pytest.mark.parametrize("nothing", [-math.inf, -1e4])
def test_a_sequence_of_weight_zero_is_never_chosen(dtype: torch.dtype, dead: list[int], nothing: float) -> None:
    torch.manual_seed(0)
    log_w = torch.randn(6, 2000, dtype=dtype)
    log_w[dead] = nothing
    chosen, kept = resample(log_w.log_softmax(0), 5)
    assert set(chosen.unique().tolist()) == set(range(6)) - set(dead)
    assert bool(kept.isfinite().all())


@pytest.mark.parametrize("uniform", [0.0, BELOW_ONE])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_not_even_at_the_ends_of_the_uniforms(monkeypatch: pytest.MonkeyPatch, uniform: float, count: int) -> None:
    """In float32, count - 1 + BELOW_ONE is count."""
    log_w = torch.tensor([-math.inf, 0.0, 0.0, -math.inf]).log_softmax(0)[:, None]
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, uniform))
    chosen, kept = resample(log_w, count)
    assert set(chosen.unique().tolist()) <= {1, 2}
    torch.testing.assert_close(kept, torch.full((count, 1), -math.log(count)))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 2)])
def test_take_is_a_lookup(shape: tuple[int, ...]) -> None:
    values = torch.arange(math.prod(shape)).view(shape)
    chosen = torch.randint(5, (7, 4), generator=torch.Generator().manual_seed(0))
    taken = take(values, chosen)
    assert taken.shape == (7, *shape[1:])
    for n in range(7):
        for b in range(4):
            assert torch.equal(taken[n, b], values[chosen[n, b], b])


@pytest.mark.parametrize("count", [1, 4])
def test_recombined_tokens_follow_their_own_weights(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    on_a_grid(monkeypatch)
    codes = torch.arange(4).view(4, 1, 1).expand(4, GRID, 2)  # token = number of its sample
    mixed = recombine(codes, repeated(TOKENS), count)
    assert mixed.shape == (count, GRID, 2)
    for t in range(2):
        share = torch.bincount(mixed[..., t].flatten(), minlength=4).double() / (count * GRID)
        torch.testing.assert_close(share, TOKENS[:, t], rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_recombined_tokens_are_independent(count: int) -> None:
    torch.manual_seed(0)
    data = 20_000
    mixed = recombine(torch.arange(4).view(4, 1, 1).expand(4, data, 2), repeated(TOKENS, data), count)
    pairs = torch.bincount((4 * mixed[..., 0] + mixed[..., 1]).flatten(), minlength=16).double().view(4, 4)
    expected = TOKENS[:, 0, None] * TOKENS[:, 1]
    assert bool(((pairs / (count * data) - expected).abs() <= 5 * (expected / data) ** 0.5).all())
