"""Vectors of symbols. A vocabulary may be a table of unrelated rows, or symbols that share what they learn.

Structured vectors are  vector(v) = features(v) @ shared + own(v).  The features are fixed, F << V of them; `own`
starts at zero. A gradient on one symbol moves `shared`, and so every symbol with the same bit, digit or neighbour:
nothing is restricted, for `own` can still become any table, but what one symbol learns reaches the others at once.
See docs/learning.md, "Structured symbols".
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.nn.linear import linear

Structure = Literal["free", "bits", "digits", "lattice"]


def factors(vocab_size: int, limit: int = 8) -> tuple[int, ...]:
    """Sizes of digits whose product is the vocabulary: the largest divisors up to `limit` (or a larger prime)."""
    sizes, left = [], vocab_size
    while left > 1:
        divisors = [size for size in range(2, limit + 1) if left % size == 0]
        size = divisors[-1] if divisors else next(size for size in range(limit + 1, left + 1) if left % size == 0)
        sizes.append(size)
        left //= size
    return tuple(sizes)


def mixed_radix(symbols: Int[Tensor, "*N"], sizes: Int[Tensor, " L"]) -> Int[Tensor, "*N L"]:
    """The digits of symbols, the first one fastest; digit l lies in 0..sizes[l] - 1."""
    return symbols.unsqueeze(-1) // (sizes.cumprod(0) // sizes) % sizes


def features(structure: Structure, vocab_size: int) -> Float[Tensor, "V F"]:
    """The fixed features of every symbol.

    Args:
        structure: "bits": the binary digits of v as -1 and 1; "digits": one-hots of its digits in the mixed radix
            of `factors`; "lattice": those digits as coordinates in [-1, 1], and their squares, centred, so that a
            linear head makes discretised Gaussians; "free": none.
    """
    symbols = torch.arange(vocab_size)
    if structure == "bits":
        places = torch.arange((vocab_size - 1).bit_length())
        return (symbols[:, None] >> places & 1) * 2.0 - 1.0
    columns: list[Tensor] = [torch.zeros(vocab_size, 0)]
    sizes = factors(vocab_size) if structure in ("digits", "lattice") else ()
    for size, digit in zip(sizes, mixed_radix(symbols, torch.tensor(sizes, dtype=torch.long)).unbind(-1), strict=True):
        if structure == "digits":
            columns.append(F.one_hot(digit, size).float())
        else:
            place = digit * (2 / (size - 1)) - 1
            squares = [place**2 - (place**2).mean()] if size > 2 else []
            columns.append(torch.stack([place, *squares], -1))
    return torch.cat(columns, -1)


class SymbolVectors(nn.Module):
    """The matrix [V, D] of a structured vocabulary, with the variance of its entries given at the start."""

    features: Tensor

    def __init__(self, structure: Structure, vocab_size: int, width: int, variance: float) -> None:
        super().__init__()
        self.register_buffer("features", features(structure, vocab_size), persistent=False)
        power = float((self.features**2).sum(-1).mean())
        self.shared = nn.Parameter(torch.randn(self.features.shape[1], width) * (variance / power) ** 0.5)
        self.own = nn.Parameter(torch.zeros(vocab_size, width))

    def forward(self) -> Float[Tensor, "V D"]:
        """Row v is the vector of symbol v."""
        return torch.addmm(self.own, self.features, self.shared)

    @torch.no_grad()
    def take_after(self, symbols: Int[Tensor, " N"], others: Int[Tensor, " N"], noise: float) -> None:
        """Gives symbols the vectors of others, and both noise of opposite signs, in units of the deviation."""
        vectors = self()
        apart = noise * vectors.std() * torch.randn_like(vectors[others])
        self.own[symbols] = vectors[others] + apart - self.features[symbols] @ self.shared
        self.own[others] -= apart


class CodeEmbedding(nn.Module, ABC):
    """Symbols, or differentiable features of symbols, to vectors."""

    vocab_size: int

    @abstractmethod
    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Float[Tensor, "*N T D"]:
        """Integer codes, or floating features (for a table one-hots or probabilities, F = V)."""

    @abstractmethod
    def table(self) -> Float[Tensor, "V D"]:
        """The vectors of all symbols, with gradient."""


class TableEmbedding(CodeEmbedding):
    """A free vector for every symbol, drawn from N(0, 1), shared by all positions."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.weight = nn.Parameter(torch.randn(vocab_size, width))

    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Float[Tensor, "*N T D"]:
        """Rows of the table, or mixtures of rows weighted by one-hots or probabilities."""
        return codes @ self.weight if codes.is_floating_point() else F.embedding(codes, self.weight)

    def table(self) -> Float[Tensor, "V D"]:
        """The parameter itself."""
        return self.weight


