"""LFQ (Yu et al., 2023, MAGVIT-v2) and BSQ (Zhao et al., 2024): quantisation by sign, without a codebook to look up.

Each token is log2 V coordinates, of which the signs are kept: the corners of a cube, or for BSQ of a cube inscribed in
the unit sphere on which the features lie. The gradient passes the sign as if it were the identity. An entropy loss
wants features that are near one corner, and a batch that uses all of them alike.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.methods.base import Autoencoder, MethodConfig, Metrics
from daps.quantiser import QuantisedEmbedding, QuantisedEncoder, Quantiser, quantised_figures, straight_through
from daps.scaling import Scaling
from daps.symbols import features

Aggregate = Literal["codes", "bits"]


@dataclass(frozen=True)
class SignConfig(MethodConfig):
    """Settings that LFQ and BSQ share."""

    parallel_only: ClassVar[bool] = True
    commitment: float = 0.25
    """Weight of the commitment loss against -log p per value of x."""
    entropy: float = 0.1
    """Weight of the entropy loss E[H(q(c|z))] - diversity H(E[q(c|z)]), nats, against -log p per value of x."""
    diversity: float = 1.0
    """gamma: weight of the entropy of the mean within the entropy loss."""
    temperature: float = 1.0
    """Of q(c|z), a softmax over codes of minus the squared distance."""
    aggregate: Aggregate = "codes"
    """Entropy of the mean over all V codes, exact; or the sum of its bits' entropies, an upper bound of linear cost."""

    def __post_init__(self) -> None:
        for name in ("commitment", "entropy", "diversity"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"method.{name}: must be >= 0 and finite, got {value:g}; 0 leaves the term out")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"method.temperature: must be > 0 and finite, got {self.temperature:g}; try 1")

    @property
    @abstractmethod
    def spherical(self) -> bool:
        """Whether features, and so the codes, lie on the unit sphere."""

    @property
    def targets(self) -> dict[str, float]:
        """None."""
        return {}

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "SignQuantised":
        """The untrained model; its encoder is a trunk with one patch per token."""
        signs = Signs(nets.vocab_size, self.spherical)
        encoder = QuantisedEncoder(nets.parallel_trunk(), signs)
        embedding = QuantisedEmbedding(signs, nets.width, own=nets.structure != "free")
        return SignQuantised(encoder, nets.decoder(embedding), nets.data_shape, scaling, self)


@dataclass(frozen=True)
class LFQConfig(SignConfig):
    """Settings of LFQ: codes -1 and 1 in every coordinate."""

    @property
    def spherical(self) -> bool:
        """No: features are free."""
        return False


@dataclass(frozen=True)
class BSQConfig(SignConfig):
    """Settings of BSQ: features on the unit sphere, codes -L^-1/2 and L^-1/2 in each of L = log2 V coordinates."""

    aggregate: Aggregate = "bits"
    """Entropy of the mean over all V codes, exact; or the sum of its bits' entropies, an upper bound of linear cost."""

    @property
    def spherical(self) -> bool:
        """Yes."""
        return True


class Signs(Quantiser):
    """The corners of a cube. Coordinate l of symbol v has the sign of bit l of v; a feature of zero counts as positive.

    Raises:
        ValueError: V is no power of two.
    """

    corners: Tensor

    def __init__(self, size: int, spherical: bool) -> None:
        super().__init__()
        self.size, self.dimensions, self.spherical = size, size.bit_length() - 1, spherical
        if size != 2**self.dimensions:
            raise ValueError(
                f"nets.vocab_size: codes of signs need a power of two, got {size}; take {2**self.dimensions} or "
                f"{2 ** (self.dimensions + 1)}"
            )
        self.scale = self.dimensions**-0.5 if spherical else 1.0
        self.register_buffer("corners", self.scale * features("bits", size), persistent=False)

    def place(self, h: Float[Tensor, "*N L"]) -> Float[Tensor, "*N L"]:
        """Onto the unit sphere for BSQ."""
        return F.normalize(h, dim=-1) if self.spherical else h

    def symbols(self, z: Float[Tensor, "*N L"]) -> Int[Tensor, "*N"]:
        """The corner in whose orthant a feature lies."""
        return ((z >= 0).long() << torch.arange(self.dimensions, device=z.device)).sum(-1)

    def vectors(self, symbols: Int[Tensor, "*N"]) -> Float[Tensor, "*N L"]:
        """The corners of symbols."""
        return F.embedding(symbols, self.corners)

    def bit_logits(self, z: Float[Tensor, "*N L"], temperature: float) -> Float[Tensor, "*N L"]:
        """log q(bit = 1) - log q(bit = 0) under q(c|z) = softmax_c(-|z - c|^2 / temperature).

        |z - c|^2 = const - 2 z . c on corners of equal length, so that q factorises into its bits.
        """
        return 4 * self.scale / temperature * z


