"""Credit against loops over sites, and against exact policy gradients over every code of a small problem."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal

from builders import normal
from daps.credit import LocalCredit, Reach, SequenceCredit, value_log_prob

GRIDS: list[tuple[int, ...]] = [(5,), (1, 4), (2, 3), (4, 4), (5, 3)]


def sites(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Coordinates of the tokens in reading order."""
    return list(itertools.product(*(range(size) for size in grid)))


# -- reach -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("radius", [0, 1, 2])
def test_a_token_reaches_the_cells_within_the_radius(grid: tuple[int, ...], radius: int) -> None:
    reach = Reach(len(sites(grid)), grid, radius)
    for (t, here), (cell, there) in itertools.product(enumerate(sites(grid)), repeat=2):
        near = all(abs(a - b) <= radius for a, b in zip(here, there, strict=True))
        assert float(reach.matrix[t, cell]) == near


@given(grid=st.lists(st.integers(1, 7), min_size=1, max_size=2).map(tuple), radius=st.integers(0, 3))
def test_colours_partition_the_tokens_into_sites_that_share_no_cell(grid: tuple[int, ...], radius: int) -> None:
    tokens = len(sites(grid))
    reach = Reach(tokens, grid, radius)
    assert sorted(torch.cat(reach.colours).tolist()) == list(range(tokens))
    assert all(float(reach.matrix[colour].sum(0).max()) <= 1 for colour in reach.colours)
    assert len(reach.colours) <= (2 * radius + 1) ** len(grid)


