"""Decoders p(x|z): codes -> a distribution over x, in three parts: code embedding, network, likelihood."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from daps.likelihood import Likelihood


class CodeEmbedding(nn.Module, ABC):
    """Symbols, or differentiable features of symbols, to vectors."""

    vocab_size: int

    @abstractmethod
    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Float[Tensor, "*N T D"]:
        """Integer codes, or floating features (for a table one-hots or probabilities, F = V)."""


class TableEmbedding(CodeEmbedding):
    """A free vector for every symbol, drawn from N(0, 1), shared by all positions."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.weight = nn.Parameter(torch.randn(vocab_size, width))

    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Float[Tensor, "*N T D"]:
        """Rows of the table, or mixtures of rows weighted by one-hots or probabilities."""
        return codes @ self.weight if codes.is_floating_point() else F.embedding(codes, self.weight)


class Decoder(nn.Module):
    """codes -> embedding -> network -> likelihood.

    Args:
        embedding: of the codes.
        net: [N, T, D] -> [N, P * values] in any shape that holds P = likelihood.channels numbers per value of x.
        likelihood: numbers -> distribution.
        data_shape: shape of one datum.
    """

    def __init__(
        self, embedding: CodeEmbedding, net: nn.Module, likelihood: Likelihood, data_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.embedding, self.net = embedding, net
        self.likelihood, self.data_shape = likelihood, data_shape

    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Distribution:
        """p(x|z) in model units, batch shape *N. Floating codes are features and carry gradient to the codes."""
        embedded = self.embedding(codes)
        batch = embedded.shape[:-2]
        outputs = self.net(embedded.flatten(0, -3))
        parameters = outputs.reshape(*batch, self.likelihood.channels, *self.data_shape)
        return self.likelihood(parameters, len(self.data_shape))
