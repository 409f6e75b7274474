"""Sequences as the coefficients of an orthonormal transform that the data choose, dealt out to the tokens.

Neighbouring frames of a motion say nearly the same, so a token that answers for a short piece of time spends its bits
on what its neighbours have told. Cosines over time and, for each frequency, principal components of the features
have next to no correlation left: nearly what principal components of whole windows would save, with one matrix
[C, C] a frequency in place of [F C, F C] (docs/learning.md, "Motion as coefficients").

The map is orthonormal, so log p(x|z) of a Gaussian, its KL and squared errors are what they are in standardised units.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from daps.scaling import Affine


class Spectral(Affine):
    """Standardised sequences [F, C] <-> coefficients [T, F C / T], the same share of large and small for every token.

    Args:
        shift, scale, peak: of the features, as in Affine.
        shape: (F, C), frames and features.
        tokens: T; must divide F C.

    Raises:
        ValueError: data of another kind, or a T that does not divide.
    """

    cosines: Tensor
    components: Tensor
    order: Tensor

    def __init__(
        self, shift: Tensor | float, scale: Tensor | float, peak: Tensor | float, shape: tuple[int, ...], tokens: int
    ) -> None:
        super().__init__(shift, scale, peak)
        if len(shape) != 2:
            raise ValueError(f"data.scaling: spectral is for sequences [F, C], got {list(shape)}; take standardise")
        size = math.prod(shape)
        if size % tokens:
            raise ValueError(
                f"data.scaling: spectral deals {shape[0]} x {shape[1]} = {size} coefficients to the tokens, and "
                f"nets.num_tokens = {tokens} does not divide them; change it, or take standardise"
            )
        self.shape, self.tokens = (shape[0], shape[1]), tokens
        self.register_buffer("cosines", cosines(shape[0]), persistent=False)
        self.register_buffer("components", torch.eye(shape[1]).repeat(shape[0], 1, 1))
        self.register_buffer("order", deal(size, tokens))

    def fit(self, values: Any, most: int = 50_000) -> None:
        """Principal components of every frequency, from at most `most` evenly spaced data of values [N, F, C]."""
        rows = np.arange(0, len(values), -(-len(values) // most))
        second = torch.zeros_like(self.components, dtype=torch.float64)
        for part in np.array_split(rows, -(-len(rows) // 4096)):
            spectrum = self.cosines @ super().forward(torch.as_tensor(values[part], device=self.shift.device))
            second += torch.einsum("nfc,nfd->fcd", spectrum, spectrum)
        variance, components = torch.linalg.eigh(second / len(rows))
        self.components.copy_(components)
        by_variance = variance.flatten().argsort(descending=True, stable=True)
        self.order.copy_(by_variance[deal(len(by_variance), self.tokens)])

    def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(T, F C / T)."""
        return self.tokens, math.prod(shape) // self.tokens

    def data_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(F, C)."""
        return self.shape

    def forward(self, x: Shaped[Tensor, "*N F C"]) -> Float[Tensor, "*N T S"]:
        """Coefficients of (x - shift) / scale."""
        coefficients = torch.einsum("...fc,fcd->...fd", self.cosines @ super().forward(x), self.components)
        return coefficients.flatten(-2)[..., self.order].unflatten(-1, (self.tokens, -1))

    def inverse(self, y: Float[Tensor, "*N T S"]) -> Float[Tensor, "*N F C"]:
        """The data with these coefficients."""
        return super().inverse(self._synthesis(y, self.cosines, self.components))

    def variance(self, variance: Float[Tensor, "*N T S"]) -> Float[Tensor, "*N F C"]:
        """Of the data, from that of independent coefficients."""
        return self._synthesis(variance, self.cosines**2, self.components**2) * self.scale() ** 2

    def _synthesis(self, y: Tensor, cosines: Tensor, components: Tensor) -> Tensor:
        flat = torch.zeros_like(y.flatten(-2)).index_copy(-1, self.order, y.flatten(-2))
        return cosines.T @ torch.einsum("...fd,fcd->...fc", flat.unflatten(-1, self.shape), components)


def cosines(frames: int) -> Float[Tensor, "F F"]:
    """The orthonormal cosine transform (DCT-II): row k is the cosine of k half-periods over the frames."""
    place = torch.arange(frames, dtype=torch.float64)
    basis = torch.cos(math.pi / frames * (place + 0.5) * place[:, None]) * math.sqrt(2 / frames)
    basis[0] /= math.sqrt(2)
    return basis.float()


def deal(count: int, tokens: int) -> Shaped[Tensor, " N"]:
    """Ranks 0..count - 1, token after token, dealt in turns that change direction: 0..T-1, then back from T to 2T-1."""
    turns = torch.arange(count).view(-1, tokens)
    turns[1::2] = turns[1::2].flip(-1)
    return turns.T.flatten()
