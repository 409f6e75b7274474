"""Likelihoods p(x|z): network outputs -> torch distributions over x."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal


class Likelihood(ABC):
    """Turns `channels` network outputs per value of x into a distribution over x."""

    channels: int

    @abstractmethod
    def __call__(self, parameters: Float[Tensor, "..."], event_dims: int) -> Distribution:
        """The distribution with batch shape N and the last `event_dims` axes of parameters as its event."""


@dataclass(frozen=True)
class BernoulliLikelihood(Likelihood):
    """Independent binary values; log p from logits, never clamped, so a confident mistake keeps its gradient."""

    channels = 1

    def __call__(self, parameters: Float[Tensor, "..."], event_dims: int) -> Distribution:
        """Parameters are logits."""
        logits = parameters.squeeze(-event_dims - 1)
        return Independent(Bernoulli(logits=logits, validate_args=False), event_dims, validate_args=False)


@dataclass(frozen=True)
class GaussianLikelihood(Likelihood):
    """Independent normal values whose variance is learned between two bounds, or fixed where they are equal.

    log variance = log min + sigmoid(raw) (log max - log min): a floor keeps the likelihood bounded.
    """

    min_variance: float
    max_variance: float

    def __post_init__(self) -> None:
        if not 0 < self.min_variance <= self.max_variance < math.inf:
            raise ValueError(
                "nets.variance: needs 0 < min <= max < inf, got "
                f"({self.min_variance:g}, {self.max_variance:g}); equal bounds fix the variance"
            )

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Mean alone, or mean and raw log-variance."""
        return 1 if self.min_variance == self.max_variance else 2

    def __call__(self, parameters: Float[Tensor, "..."], event_dims: int) -> Distribution:
        """Parameters are the mean and, where the variance is learned, its raw value."""
        mean = parameters.select(-event_dims - 1, 0)
        if self.channels == 1:
            scale = mean.new_tensor(math.sqrt(self.min_variance)).expand_as(mean)
        else:
            low, high = math.log(self.min_variance), math.log(self.max_variance)
            raw = parameters.select(-event_dims - 1, 1)
            scale = (0.5 * (low + (high - low) * torch.sigmoid(raw))).exp()
        return Independent(Normal(mean, scale, validate_args=False), event_dims, validate_args=False)
