"""VQ-VAE: vector quantisation (van den Oord et al., 2017), straight-through with a learned codebook.

Each token is the code vector nearest to a feature of x. The gradient passes the choice as if it were the identity;
code vectors follow the features that choose them, and a commitment loss keeps features near their code vectors.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.methods.base import Autoencoder, MethodConfig, Metrics
from daps.quantiser import QuantisedEmbedding, QuantisedEncoder, Quantiser, quantised_figures, straight_through
from daps.scaling import Scaling


@dataclass(frozen=True)
class VQVAEConfig(MethodConfig):
    """Settings of VQ-VAE."""

    parallel_only: ClassVar[bool] = True
    commitment: float = 0.25
    """Weight of the commitment loss against -log p per value of x."""
    codebook: Literal["ema", "gradient"] = "ema"
    """Code vectors are the moving averages of the features that chose them, or learned by the codebook loss."""
    decay: float = 0.99
    """Memory of these averages, and of the usage that revival goes by."""
    smoothing: float = 1e-5
    """Laplace smoothing of the codes' counts (ema)."""
    dimension: int = 0
    """L, dimensions of a code vector; 0: the networks' width. The decoder reads code vectors as they are where that is
    their dimension, else through a linear map."""
    own: bool = False
    """Whether each symbol also has a vector of its own in the decoder, as other methods' structured symbols have."""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """What is nearest; with cosine, features and code vectors lie on the unit sphere (Yu et al., 2022)."""
    from_data: bool = True
    """Whether code vectors begin as features of the first batch; else from N(0, spread^2)."""
    spread: float = 1.0
    """Standard deviation that code vectors begin with, where they do not begin from data."""
    decayed: bool = False
    """Whether weight decay takes learned code vectors along."""
    revival: float = 0.1
    """Codes used less than this share of the average are set to features of the batch; 0: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.commitment < math.inf:
            raise ValueError(
                f"method.commitment: must be >= 0 and finite, got {self.commitment:g}; the paper takes 0.25"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"method.decay: must lie in [0, 1), got {self.decay:g}; 0.99 is usual")
        if not 0 < self.smoothing < math.inf:
            raise ValueError(f"method.smoothing: must be > 0 and finite, got {self.smoothing:g}; 1e-5 is usual")
        if not 0 < self.spread < math.inf:
            raise ValueError(f"method.spread: must be > 0 and finite, got {self.spread:g}; 1 is usual")
        if self.dimension < 0:
            raise ValueError(f"method.dimension: must be >= 0, got {self.dimension}; 0 takes the networks' width")
        if not 0 <= self.revival < 1:
            raise ValueError(
                f"method.revival: is a share of the average usage in [0, 1), got {self.revival:g}; try 0.1"
            )

    @property
    def targets(self) -> dict[str, float]:
        """None."""
        return {}

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "VQVAE":
        """The untrained model; its encoder is a trunk with one patch per token."""
        kind = AveragedCodebook if self.codebook == "ema" else LearnedCodebook
        codebook = kind(nets.vocab_size, self.dimension or nets.width, self)
        encoder = QuantisedEncoder(nets.parallel_trunk(), codebook)
        decoder = nets.decoder(QuantisedEmbedding(codebook, nets.width, own=self.own))
        return VQVAE(encoder, decoder, nets.data_shape, scaling, self)


class Codebook(Quantiser):
    """V code vectors, how often each is chosen, and where dead ones and the first ones are set.

    All that changes outside the optimizer is a buffer, so that a training resumes from it and can undo it.

    Args:
        size, dimensions: V and L.
        config: settings of the method.
    """

    usage: Tensor
    begun: Tensor

    def __init__(self, size: int, dimensions: int, config: VQVAEConfig) -> None:
        super().__init__()
        self.size, self.dimensions, self.config = size, dimensions, config
        self.register_buffer("usage", torch.ones(size))  # tokens of a batch that choose each code, running mean
        self.register_buffer("begun", torch.tensor(not config.from_data))

    @abstractmethod
    def rows(self) -> Float[Tensor, "V L"]:
        """The code vectors before they are brought to the sphere, with gradient where they are learned by it."""

    @abstractmethod
    def replace(self, which: Bool[Tensor, " V"], rows: Float[Tensor, "V L"]) -> None:
        """Sets some of the code vectors to these."""

    @abstractmethod
    def follow(self, chosen: Float[Tensor, "N V"], z: Float[Tensor, "N L"]) -> None:
        """Moves code vectors to the features that chose them (one-hots), after `usage` has counted these."""

    def table(self) -> Float[Tensor, "V L"]:
        """The code vectors."""
        return self.place(self.rows())

    def place(self, h: Float[Tensor, "*N L"]) -> Float[Tensor, "*N L"]:
        """Onto the unit sphere where distance is the cosine."""
        return F.normalize(h, dim=-1) if self.config.distance == "cosine" else h

    @torch.no_grad()
    def symbols(self, z: Float[Tensor, "*N L"]) -> Int[Tensor, "*N"]:
        """argmin_v |z - e_v|^2; on the sphere that is the largest cosine."""
        table = self.table()
        return ((table**2).sum(-1) - 2 * (z @ table.T)).argmin(-1)

    def vectors(self, symbols: Int[Tensor, "*N"]) -> Float[Tensor, "*N L"]:
        """Rows of the table."""
        return F.embedding(symbols, self.table())

    @torch.no_grad()
    def begin(self, z: Float[Tensor, "N L"]) -> None:
        """Sets the code vectors to features of the first batch, drawn at random; later it does nothing."""
        if not bool(self.begun):
            self.replace(torch.ones_like(self.usage, dtype=torch.bool), self._drawn(z))
            self.begun.fill_(True)

    @torch.no_grad()
    def observe(self, z: Float[Tensor, "N L"], symbols: Int[Tensor, " N"]) -> None:
        """Counts the symbols of a batch, lets code vectors follow its features, and revives dead ones."""
        chosen = F.one_hot(symbols, self.size).to(z.dtype)  # sums are products: in a fixed order on every device
        self.usage.lerp_(chosen.sum(0), 1 - self.config.decay)
        self.follow(chosen, z)
        if self.config.revival:
            mean = self.usage.mean()
            dead = self.usage < self.config.revival * mean
            self.usage.copy_(mean.where(dead, self.usage))  # time to be chosen before it is judged again
            self.replace(dead, self._drawn(z))

    def _drawn(self, z: Tensor) -> Tensor:
        """V features drawn at random, without replacement as far as they go."""
        return z[torch.randperm(len(z), device=z.device)[torch.arange(self.size, device=z.device) % len(z)]]


class AveragedCodebook(Codebook):
    """Code vectors are the moving averages of the features that chose them: online k-means.

    N_v <- g N_v + (1 - g) n_v,  m_v <- g m_v + (1 - g) sum of the z that chose v,  e_v = m_v / N'_v,  where N is the
    usage, and N' is N with `smoothing` added to every count, scaled to keep the sum (van den Oord et al., 2017, A.1).
    """

    weight: Tensor
    sums: Tensor

    def __init__(self, size: int, dimensions: int, config: VQVAEConfig) -> None:
        super().__init__(size, dimensions, config)
        self.register_buffer("weight", config.spread * torch.randn(size, dimensions))
        self.register_buffer("sums", self.weight.clone())

    def rows(self) -> Float[Tensor, "V L"]:
        """The averages."""
        return self.weight

    def replace(self, which: Bool[Tensor, " V"], rows: Float[Tensor, "V L"]) -> None:
        """As if all that chose them had been these."""
        mask = which.unsqueeze(-1)
        self.weight.copy_(rows.where(mask, self.weight))
        self.sums.copy_((rows * self.usage.unsqueeze(-1)).where(mask, self.sums))

    def follow(self, chosen: Float[Tensor, "N V"], z: Float[Tensor, "N L"]) -> None:
        """One step of the averages."""
        self.sums.lerp_(chosen.T @ z, 1 - self.config.decay)
        total, smoothing = self.usage.sum(), self.config.smoothing
        counts = (self.usage + smoothing) / (total + self.size * smoothing) * total
        self.weight.copy_(self.sums / counts.unsqueeze(-1))


class LearnedCodebook(Codebook):
    """Code vectors are a parameter, moved by the codebook loss, and a shift that replacing sets."""

    shift: Tensor

    def __init__(self, size: int, dimensions: int, config: VQVAEConfig) -> None:
        super().__init__(size, dimensions, config)
        self.weight = nn.Parameter(config.spread * torch.randn(size, dimensions))
        self.register_buffer("shift", torch.zeros(size, dimensions))

    def rows(self) -> Float[Tensor, "V L"]:
        """Parameter and shift."""
        return self.weight + self.shift

    def replace(self, which: Bool[Tensor, " V"], rows: Float[Tensor, "V L"]) -> None:
        """By the shift, which a skipped step undoes."""
        self.shift.copy_((rows - self.weight).where(which.unsqueeze(-1), self.shift))

    def follow(self, chosen: Float[Tensor, "N V"], z: Float[Tensor, "N L"]) -> None:
        """Nothing: the optimizer moves them."""


class VQVAE(Autoencoder):
    """Maximum likelihood through the choice of the nearest code vector.

    With N values per datum, features z, code vectors e and sg the stopped gradient, the loss of a datum is
    -log p(x | e) + N (commitment |z - sg e|^2 + |sg z - e|^2), squares averaged over tokens and dimensions; the last
    term only where the codebook is learned by gradient. N keeps the usual balance against -log p per value.

    Args:
        encoder: a QuantisedEncoder on a Codebook.
        decoder: reads the code vectors of that codebook, and its symbols as the same vectors.
        data_shape, scaling: as in Autoencoder.
        config: settings.
    """

    encoder: QuantisedEncoder

    def __init__(
        self,
        encoder: QuantisedEncoder,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        scaling: Scaling | None = None,
        config: VQVAEConfig | None = None,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = VQVAEConfig() if config is None else config

    @property
    def codebook(self) -> Codebook:
        """The code vectors."""
        return cast(Codebook, self.encoder.quantiser)

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units; in training the codebook follows the batch."""
        y = self.scaling(x)
        z = self.encoder.features(y)
        if self.training:
            self.codebook.begin(z.flatten(0, 1))
        codes = self.codebook.symbols(z)
        vectors = self.codebook.vectors(codes)
        log_p = self.decoder(straight_through(z, vectors)).log_prob(y).mean()
        gap = (z - vectors.detach()).square().mean()
        auxiliary = self.config.commitment * gap
        if isinstance(self.codebook, LearnedCodebook):
            auxiliary = auxiliary + (z.detach() - vectors).square().mean()
        if self.training:
            self.codebook.observe(z.detach().flatten(0, 1), codes.flatten())
        metrics = quantised_figures(log_p, codes, self.vocab_size) | {"gap": gap.detach()}
        return math.prod(self.data_shape) * auxiliary - log_p, metrics

    @property
    def final_beta(self) -> float:
        """Its code length is constant, so any price serves: the paper's."""
        return 0.01

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Code vectors are not decayed, unless asked for: they are where features are, and no weights of a map."""
        learned = {id(p) for p in self.codebook.parameters()}
        parts = [[p for p in self.parameters() if (id(p) in learned) == inside] for inside in (False, True)]
        decays = (weight_decay, weight_decay if self.config.decayed else 0.0)
        return [{"params": p, "lr": learning_rate, "weight_decay": d} for p, d in zip(parts, decays, strict=True) if p]
