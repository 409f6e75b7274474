"""A full codebook: a reward for symbols that are rare in the aggregate q(z).

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
    """Symbols that no position uses forget what is their own (structured symbols, daps.symbols).

    What a symbol has of its own only changes where it is drawn, but for one thing: the softmax pushes down whatever is
    not drawn, and an optimizer that divides by the size of gradients turns that whisper into steps of full length. So
    rare symbols die, though their neighbours' shared part would place them well. Without their own part they are back.

    Args:
        share: that a symbol out of use loses in a step.
        rare: out of use is a running frequency over all positions below this share of 1 / V.
        memory: steps over which the running frequency averages.
    """

    frequency: Tensor

    def __init__(self, vocab_size: int, share: float, rare: float = 0.05, memory: float = 100.0) -> None:
        super().__init__()
        self.share, self.rare, self.memory = share, rare, memory
        self.register_buffer("frequency", torch.full((vocab_size,), 1 / vocab_size))

    @torch.no_grad()
    def observe(self, codes: Int[Tensor, "K B T"]) -> None:
        """Takes the codes of a batch into the running frequency."""
        counts = symbol_counts(codes, len(self.frequency)).sum(0).to(self.frequency)
        self.frequency.lerp_(counts / counts.sum(), 1 / self.memory)

    def forward(self, nets: nn.Module) -> None:
        """Makes the symbols of all tables and heads forget."""
        dead = self.frequency < self.rare / len(self.frequency)
        for module in nets.modules():
            if isinstance(module, SymbolVectors | StructuredHead):
                module.forget(dead, self.share)
