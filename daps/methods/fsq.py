"""FSQ: finite scalar quantisation (Mentzer et al., 2023), the straight-through baseline.

Each token is a point of a small lattice: every coordinate is squashed into its range and rounded. The gradient
passes the rounding as if it were the identity. No codebook, no auxiliary loss.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from daps.architecture import Architecture
from daps.methods.base import Autoencoder, MethodConfig, Metrics
from daps.quantiser import QuantisedEmbedding, QuantisedEncoder, Quantiser, quantised_figures, straight_through
from daps.scaling import Scaling
from daps.symbols import mixed_radix


@dataclass(frozen=True)
class FSQConfig(MethodConfig):
    """Settings of FSQ."""

    parallel_only: ClassVar[bool] = True
    levels: tuple[int, ...] = (8, 6, 5)
    """Levels of each coordinate; their product is the number of symbols."""

    def __post_init__(self) -> None:
        if not self.levels or not 2 <= min(self.levels) <= max(self.levels) <= 1000:
            raise ValueError(
                f"method.levels: needs one or more numbers in 2..1000, got {self.levels}; the paper takes 8 6 5"
            )

    @property
    def targets(self) -> dict[str, float]:
        """None."""
        return {}

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "FSQ":
        """The untrained model; its encoder is a trunk with one patch per token."""
        if nets.vocab_size != math.prod(self.levels):
            raise ValueError(
                f"method.levels: {self.levels} make {math.prod(self.levels)} symbols, but nets.vocab_size is "
                f"{nets.vocab_size}; change either"
            )
        lattice = Lattice(self.levels)
        encoder = QuantisedEncoder(nets.parallel_trunk(), lattice)
        embedding = QuantisedEmbedding(lattice, nets.width, own=nets.structure != "free")
        return FSQ(encoder, nets.decoder(embedding), nets.data_shape, scaling)


class Lattice(Quantiser):
    """The points of a finite lattice with `levels` values per coordinate, each coordinate within [-1, 1].

    Symbol v has the mixed-radix digits of v, first coordinate fastest.
    """

    levels: Tensor
    radix: Tensor
    points: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.size, self.dimensions = math.prod(levels), len(levels)
        sizes = torch.tensor(levels)
        self.register_buffer("levels", sizes, persistent=False)
        self.register_buffer("radix", sizes.cumprod(0) // sizes, persistent=False)
        points = (mixed_radix(torch.arange(self.size), sizes) - sizes // 2) / (sizes // 2)
        self.register_buffer("points", points, persistent=False)

    def place(self, h: Float[Tensor, "*N L"]) -> Float[Tensor, "*N L"]:
        """Squashed into the range of the lattice."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = (1 - self.levels % 2) / 2  # an even number of levels has no middle one
        # The shift puts h = 0 on a level. With two levels it would lie where tanh is flat, so these go without.
        shift = torch.atanh(offset / half).where(self.levels > 2, 0.0)
        return (torch.tanh(h + shift) * half - offset) / (self.levels // 2)

    def symbols(self, z: Float[Tensor, "*N L"]) -> Int[Tensor, "*N"]:
        """The lattice point that each coordinate rounds to."""
        steps = (z * (self.levels // 2)).nan_to_num(0.0)  # what is not finite shows in the loss, which skips the step
        digits = steps.round().long() + self.levels // 2
        return (digits * self.radix).sum(-1)

    def vectors(self, symbols: Int[Tensor, "*N"]) -> Float[Tensor, "*N L"]:
        """The lattice points of symbols."""
        return F.embedding(symbols, self.points)


class FSQ(Autoencoder):
    """Maximum likelihood through rounding. Its encoder must be a QuantisedEncoder on a Lattice."""

    encoder: QuantisedEncoder

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """-log p(x|z) of the batch, nats."""
        y, lattice = self.scaling(x), self.encoder.quantiser
        z = self.encoder.features(y)
        codes = lattice.symbols(z)
        log_p = self.decoder(straight_through(z, lattice.vectors(codes))).log_prob(y).mean()
        return -log_p, quantised_figures(log_p, codes, self.vocab_size)

    @property
    def final_beta(self) -> float:
        """Its code length is constant, so any price serves: the paper's."""
        return 0.01