def bit_entropy(logits: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Entropy of a bit that is 1 with probability sigmoid(logits), nats."""
    return logits.sigmoid() * F.softplus(-logits) + (-logits).sigmoid() * F.softplus(logits)


def conditional_entropy(logits: Float[Tensor, "N L"]) -> Float[Tensor, ""]:
    """E[H(q(c|z))] over features with these bit logits, nats: the entropies of independent bits add up."""
    return bit_entropy(logits).sum(-1).mean()


def aggregate_entropy(logits: Float[Tensor, "N L"], aggregate: Aggregate) -> Float[Tensor, ""]:
    """H(E[q(c|z)]) of features with these bit logits, nats.

    Args:
        aggregate: "codes": over all 2^L codes, exact, N 2^L numbers; "bits": the sum of the entropies of the mean's
            bits, which is the exact one plus what these bits tell of one another (Zhao et al., 2024, section 3).
    """
    if aggregate == "bits":
        log_q = torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], -1)  # N L 2
    else:
        bits = (features("bits", 2 ** logits.shape[-1]).to(logits) + 1) / 2  # V L
        log_q = logits @ bits.T - F.softplus(logits).sum(-1, keepdim=True)  # N V
    log_mean = log_q.logsumexp(0) - math.log(len(log_q))  # in logarithms: finite gradients where q is certain
    return -(log_mean.exp() * log_mean).sum()


class SignQuantised(Autoencoder):
    """Maximum likelihood through signs; LFQ and BSQ differ in where the features lie.

    With N values per datum, features z and codes c, the loss of a datum is
    -log p(x | c) + N [commitment |z - sg c|^2 + entropy (E[H(q(c|z))] - diversity H(E[q(c|z)]))], squares averaged
    over tokens and dimensions, expectations over the tokens of the batch. N keeps the usual balance against -log p
    per value.

    Args:
        encoder: a QuantisedEncoder on `Signs`.
        decoder: reads the corners, and symbols as the same corners.
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
        config: SignConfig | None = None,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = LFQConfig() if config is None else config

    @property
    def signs(self) -> Signs:
        """The corners."""
        return cast(Signs, self.encoder.quantiser)

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units."""
        config, y = self.config, self.scaling(x)
        z = self.encoder.features(y)
        codes = self.signs.symbols(z)
        corners = self.signs.vectors(codes)
        log_p = self.decoder(straight_through(z, corners)).log_prob(y).mean()
        gap = (z - corners).square().mean()
        logits = self.signs.bit_logits(z, config.temperature).flatten(0, 1)
        conditional, aggregate = conditional_entropy(logits), aggregate_entropy(logits, config.aggregate)
        entropy = conditional - config.diversity * aggregate
        metrics = quantised_figures(log_p, codes, self.vocab_size) | {
            "gap": gap.detach(),
            "conditional_entropy": conditional.detach(),
            "aggregate_entropy": aggregate.detach(),
        }
        return math.prod(self.data_shape) * (config.commitment * gap + config.entropy * entropy) - log_p, metrics

    @property
    def final_beta(self) -> float:
        """Its code length is constant, so any price serves: the paper's."""
        return 0.01
