"""Places where robots fall are found, forgotten, and begun at as often as they are fallen at."""

import pytest
import torch

from daps.robot.difficulty import Difficulty

LENGTHS = torch.tensor([120, 50, 51])  # three seconds, one, two


def rounds(difficulty: Difficulty, count: int, clip: int, frame: int, share: float) -> None:
    """A hundred robots at a place for some rounds, a share of which fall."""
    for _ in range(count):
        fallen = torch.arange(100) < 100 * share
        difficulty.observe(torch.full((100,), clip), torch.full((100,), frame), fallen)


def test_rates_are_falls_over_visits() -> None:
    difficulty = Difficulty(LENGTHS, memory=1.0, prior=0.0)
    assert difficulty.owner.tolist() == [0, 0, 0, 1, 2, 2]
    for clip, frame, share in ((0, 0, 0.1), (0, 60, 0.5), (0, 119, 0.2), (1, 400, 0.3), (2, 49, 0.0), (2, 50, 0.4)):
        rounds(difficulty, 3, clip, frame, share)
    torch.testing.assert_close(difficulty.rates(), torch.tensor([0.1, 0.5, 0.2, 0.3, 0.0, 0.4]), rtol=0, atol=1e-6)


def test_where_nobody_has_been_is_as_hard_as_the_mean() -> None:
    difficulty = Difficulty(LENGTHS, memory=1.0, prior=4.0)
    assert difficulty.rates().unique().numel() == 1  # and before anything is known all places are alike
    rounds(difficulty, 1, 0, 0, 0.5)
    rounds(difficulty, 1, 0, 60, 0.1)
    rates = difficulty.rates()
    torch.testing.assert_close(rates[2:], torch.full((4,), 0.3), rtol=0, atol=1e-5)
    assert 0.48 < rates[0] < 0.5 and 0.1 < rates[1] < 0.12


def test_what_was_learned_since_counts_more() -> None:
    difficulty = Difficulty(LENGTHS, memory=0.5, prior=0.0)
    rounds(difficulty, 20, 1, 0, 0.8)
    rounds(difficulty, 3, 1, 0, 0.0)
    assert float(difficulty.rates()[3]) == pytest.approx(0.8 / 8, rel=1e-3)


def test_robots_begin_in_the_two_seconds_before_in_proportion() -> None:
    difficulty = Difficulty(LENGTHS, memory=1.0, prior=0.0)
    for clip, frame, share in ((0, 0, 0.0), (0, 60, 0.6), (0, 119, 0.0), (1, 0, 0.0), (2, 0, 0.0), (2, 50, 0.2)):
        rounds(difficulty, 1, clip, frame, share)
    clip, frame = difficulty.draw(40_000, torch.Generator().manual_seed(0))
    assert float((clip == 0).float().mean()) == pytest.approx(0.75, abs=0.01) and not bool((clip == 1).any())
    first = frame[clip == 0]
    assert int(first.min()) == 0 and int(first.max()) == 49  # the second of the falls is 50..99
    assert float((first == 0).float().mean()) == pytest.approx(0.51, abs=0.01)  # half of them from before the motion
    assert int(frame[clip == 2].max()) == 49
    difficulty = Difficulty(torch.tensor([400]), memory=1.0, prior=0.0)
    for frame_of_round in range(0, 400, 50):
        rounds(difficulty, 1, 0, frame_of_round, float(frame_of_round == 300))
    frames = difficulty.draw(40_000, torch.Generator().manual_seed(0))[1]
    assert (int(frames.min()), int(frames.max())) == (200, 299)
