"""A full codebook: a reward for symbols that are rare in the aggregate q(z), and new life for dead ones.

beta pays for the entropy of q(z|x); nothing in the paper's objective pays for that of q(z) = E_x q(z|x), and codes
that fall out of use early stay out. H(q(z_t)) has the functional derivative -log q(z_t = v) - 1, so its policy
gradient is that of the extra reward -log q(z_t); the aggregate is tracked by a running mean. docs/learning.md,
"A full codebook".
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.metrics import symbol_counts
from daps.symbols import StructuredHead, SymbolVectors


class RareSymbols(nn.Module):
    """The reward -weight(step) log f_t(z_t), where f_t(v) is the running frequency of symbol v at position t.

    Args:
        weight: nats of reward per nat of rarity when fully on: the price of the aggregate's entropy.
        first, last: steps at which the reward begins to rise and is fully on; it rises linearly.
        memory: steps over which the running frequency averages.
    """

    frequency: Tensor

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        weight: float,
        first: float,
        last: float,
        memory: float = 100.0,
    ) -> None:
        super().__init__()
        self.weight, self.first, self.last, self.memory = weight, first, last, memory
        self.register_buffer("frequency", torch.full((num_tokens, vocab_size), 1 / vocab_size))

    def price(self, step: int) -> float:
        """weight(step)."""
        return self.weight * min(max((step - self.first) / max(self.last - self.first, 1.0), 0.0), 1.0)

    @torch.no_grad()
    def observe(self, codes: Int[Tensor, "K B T"]) -> None:
        """Takes the codes of a batch into the running frequency."""
        counts = symbol_counts(codes, self.frequency.shape[1]).to(self.frequency)
        self.frequency.lerp_(counts / counts.sum(-1, keepdim=True), 1 / self.memory)

    def forward(self, codes: Int[Tensor, "K B T"], step: int) -> Float[Tensor, "K B T"]:
        """The reward of every token, nats; never infinite: a symbol out of use counts as one in a million."""
        positions = torch.arange(codes.shape[-1], device=codes.device)
        return -self.price(step) * self.frequency[positions, codes].clamp(min=1e-6).log()


class Revival(nn.Module):
    """Symbols out of use take after symbols in much use (structured symbols, daps.symbols).

    The softmax pushes down whatever is not drawn, and an optimizer that divides by the size of gradients turns that
    whisper into steps of full length: rare symbols die. Two symbols with one vector in the encoder and in the decoder,
    each with half of the probability, are the one that was there before: what is decoded is distributed as it was. A
    little noise of opposite signs sets them apart, and samples teach them the rest.

    Args:
        vocab_size: V.
        rare: out of use is a running frequency, over all positions, below this share of 1 / V.
        last: step after which nothing is revived, so that twins have time to part.
        every: steps from one revival to the next; frequencies are averaged over half of them.
        noise: in units of the vectors' deviation.
    """

    frequency: Tensor

    def __init__(self, vocab_size: int, rare: float, last: float, every: int = 100, noise: float = 0.1) -> None:
        super().__init__()
        self.rare, self.last, self.every, self.noise = rare, last, every, noise
        self.register_buffer("frequency", torch.full((vocab_size,), 1 / vocab_size))

    @torch.no_grad()
    def observe(self, codes: Int[Tensor, "K B T"]) -> None:
        """Takes the codes of a batch into the running frequency."""
        counts = symbol_counts(codes, len(self.frequency)).sum(0).to(self.frequency)
        self.frequency.lerp_(counts / counts.sum(), 2 / self.every)

    @torch.no_grad()
    def forward(self, nets: nn.Module, step: int) -> int:
        """Every so many steps, revives what is dead in all tables and heads; returns how many symbols that were.

        They take after as many others, the most frequent first, that are used more than on average.
        """
        if step == 0 or step % self.every or step > self.last:
            return 0
        dead = (self.frequency < self.rare / len(self.frequency)).nonzero().squeeze(-1)
        popular = self.frequency.argsort(descending=True)[: len(dead)]
        popular = popular[self.frequency[popular] > 1 / len(self.frequency)]
        dead = dead[: len(popular)]
        for module in nets.modules():
            if isinstance(module, SymbolVectors | StructuredHead):
                module.take_after(dead, popular, self.noise)
        half = self.frequency[popular] / 2
        self.frequency[popular], self.frequency[dead] = half, half
        return len(dead)
