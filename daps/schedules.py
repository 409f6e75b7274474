"""Schedules: a step (0, 1, 2, ...) to a number. Each reaches its last value at `steps` and keeps it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The same value at every step."""

    value: float

    def __call__(self, step: int) -> float:
        """The value at `step`."""
        return self.value


@dataclass(frozen=True)
class Exponential:
    """first * (last / first) ** (step / steps): the paper's decay of beta."""

    first: float
    last: float
    steps: int

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.last > 0 and self.steps >= 1):
            raise ValueError(
                "Exponential: first and last must be > 0 and steps >= 1, got "
                f"{self.first:g}, {self.last:g}, {self.steps}; for a fixed value use Constant"
            )

    def __call__(self, step: int) -> float:
        """The value at `step`."""
        return self.first * (self.last / self.first) ** min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from first to last."""

    first: float
    last: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Cosine: steps must be >= 1, got {self.steps}; for a fixed value use Constant")

    def __call__(self, step: int) -> float:
        """The value at `step`."""
        progress = min(step / self.steps, 1.0)
        return self.last + (self.first - self.last) * 0.5 * (1 + math.cos(math.pi * progress))


Schedule = Constant | Exponential | Cosine