def test_without_a_grid_there_is_one_cell_and_a_colour_for_every_token() -> None:
    reach = Reach(4, None, 1)
    assert torch.equal(reach.matrix, torch.ones(4, 1))
    assert [colour.tolist() for colour in reach.colours] == [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("grid", "shape"), [((2, 3), (2, 4, 9)), ((1, 4), (1, 3, 4)), ((3,), (6, 2)), ((3,), (3, 1)), (None, (5,))]
)
def test_cells_are_sums_over_their_own_values_and_add_up_to_log_p(
    grid: tuple[int, ...] | None, shape: tuple[int, ...]
) -> None:
    tokens = 4 if grid is None else len(sites(grid))
    values = normal(2, 3, *shape)
    cells = Reach(tokens, grid, 1).cells(values)
    torch.testing.assert_close(cells.sum(-1), values.flatten(2).sum(-1), rtol=1e-12, atol=1e-12)
    if grid is None:
        return
    axes = shape[1:] if len(grid) == 2 else shape[:1]  # rows and columns of an image, frames of a sequence
    expected = torch.zeros(2, 3, tokens, dtype=torch.float64)
    for place in itertools.product(*(range(size) for size in axes)):
        home = tuple(at * parts // size for at, parts, size in zip(place, grid, axes, strict=True))
        here = values[:, :, :, place[0], place[1]] if len(grid) == 2 else values[:, :, place[0]]
        expected[..., sites(grid).index(home)] += here.sum(-1)
    torch.testing.assert_close(cells, expected, rtol=1e-12, atol=1e-12)


# -- the returns -----------------------------------------------------------------------------------


def test_a_radius_that_covers_everything_is_the_reward_of_the_sequence() -> None:
    distribution = Independent(Normal(normal(4, 5, 2, 6, 9), 0.5), 3)
    y, log_q = normal(5, 2, 6, 9, seed=1), -normal(4, 5, 6, seed=2).abs()
    log_p, returns = SequenceCredit()(distribution, y, log_q)
    assert torch.equal(log_p, distribution.log_prob(y)) and torch.equal(returns.reward, log_p)
    assert torch.equal(returns.log_q, log_q.sum(-1))
    for tail in (0.0, 1.0):
        mine, local = LocalCredit(Reach(6, (2, 3), 2), tail).double()(distribution, y, log_q)
        torch.testing.assert_close(mine, log_p, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(local.reward, log_p.unsqueeze(-1).expand(4, 5, 6), rtol=1e-12, atol=1e-12)
    assert torch.equal(LocalCredit(Reach(6, (2, 3), 2), 0.0).double()(distribution, y, log_q)[1].log_q, log_q)


@pytest.mark.parametrize("tail", [0.0, 0.3, 1.0])
def test_the_return_of_a_token_is_what_it_reaches_and_a_share_of_what_later_ones_reach(tail: float) -> None:
    grid, radius, tokens = (2, 4), 1, 8
    distribution = Independent(Normal(normal(3, 2, 1, 4, 8), 0.5), 3)
    y, log_q = normal(2, 1, 4, 8, seed=1), -normal(3, 2, tokens, seed=2).abs()
    reach = Reach(tokens, grid, radius)
    cells = reach.cells(distribution.base_dist.log_prob(y))
    returns = LocalCredit(reach, tail).double()(distribution, y, log_q)[1]
    for t in range(tokens):
        near = {cell for cell in range(tokens) if reach.matrix[t, cell]}
        later = {cell for s in range(t + 1, tokens) for cell in range(tokens) if reach.matrix[s, cell]} - near
        reward = sum(cells[..., cell] for cell in near) + tail * sum(cells[..., cell] for cell in later)
        torch.testing.assert_close(returns.reward[..., t], reward, rtol=1e-12, atol=1e-12)
        price = log_q[..., t] + tail * log_q[..., t + 1 :].sum(-1)
        torch.testing.assert_close(returns.log_q[..., t], price, rtol=1e-12, atol=1e-12)


def test_log_p_carries_gradient_and_the_returns_do_not() -> None:
    mean = normal(2, 3, 4, 1).requires_grad_()
    log_p, returns = LocalCredit(Reach(4, (4,), 1), 1.0).double()(
        Independent(Normal(mean, 1.0), 2), normal(3, 4, 1), normal(2, 3, 4)
    )
    assert log_p.requires_grad and not returns.reward.requires_grad and not returns.log_q.requires_grad


@pytest.mark.parametrize(
    "distribution", [MultivariateNormal(torch.zeros(2), torch.eye(2)), Categorical(logits=torch.zeros(3))]
)
def test_a_distribution_that_does_not_factorise_has_no_cells(distribution: torch.distributions.Distribution) -> None:
    with pytest.raises(
        ValueError, match=rf"factorises over values .* got {type(distribution).__name__}; use method.credit"
    ):
        value_log_prob(distribution, torch.zeros(2))


# -- exact policy gradients ------------------------------------------------------------------------

T, BETA = 5, 0.7
CODES = torch.tensor(list(itertools.product(range(2), repeat=T)))  # every code of 5 binary tokens


def decoded(radius: int) -> tuple[Independent, Tensor]:
    """p(x|z) of all codes and one datum of 2 T frames, from random tables: a frame sees the tokens within radius."""
    generator = torch.Generator().manual_seed(1)
    means = torch.empty(len(CODES), 1, 2 * T, 1, dtype=torch.float64)
    for frame in range(2 * T):
        first, last = max(frame // 2 - radius, 0), min(frame // 2 + radius, T - 1)
        table = torch.randn((2,) * (last - first + 1), dtype=torch.float64, generator=generator)
        means[:, 0, frame, 0] = table[tuple(CODES[:, first : last + 1].T)]
    return Independent(Normal(means, 0.8), 2), normal(1, 2 * T, 1, seed=2)


def factorised(parameters: Tensor) -> Tensor:
    """log q of every token of every code, from a logit a token."""
    return torch.nn.functional.logsigmoid(torch.where(CODES == 1, parameters[:T], -parameters[:T]))


def autoregressive(parameters: Tensor) -> Tensor:
    """log q of every token given those before it, from a logit a prefix."""
    prefix = torch.stack([2**t - 1 + (CODES[:, :t] * 2 ** torch.arange(t)).sum(-1) for t in range(T)], -1)
    logits = parameters[prefix]
    return torch.nn.functional.logsigmoid(torch.where(CODES == 1, logits, -logits))


def gradients(
    policy: Callable[[Tensor], Tensor], decoder_radius: int, credit: LocalCredit | SequenceCredit
) -> tuple[Tensor, Tensor]:
    """The exact gradient of E_q[log p] + beta H(q), and the exact mean of grad log q_t times the return of t."""
    parameters = normal(2**T - 1, seed=3).requires_grad_()
    log_q = policy(parameters)
    distribution, y = decoded(decoder_radius)
    _, returns = credit(distribution, y, log_q.detach().unsqueeze(1))
    advantage = (returns.reward - BETA * returns.log_q).squeeze(1)
    q = log_q.sum(-1).exp()
    log_p = distribution.log_prob(y).squeeze(1)
    objective = (q * (log_p - BETA * log_q.sum(-1))).sum()
    score = (q.detach() * (log_q * (advantage if advantage.ndim == 2 else advantage.unsqueeze(-1))).sum(-1)).sum()
    exact, mine = (torch.autograd.grad(total, parameters, retain_graph=True)[0] for total in (objective, score))
    return exact, mine


def local(radius: int, tail: float) -> LocalCredit:
    """Local credit on a line of T tokens."""
    return LocalCredit(Reach(T, (T,), radius), tail).double()


@pytest.mark.parametrize("decoder_radius", [0, 1, 2])
def test_tail_1_is_exact_for_autoregressive_and_tail_0_for_parallel_policies(decoder_radius: int) -> None:
    for policy, tail in ((autoregressive, 1.0), (factorised, 1.0), (factorised, 0.0)):
        exact, mine = gradients(policy, decoder_radius, local(decoder_radius, tail))
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-12)
        assert float(exact.norm()) > 0.1
    for policy in (autoregressive, factorised):
        exact, mine = gradients(policy, decoder_radius, SequenceCredit())
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-12)


def test_less_than_that_is_biased() -> None:
    for policy, radius, tail in ((autoregressive, 1, 0.0), (autoregressive, 0, 1.0), (factorised, 0, 0.0)):
        exact, mine = gradients(policy, 1, local(radius, tail))
        assert float((mine - exact).norm() / exact.norm()) > 0.01


def test_what_all_tokens_earn_is_shared_like_the_reward() -> None:
    earned = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    credit = LocalCredit(Reach(4, (4,), 0), tail=0.5)
    shared = credit.share(earned)
    for t in range(4):
        expected = earned[..., t] + 0.5 * earned[..., t + 1 :].sum(-1)
        torch.testing.assert_close(shared[..., t], expected)
    torch.testing.assert_close(SequenceCredit().share(earned), earned.sum(-1))
