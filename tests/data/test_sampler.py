import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daps.data import batch_indices

WORDS = st.integers(0, 2**64 - 1)


@given(WORDS, WORDS, st.integers(1, 10**6), st.integers(1, 100), WORDS)
def test_indices_are_a_pure_function_in_range(seed, step, size, batch_size, rank):
    first = batch_indices(seed, step, size, batch_size, rank)
    np.random.default_rng(0).random(7)  # another generator's use changes nothing
    assert first.dtype == np.int64 and first.shape == (batch_size,)
    assert first.min() >= 0 and first.max() < size
    assert np.array_equal(first, batch_indices(seed, step, size, batch_size, rank))


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=2, max_size=5, unique=True))
def test_each_seed_step_and_rank_has_its_own_stream(keys):
    drawn = {batch_indices(seed, step, 2**62, 4, rank).tobytes() for seed, step, rank in keys}
    assert len(drawn) == len(keys)


def test_neighbouring_streams_do_not_overlap():
    drawn = np.concatenate([batch_indices(0, step, 2**62, 1000, r) for step in range(4) for r in (0, 1)])
    assert len(np.unique(drawn)) == len(drawn)


def test_indices_are_uniform_over_steps():
    drawn = np.concatenate([batch_indices(3, step, 10, 100) for step in range(200)])
    counts = np.bincount(drawn, minlength=10)
    # chi-square with 9 degrees of freedom: 27.9 is its 99.9 % quantile; the draw is fixed
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 0, 1), "size must be at least 1, got 0"),
        ((0, 0, 1, 0), "batch_size must be at least 1, got 0"),
        ((-1, 0, 1, 1), "seed must lie in 0..2^64 - 1, got -1"),
        ((0, -2, 1, 1), "step must lie in 0..2^64 - 1, got -2"),
        ((0, 0, 1, 1, -3), "rank must lie in 0..2^64 - 1, got -3"),
        ((2**64, 0, 1, 1), "seed must lie in 0..2^64 - 1, got 18446744073709551616"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as error:
        batch_indices(*arguments)
    assert str(error.value) == message
