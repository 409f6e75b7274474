"""Natural units <-> model units: a model takes and gives data as people have them and scales inside."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributions import Distribution


class Scaling(nn.Module, ABC):
    """A map from natural units to those in which the networks and the likelihood work.

    `peak` is the range of the data in natural units: 255 for 8-bit pictures, largest minus smallest for arrays, and
    that of each feature for motion, whose features have different units.
    """

    peak: Tensor

    @abstractmethod
    def forward(self, x: Shaped[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """Natural units -> model units."""

    @abstractmethod
    def inverse(self, y: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """Model units -> natural units."""

    @abstractmethod
    def scale(self) -> Tensor:
        """Natural units per model unit, broadcastable to a datum."""

    def variance(self, variance: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """Natural units squared, of independent values in model units."""
        return variance * self.scale() ** 2

    def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a datum in model units, from that in natural units."""
        return shape

    def data_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The inverse of model_shape."""
        return shape

    def fit(self, values: Any) -> None:
        """Learns what it needs of the training data [N, *shape] beyond their mean and deviation: nothing, mostly."""


class Affine(Scaling):
    """y = (x - shift) / scale, with numbers per channel or per feature; the identity by default."""

    shift: Tensor
    unit: Tensor

    def __init__(self, shift: Tensor | float = 0.0, scale: Tensor | float = 1.0, peak: Tensor | float = 1.0) -> None:
        super().__init__()
        self.register_buffer("peak", torch.as_tensor(peak, dtype=torch.float32))
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.float32))
        self.register_buffer("unit", torch.as_tensor(scale, dtype=torch.float32))
        if not bool((self.unit > 0).all()):
            raise ValueError(f"scale: every number must be > 0, got {float(self.unit.min()):g}; take 1 for constants")

    def forward(self, x: Shaped[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """(x - shift) / scale."""
        return (x.to(self.unit.dtype) - self.shift) / self.unit

    def inverse(self, y: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """y * scale + shift."""
        return y * self.unit + self.shift

    def scale(self) -> Tensor:
        """The scale."""
        return self.unit


class Threshold(Scaling):
    """y = 1 where x > peak / 2, else 0: binarised images (for 8 bits, pixel > 127)."""

    def __init__(self, peak: float = 255.0) -> None:
        super().__init__()
        self.register_buffer("peak", torch.tensor(float(peak)))

    def forward(self, x: Shaped[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """Binary values as floats."""
        return (x > self.peak / 2).to(self.peak.dtype)

    def inverse(self, y: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """A probability of 1 is a pixel at its peak."""
        return y * self.peak

    def scale(self) -> Tensor:
        """The peak."""
        return self.peak


class Scaled(Distribution):
    """A distribution in model units, spoken to in natural units.

    Mean, stddev and samples are in natural units. `log_prob(x)` takes x in natural units and is the density of
    the scaled datum, in nats: the unit of the paper's figures and of the reward in training.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Distribution, scaling: Scaling) -> None:
        self.base, self.scaling = base, scaling
        event_shape = torch.Size(scaling.data_shape(tuple(base.event_shape)))
        super().__init__(base.batch_shape, event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Natural units, [*batch, *event]."""
        return self.scaling.inverse(self.base.mean)

    @property
    def variance(self) -> Tensor:
        """Natural units squared."""
        return self.scaling.variance(self.base.variance)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()) -> Tensor:
        """Draws in natural units."""
        return self.scaling.inverse(self.base.sample(torch.Size(sample_shape)))

    def __repr__(self) -> str:
        return f"Scaled({self.base}, {self.scaling})"

    def log_prob(self, value: Tensor | np.ndarray) -> Tensor:
        """Log-density of the scaled value, nats, [*batch]."""
        value = torch.as_tensor(value, device=self.scaling.peak.device)
        return self.base.log_prob(self.scaling(value))


def statistics(values: np.ndarray, chunk: int = 4096, least_variance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of data [N, *shape], per channel of images and per feature of all else.

    Images [C, H, W] give [C, 1, 1], sequences [F, C] give [C], vectors [D] give [D]. A feature that varies by
    less than float32 resolves (1e-6 of its mean), or whose variance is below `least_variance`, is constant: its
    deviation is 1, so that nothing is divided by noise. It then costs next to nothing, as if it were dropped.
    """
    if values.ndim not in (2, 3, 4):
        raise ValueError(f"data: must be vectors, sequences or images [N, ...], got an array {list(values.shape)}")
    axes = {4: (0, 2, 3), 3: (0, 1), 2: (0,)}[values.ndim]
    total: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    for start in range(0, len(values), chunk):
        part = np.asarray(values[start : start + chunk], dtype=np.float64)
        total = total + part.sum(axes)
    count = values.size // np.size(total)
    mean = np.asarray(total / count)
    shape = (-1, 1, 1) if values.ndim == 4 else (-1,)
    for start in range(0, len(values), chunk):
        part = np.asarray(values[start : start + chunk], dtype=np.float64)
        squares = squares + ((part - mean.reshape(shape)) ** 2).sum(axes)
    deviation = np.sqrt(np.asarray(squares / count))
    constant = (deviation <= 1e-6 * np.abs(mean)) | (deviation**2 < least_variance)
    deviation = np.where(constant, 1.0, deviation)
    return (
        torch.tensor(mean.reshape(shape), dtype=torch.float32),
        torch.tensor(deviation.reshape(shape), dtype=torch.float32),
    )
