"""Credit: the part of log p(x|z) that each token answers for.

One weight per sequence tells every token the same: at most log K nats for a whole image. Where log p(x|z) is a sum
over pixels or frames and a token reaches only some of them, the token can be judged by these alone.
Derivation and bias: docs/learning.md, "Credit".
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent


class Returns(NamedTuple):
    """What weights are made of: rewards and log q without gradient, per sequence [K, B] or per token [K, B, T]."""

    reward: Tensor
    log_q: Tensor


class Credit(nn.Module, ABC):
    """Divides the log-likelihood among tokens."""

    @abstractmethod
    def forward(
        self, distribution: Distribution, y: Float[Tensor, "B ..."], log_q: Float[Tensor, "K B T"]
    ) -> tuple[Float[Tensor, "K B"], Returns]:
        """log p(y|z) with its gradient, and the returns, from log q of every token."""

    @abstractmethod
    def share(self, values: Float[Tensor, "K B T"]) -> Tensor:
        """What each return holds of something that every token earns: [K, B] or [K, B, T]."""


class SequenceCredit(Credit):
    """Every token answers for everything: the paper's weights, without bias."""

    def forward(
        self, distribution: Distribution, y: Float[Tensor, "B ..."], log_q: Float[Tensor, "K B T"]
    ) -> tuple[Float[Tensor, "K B"], Returns]:
        """Returns [K, B]."""
        log_p = distribution.log_prob(y)
        return log_p, Returns(log_p.detach(), self.share(log_q))

    def share(self, values: Float[Tensor, "K B T"]) -> Float[Tensor, "K B"]:
        """The sum over tokens."""
        return values.sum(-1)


class Reach:
    """Which parts of x the tokens of a local decoder answer for: cells of a grid, within a radius of their own.

    Without a grid there is one cell, all of x, which every token reaches.
    """

    def __init__(self, num_tokens: int, grid: tuple[int, ...] | None, radius: int) -> None:
        self.grid = grid
        if grid is None:
            self.matrix = torch.ones(num_tokens, 1)
            self.colours = list(torch.arange(num_tokens).unsqueeze(-1))
            return
        place = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(num_tokens, len(grid))
        self.matrix = ((place[:, None] - place).abs().amax(-1) <= radius).float()  # [T, cells]
        spacing = 2 * radius + 1  # sites so far apart share no cell
        colour = (place % spacing) @ spacing ** torch.arange(len(grid))
        self.colours = [(colour == each).nonzero().squeeze(-1) for each in colour.unique()]

    def cells(self, values: Float[Tensor, "K B ..."]) -> Float[Tensor, "K B C"]:
        """log p of every cell from that of every value: images [K, B, C, H, W], sequences [K, B, F, C].

        Cells smaller than a frame have equal shares of it.
        """
        if self.grid is None:
            return values.flatten(2).sum(-1, keepdim=True)
        sums = values.sum(2) if len(self.grid) == 2 else values.sum(-1)
        for axis, size in enumerate(self.grid):
            shares = max(1, size // sums.shape[2 + axis])
            sums = sums.repeat_interleave(shares, 2 + axis) / shares
            sums = sums.unflatten(2 + axis, (size, -1)).sum(3 + axis)
        return sums.flatten(2)


class LocalCredit(Credit):
    """A token answers for what it reaches, and by `tail` for what later tokens reach.

    The return of token t is  sum over the cells in reach of t of log p  -  beta log q_t, plus `tail` times the
    same of all later tokens where t does not reach itself.

    Args:
        reach: of the tokens.
        tail: 0 is exact for a parallel encoder, 1 for any autoregressive one, if the radius covers the decoder's
            receptive field; a smaller radius leaves out weak influences and, with them, variance.
    """

    near: Tensor
    later: Tensor

    def __init__(self, reach: Reach, tail: float) -> None:
        super().__init__()
        self.reach, self.tail = reach, tail
        after = reach.matrix.flip(0).cumsum(0).flip(0) > 0  # reached by t or a later token
        self.register_buffer("near", reach.matrix, persistent=False)
        self.register_buffer("later", (after & (reach.matrix == 0)).float(), persistent=False)

    def forward(
        self, distribution: Distribution, y: Float[Tensor, "B ..."], log_q: Float[Tensor, "K B T"]
    ) -> tuple[Float[Tensor, "K B"], Returns]:
        """Returns [K, B, T]."""
        values = value_log_prob(distribution, y)
        cells = self.reach.cells(values.detach())
        reward = cells @ (self.near + self.tail * self.later).T
        return values.flatten(2).sum(-1), Returns(reward, self.share(log_q))

    def share(self, values: Float[Tensor, "K B T"]) -> Float[Tensor, "K B T"]:
        """A token's own, and `tail` of all later ones'."""
        return values + self.tail * (values.flip(-1).cumsum(-1).flip(-1) - values) if self.tail else values


def value_log_prob(distribution: Distribution, y: Tensor) -> Float[Tensor, "..."]:
    """log p of every value of y.

    Raises:
        ValueError: the distribution does not factorise over values.
    """
    if not isinstance(distribution, Independent):
        raise ValueError(
            "decoder: local credit and search need a distribution that factorises over values "
            f"(torch.distributions.Independent), got {type(distribution).__name__}; use method.credit = sequence, and "
            "no search"
        )
    return distribution.base_dist.log_prob(y)
