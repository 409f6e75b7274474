"""FSQ: finite scalar quantisation (Mentzer et al., 2023), the straight-through baseline.

Each token is a point of a small lattice: every coordinate is squashed into its range and rounded. The gradient
passes the rounding as if it were the identity. No codebook, no auxiliary loss.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.encoder import Encoder
from daps.methods.base import Autoencoder, MethodConfig, Metrics
from daps.metrics import code_bits
from daps.nn.linear import linear
from daps.nn.transformer import Trunk
from daps.scaling import Scaling
from daps.symbols import CodeEmbedding, mixed_radix


@dataclass(frozen=True)
class FSQConfig(MethodConfig):
    """Settings of FSQ."""

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
        encoder = LatticeEncoder(nets.parallel_trunk(), lattice)
        embedding = LatticeEmbedding(lattice, nets.width, own=nets.structure != "free")
        return FSQ(encoder, nets.decoder(embedding), nets.data_shape, scaling)


class Lattice(nn.Module):
    """The points of a finite lattice with `levels` values per coordinate, each coordinate within [-1, 1].

    Symbol v has the mixed-radix digits of v, first coordinate fastest.
    """

    levels: Tensor
    radix: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.size, self.dimensions = math.prod(levels), len(levels)
        sizes = torch.tensor(levels)
        self.register_buffer("levels", sizes, persistent=False)
        self.register_buffer("radix", sizes.cumprod(0) // sizes, persistent=False)

    def points(self, symbols: Int[Tensor, "*N"]) -> Float[Tensor, "*N L"]:
        """The lattice points of symbols."""
        return (mixed_radix(symbols, self.levels) - self.levels // 2) / (self.levels // 2)

    def symbols(self, points: Float[Tensor, "*N L"]) -> Int[Tensor, "*N"]:
        """The symbols of lattice points."""
        digits = (points * (self.levels // 2)).round().long() + self.levels // 2
        return (digits * self.radix).sum(-1)

    def quantise(self, z: Float[Tensor, "*N L"]) -> Float[Tensor, "*N L"]:
        """The nearest lattice points of squashed reals; the gradient is that of the squashing alone."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = (1 - self.levels % 2) / 2  # an even number of levels has no middle one
        # The shift puts z = 0 on a level. With two levels it would lie where tanh is flat, so these go without.
        shift = torch.atanh(offset / half).where(self.levels > 2, 0.0)
        squashed = torch.tanh(z + shift) * half - offset
        rounded = squashed + (squashed.round() - squashed).detach()
        return rounded / (self.levels // 2)


class LatticeEmbedding(CodeEmbedding):
    """A linear map of lattice points: symbols that are neighbours on the lattice have similar vectors.

    With `own`, every symbol also has a vector of its own that starts at zero, as other methods' structured symbols.
    """

    def __init__(self, lattice: Lattice, width: int, own: bool = False) -> None:
        super().__init__()
        self.vocab_size = lattice.size
        self.lattice = lattice
        self.project = linear(lattice.dimensions, width)
        self.own = nn.Parameter(torch.zeros(lattice.size, width)) if own else None

    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Float[Tensor, "*N T D"]:
        """Integer symbols, or lattice points with gradient."""
        points = codes if codes.is_floating_point() else self.lattice.points(codes)
        vectors = self.project(points.to(self.project.weight.dtype))
        if self.own is None:
            return vectors
        symbols = self.lattice.symbols(codes.detach()) if codes.is_floating_point() else codes
        return vectors + F.embedding(symbols, self.own)

    def table(self) -> Float[Tensor, "V D"]:
        """The vectors of all lattice points."""
        return self.forward(torch.arange(self.vocab_size, device=self.project.weight.device))


class LatticeEncoder(Encoder):
    """A deterministic encoder: q(z|x) puts all mass on the lattice point nearest to the trunk's output."""

    deterministic = True

    def __init__(self, trunk: Trunk, lattice: Lattice) -> None:
        super().__init__()
        self.num_tokens, self.vocab_size = trunk.patches, lattice.size
        self.trunk, self.lattice = trunk, lattice
        self.head = linear(trunk.width, lattice.dimensions)

    def points(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B T L"]:
        """Quantised points, with the straight-through gradient."""
        return self.lattice.quantise(self.head(self.trunk(x)))

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, "B ..."],
        k: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Int[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """k times the same codes, with log q = 0; temperature and generator have nothing to act on."""
        points = self.points(x)
        codes = self.lattice.symbols(points).expand(k, -1, -1)
        return codes, torch.zeros_like(codes, dtype=points.dtype)

    def logits(self, x: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]) -> Float[Tensor, "1 B T V"]:
        """0 for the symbol chosen, -inf for all others."""
        points = self.points(x)
        chosen = self.lattice.symbols(points).unsqueeze(-1)
        logits = points.new_full((*chosen.shape[:-1], self.vocab_size), -torch.inf)
        return logits.scatter(-1, chosen, 0.0).unsqueeze(0)


class FSQ(Autoencoder):
    """Maximum likelihood through rounding. Its encoder must be a LatticeEncoder."""

    encoder: LatticeEncoder

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """-log p(x|z) of the batch, nats."""
        y = self.scaling(x)
        points = self.encoder.points(y)
        log_p = self.decoder(points).log_prob(y).mean()
        kl = self.num_tokens * math.log(self.vocab_size)
        codes = self.encoder.lattice.symbols(points.detach())
        metrics: Metrics = {"log_p": log_p.detach(), "elbo": log_p.detach() - kl, "kl": kl}
        return -log_p, metrics | {"bits": code_bits(codes.unsqueeze(0), self.vocab_size)}

    @property
    def final_beta(self) -> float:
        """Its code length is constant, so any price serves: 1."""
        return 1.0