class StructuredEmbedding(CodeEmbedding):
    """Vectors that symbols share by their features, entries of variance 1 at the start as in the free table."""

    def __init__(self, structure: Structure, vocab_size: int, width: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.vectors = SymbolVectors(structure, vocab_size, width, 1.0)

    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Float[Tensor, "*N T D"]:
        """Vectors of symbols, or mixtures of them weighted by one-hots or probabilities."""
        return codes @ self.vectors() if codes.is_floating_point() else F.embedding(codes, self.vectors())

    def table(self) -> Float[Tensor, "V D"]:
        """Shared and own parts together."""
        return self.vectors()


class StructuredInput(nn.Module):
    """What an autoregressive encoder reads: structured vectors of the V symbols, and row V, the start symbol."""

    def __init__(self, structure: Structure, vocab_size: int, width: int) -> None:
        super().__init__()
        self.vectors = SymbolVectors(structure, vocab_size, width, 1.0)
        self.start = nn.Parameter(torch.randn(1, width))

    def forward(self, symbols: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """Vectors of symbols in 0..V."""
        return F.embedding(symbols, self.table())

    def table(self) -> Float[Tensor, "rows D"]:
        """All V + 1 of them."""
        return torch.cat([self.vectors(), self.start])


class StructuredHead(nn.Module):
    """Logits of structured symbols: h @ vector(v) + bias(v)."""

    def __init__(self, structure: Structure, vocab_size: int, width: int) -> None:
        super().__init__()
        self.vectors = SymbolVectors(structure, vocab_size, width, 1 / width)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Unnormalised log-probabilities."""
        return F.linear(h, self.vectors(), self.bias)

    @torch.no_grad()
    def take_after(self, symbols: Int[Tensor, " N"], others: Int[Tensor, " N"], noise: float) -> None:
        """Gives symbols half of what others are drawn with; `vectors` see to themselves."""
        self.bias[others] -= math.log(2)
        self.bias[symbols] = self.bias[others]


def code_embedding(structure: Structure, vocab_size: int, width: int) -> CodeEmbedding:
    """What a decoder reads codes with."""
    if structure == "free":
        return TableEmbedding(vocab_size, width)
    return StructuredEmbedding(structure, vocab_size, width)


def token_input(structure: Structure, vocab_size: int, width: int) -> nn.Module:
    """What an autoregressive encoder reads its own tokens with: integers in 0..V, where V is the start symbol."""
    if structure == "free":
        return nn.Embedding(vocab_size + 1, width)
    return StructuredInput(structure, vocab_size, width)


def input_table(inputs: nn.Module) -> Float[Tensor, "rows D"]:
    """The V + 1 vectors of a `token_input`, to mix by one-hots; the last one is the start symbol's."""
    if isinstance(inputs, StructuredInput):
        return inputs.table()
    return cast(nn.Embedding, inputs).weight


def symbol_head(structure: Structure, vocab_size: int, width: int) -> nn.Module:
    """What an encoder makes logits with."""
    return linear(width, vocab_size) if structure == "free" else StructuredHead(structure, vocab_size, width)
