"""Where in the motions robots lose them, so that they are sent there more often."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Difficulty:
    """Shares of visits to each second of motions that were falls; older ones count less and less.

    Args:
        lengths: of the motions, in control steps.
        second: control steps of a bin.
        memory: what is left of a count after a round.
        prior: visits with the mean share that every bin begins with, so that few visits say little.
    """

    def __init__(self, lengths: Int[Tensor, " C"], second: int = 50, memory: float = 0.998, prior: float = 4.0) -> None:
        self.lengths, self.second, self.memory, self.prior = lengths, second, memory, prior
        bins = (lengths - 1) // second + 1
        self.first = bins.cumsum(0) - bins
        self.owner = torch.repeat_interleave(torch.arange(len(lengths)), bins)
        self.falls, self.visits = torch.zeros(2, int(bins.sum()))

    def observe(self, clip: Int[Tensor, " N"], frame: Int[Tensor, " N"], fallen: Bool[Tensor, " N"]) -> None:
        """A round of robots: where they were at its end, or lost their motion."""
        at = self.first[clip] + torch.minimum(frame, self.lengths[clip] - 1) // self.second
        self.falls *= self.memory
        self.visits *= self.memory
        self.falls.index_add_(0, at, fallen.float())
        self.visits.index_add_(0, at, torch.ones(len(at)))

    def rates(self) -> Float[Tensor, " bins"]:
        """Falls a visit of every second."""
        mean = self.falls.sum() / self.visits.sum().clamp_min(1.0)
        return (self.falls + self.prior * mean + 1e-6) / (self.visits + self.prior)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
        """Motions and frames to begin at: up to two seconds before seconds drawn in proportion to their falls."""
        bins = torch.multinomial(self.rates(), count, replacement=True, generator=generator)
        clip = self.owner[bins]
        within = torch.randint(2 * self.second, (count,), generator=generator) - 2 * self.second
        frame = (bins - self.first[clip]) * self.second + within
        return clip, frame.clamp_min(0).minimum(self.lengths[clip] - 1)
