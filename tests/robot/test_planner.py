"""Plans are samples of an exact distribution, conditions count when given, guidance is what its equation says."""

import itertools

import pytest
import torch

from daps.robot.labels import Command
from daps.robot.planner import Conditions, Planner, PlannerConfig

TINY = PlannerConfig(width=16, heads=2, trunk_layers=1, token_layers=1, structure="free")


def planner(tokens: int = 2, symbols: int = 3) -> Planner:
    torch.manual_seed(0)
    made = Planner(tokens, symbols, 2, 5, TINY)
    with torch.no_grad():
        made.policy.head.weight.mul_(2.0)  # far from uniform
    return made


def conditions(rows: int, seed: int = 0) -> Conditions:
    generator = torch.Generator().manual_seed(seed)
    text = torch.nn.functional.normalize(torch.randn(rows, 384, generator=generator), dim=-1)
    commands = [Command(*row) for row in torch.randn(rows, 3, generator=generator).tolist()]
    return Conditions.of(torch.randn(rows, 2, 5, generator=generator), text, commands)


def codes_of(tokens: int, symbols: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(symbols), repeat=tokens)))


def distribution(made: Planner, given: Conditions) -> torch.Tensor:
    """p of every code sequence for one row of conditions."""
    codes = codes_of(2, 3)
    same = given.rows(torch.zeros(len(codes), dtype=torch.long))
    return made.log_prob(same, codes).sum(-1).exp()


def test_probabilities_sum_to_one_and_samples_follow_them() -> None:
    made, given = planner(), conditions(1)
    p = distribution(made, given)
    torch.testing.assert_close(p.sum(), torch.tensor(1.0))
    many = given.rows(torch.zeros(20_000, dtype=torch.long))
    drawn = made.plan(many, generator=torch.Generator().manual_seed(0))
    found = torch.bincount(3 * drawn[:, 0] + drawn[:, 1], minlength=9) / len(drawn)
    torch.testing.assert_close(found, p.detach(), rtol=0, atol=0.015)


def test_guidance_samples_the_mixture_of_its_equation() -> None:
    """Token by token: log p is that without conditions plus w times what they add, normalised."""
    made, given = planner(), conditions(1)
    nothing = torch.ones(1, dtype=torch.bool)
    free, codes = given.without(nothing, nothing), codes_of(2, 3)
    rows = torch.zeros(9, dtype=torch.long)
    with torch.no_grad():
        logs = [made.policy.logits(c.rows(rows).packed(), codes[None])[0].log_softmax(-1) for c in (given, free)]
    mixed = (logs[1] + 2.5 * (logs[0] - logs[1])).log_softmax(-1)
    p = mixed.gather(-1, codes[..., None]).squeeze(-1).sum(-1).exp()
    drawn = made.plan(
        given.rows(torch.zeros(20_000, dtype=torch.long)), 2.5, generator=torch.Generator().manual_seed(0)
    )
    found = torch.bincount(3 * drawn[:, 0] + drawn[:, 1], minlength=9) / len(drawn)
    torch.testing.assert_close(found, p, rtol=0, atol=0.015)
    assert (p - distribution(made, given)).abs().max() > 0.03
    greedy = made.plan(given, 2.5, temperature=0.0)[0]
    first = mixed[0, 0].argmax()
    assert greedy[0] == first and greedy[1] == mixed[3 * first, 1].argmax()


def test_what_is_not_given_does_not_count_and_what_is_given_does() -> None:
    made, codes = planner(), codes_of(2, 3)[:4]
    one, other = conditions(4), conditions(4, seed=1)
    mixed = Conditions(other.text, other.command, one.past, one.has_text, one.has_command)
    yes, no = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    same = [made.log_prob(c.without(yes, yes), codes) for c in (one, mixed)]
    assert torch.equal(*same)
    for text, command in ((no, yes), (yes, no)):
        assert not torch.allclose(*(made.log_prob(c.without(text, command), codes) for c in (one, mixed)), atol=1e-4)
    bare = Conditions.of(one.past)
    assert torch.equal(made.log_prob(bare, codes), same[0]) and not bare.has_text.any()


def test_a_planner_learns_which_codes_belong_to_a_command() -> None:
    made = planner()
    generator = torch.Generator().manual_seed(0)
    speeds = torch.rand(512, generator=generator) * 2 - 1
    given = Conditions.of(torch.zeros(512, 2, 5), None, [Command(float(s)) for s in speeds])
    codes = torch.stack(((speeds > 0).long(), (speeds.abs() > 0.5).long()), -1)
    made.fit_scales(given)
    optimizer = torch.optim.Adam(made.parameters(), 5e-3)
    for _ in range(400):
        rows = torch.randint(512, (128,), generator=generator)
        optimizer.zero_grad()
        made.loss(given.rows(rows), codes[rows], generator).backward()
        optimizer.step()
    asked = Conditions.of(torch.zeros(4, 2, 5), None, [Command(s) for s in (-0.9, -0.2, 0.2, 0.9)])
    assert made.plan(asked, guidance=2.0, temperature=0.0).tolist() == [[0, 1], [0, 0], [1, 0], [1, 1]]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance: must be >= 0, got -1"):
        planner().plan(conditions(1), guidance=-1.0)
    with pytest.raises(ValueError, match=r"planner.left_out: a chance in \[0, 1\), got 1"):
        PlannerConfig(left_out=1.0)
    with pytest.raises(ValueError, match="planner.heads: must divide planner.width = 10, got 4"):
        PlannerConfig(width=10)
