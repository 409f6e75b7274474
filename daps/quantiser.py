"""Deterministic encoders: features of x, each replaced by the nearest of V code vectors.

A `Quantiser` knows the code vectors and which one is nearest; the encoder and the decoder's embedding share it. What
trains through the quantiser, and with which auxiliary losses, is a method's business.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.encoder import Encoder
from daps.metrics import code_bits
from daps.nn.linear import linear
from daps.nn.transformer import Trunk
from daps.symbols import CodeEmbedding


class Quantiser(nn.Module, ABC):
    """V code vectors in L dimensions."""

    size: int
    dimensions: int

    @abstractmethod
    def place(self, h: Float[Tensor, "*N L"]) -> Float[Tensor, "*N L"]:
        """Where free numbers lie in the space of the code vectors, with gradient."""

    @abstractmethod
    def symbols(self, z: Float[Tensor, "*N L"]) -> Int[Tensor, "*N"]:
        """The symbol of the code vector nearest to each placed feature."""

    @abstractmethod
    def vectors(self, symbols: Int[Tensor, "*N"]) -> Float[Tensor, "*N L"]:
        """The code vectors of symbols."""


def straight_through(z: Float[Tensor, "*N L"], vectors: Float[Tensor, "*N L"]) -> Float[Tensor, "*N L"]:
    """The code vectors, to the bit, with the gradient of the features (Bengio et al., 2013)."""
    return vectors.detach() + (z - z.detach())


def quantised_figures(
    log_p: Float[Tensor, ""], codes: Int[Tensor, "B T"], vocab_size: int
) -> dict[str, Tensor | float]:
    """What training logs of every deterministic encoder: log p, ELBO, KL(q || uniform) = T ln V, and bits in use."""
    log_p, kl = log_p.detach(), codes.shape[-1] * math.log(vocab_size)
    return {"log_p": log_p, "elbo": log_p - kl, "kl": kl, "bits": code_bits(codes.unsqueeze(0), vocab_size)}


class QuantisedEncoder(Encoder):
    """q(z|x) puts all mass on the code vectors nearest to the features of x, one patch of x per token."""

    deterministic = True

    def __init__(self, trunk: Trunk, quantiser: Quantiser) -> None:
        super().__init__()
        self.num_tokens, self.vocab_size = trunk.patches, quantiser.size
        self.trunk, self.quantiser = trunk, quantiser
        self.head = linear(trunk.width, quantiser.dimensions)

    def features(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B T L"]:
        """What is quantised, placed in the space of the code vectors, with gradient."""
        return self.quantiser.place(self.head(self.trunk(x)))

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, "B ..."],
        k: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Int[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """k times the same codes, with log q = 0; temperature and generator have nothing to act on."""
        z = self.features(x)
        codes = self.quantiser.symbols(z).expand(k, -1, -1)
        return codes, torch.zeros_like(codes, dtype=z.dtype)

    def logits(self, x: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]) -> Float[Tensor, "1 B T V"]:
        """0 for the symbol chosen, -inf for all others."""
        z = self.features(x)
        chosen = self.quantiser.symbols(z).unsqueeze(-1)
        logits = z.new_full((*chosen.shape[:-1], self.vocab_size), -torch.inf)
        return logits.scatter(-1, chosen, 0.0).unsqueeze(0)


class QuantisedEmbedding(CodeEmbedding):
    """What a decoder reads: code vectors, by their symbols or as they come from the encoder.

    Args:
        quantiser: shared with the encoder.
        width: D. Code vectors of as many dimensions are read as they are, others through a linear map.
        own: whether every symbol also has a vector of its own that starts at zero, as other methods' structured
            symbols; code vectors are then always mapped.
    """

    def __init__(self, quantiser: Quantiser, width: int, own: bool = False) -> None:
        super().__init__()
        self.vocab_size = quantiser.size
        self.quantiser = quantiser
        mapped = own or quantiser.dimensions != width
        self.project = linear(quantiser.dimensions, width) if mapped else nn.Identity()
        self.own = nn.Parameter(torch.zeros(quantiser.size, width)) if own else None

    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Float[Tensor, "*N T D"]:
        """Integer symbols, or code vectors with gradient."""
        vectors = self.project(codes if codes.is_floating_point() else self.quantiser.vectors(codes))
        if self.own is None:
            return vectors
        symbols = self.quantiser.symbols(codes.detach()) if codes.is_floating_point() else codes
        return vectors + F.embedding(symbols, self.own)

    def table(self) -> Float[Tensor, "V D"]:
        """The vectors of all symbols."""
        device = next(self.quantiser.buffers()).device
        return self.forward(torch.arange(self.vocab_size, device=device))
