"""Data for the small model of tests/builders.py."""

import pytest
from torch import Tensor

from builders import normal


@pytest.fixture
def x() -> Tensor:
    return normal(5, 6, seed=1)
