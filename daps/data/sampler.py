"""Which data are in which batch: a pure function of (seed, step, rank)."""

import numpy as np
from numpy.typing import NDArray


def batch_indices(seed: int, step: int, size: int, batch_size: int, rank: int = 0) -> NDArray[np.int64]:
    """Indices [batch_size] into a set of `size` data, drawn uniformly with replacement.

    Depends on its arguments alone, so a resumed run sees the data that an uninterrupted one sees.
    Each (seed, step, rank) has its own stream: the seed is Philox's key, step and rank are words
    of its counter that the stream itself does not reach. Raises ValueError for counts below 1
    and for a seed, step or rank outside 0..2^64 - 1.
    """
    for name, value in (("size", size), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, value in (("seed", seed), ("step", step), ("rank", rank)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} must lie in 0..2^64 - 1, got {value}")
    key = np.array([seed, 0], dtype=np.uint64)
    counter = np.array([0, 0, step, rank], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return generator.integers(size, size=batch_size, dtype=np.int64)
