"""beta from a rate: a dual variable that holds KL(q(z|x) || uniform) at a number of bits."""

import math

import torch
from torch import Tensor, nn


class RateController(nn.Module):
    """The price of entropy as the multiplier of the constraint  KL = target.

    Dual ascent on log beta: it rises while the codes carry more bits than asked, and falls while they carry fewer.
    A beta decayed by hand is one guess at the path that this finds.

    Args:
        first: beta at the beginning.
        bits: target of KL(q(z|x) || V^-T) in bits per datum.
        gain: change of log beta per step and relative error of the rate.
        floor, ceiling: bounds of beta.
    """

    log_beta: Tensor

    def __init__(self, first: float, bits: float, gain: float, floor: float = 1e-4, ceiling: float = 1e3) -> None:
        super().__init__()
        if not floor <= first <= ceiling:
            raise ValueError(f"method.beta_first: a rate keeps beta in [{floor:g}, {ceiling:g}], got {first:g}")
        self.bits, self.gain = bits, gain
        self.bounds = (math.log(floor), math.log(ceiling))
        self.register_buffer("log_beta", torch.tensor(math.log(first)))

    def forward(self, step: int) -> float:
        """beta, whatever the step."""
        return float(self.log_beta.exp())

    @torch.no_grad()
    def observe(self, kl: Tensor) -> None:
        """One step of dual ascent, given the KL of a batch in nats."""
        error = kl / (self.bits * math.log(2)) - 1
        self.log_beta.add_(self.gain * error.clamp(-1, 1)).clamp_(*self.bounds)
