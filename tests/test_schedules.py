"""Schedules at their ends, in their middle, and beyond."""

import math

import pytest

from daps.schedules import Constant, Cosine, Exponential, Schedule


@pytest.mark.parametrize("kind", [Exponential, Cosine])
@pytest.mark.parametrize(("first", "last"), [(6.0, 0.01), (0.01, 6.0), (2.0, 2.0)])
def test_from_first_to_last_and_there_to_stay(kind: type[Exponential | Cosine], first: float, last: float) -> None:
    schedule = kind(first, last, 7)
    values = [schedule(step) for step in range(30)]
    assert values[0] == pytest.approx(first, rel=1e-15)
    assert values[7:] == pytest.approx([last] * 23, rel=1e-15)
    assert values == sorted(values, reverse=first > last)


def test_the_exponential_has_a_constant_ratio() -> None:
    schedule = Exponential(50.0, 1.0, 300_000)
    assert schedule(150_000) == pytest.approx(math.sqrt(50), rel=1e-12)
    ratios = [schedule(step + 1) / schedule(step) for step in range(0, 300_000, 50_000)]
    assert ratios == pytest.approx([50.0 ** (-1 / 300_000)] * 6, rel=1e-12)


def test_the_cosine_at_a_third_and_a_half() -> None:
    schedule = Cosine(1.0, 0.1, 6)
    assert schedule(2) == pytest.approx(0.1 + 0.9 * 0.75, rel=1e-12)
    assert schedule(3) == pytest.approx(0.55, rel=1e-12)


def test_a_constant() -> None:
    schedule: Schedule = Constant(0.5)
    assert {schedule(step) for step in (0, 1, 10**9)} == {0.5}


@pytest.mark.parametrize(("first", "last", "steps"), [(0.0, 1.0, 5), (1.0, 0.0, 5), (1.0, -1.0, 5), (1.0, 0.1, 0)])
def test_an_exponential_that_cannot_be(first: float, last: float, steps: int) -> None:
    with pytest.raises(ValueError, match=f"got {first:g}, {last:g}, {steps}; for a fixed value use Constant"):
        Exponential(first, last, steps)


def test_a_cosine_without_steps() -> None:
    with pytest.raises(ValueError, match="Cosine: steps must be >= 1, got 0; for a fixed value use Constant"):
        Cosine(1.0, 0.1, 0)
