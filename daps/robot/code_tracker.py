"""Codes to torques: a low-level policy that sees the codes of a window, and no frame of it.

It is told the codes as the decoder reads them, vectors of symbols on their principal components, and how much of the
window has passed; where the robot is, it feels relative to where the window began.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps import rotation
from daps.decoder import with_vectors
from daps.methods.base import Autoencoder
from daps.motion import ROOT
from daps.robot.reference import Plan
from daps.robot.simulation import RATE
from daps.robot.world import Normaliser, State, perceptron

WAVES = 4  # sines and cosines that tell the time


@dataclass(frozen=True)
class CodeTrackerConfig:
    """Sizes of the policy."""

    hidden: tuple[int, ...] = (1024, 512)
    """Widths of the perceptron."""
    components: int = 8
    """Numbers that a symbol is told by."""

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"code tracker.components: must be >= 1, got {self.components}")


def symbol_components(tokenizer: Autoencoder, count: int) -> Float[Tensor, "V E"]:
    """The vectors of symbols that a tokenizer's decoder reads, on their first principal components, of unit variance.

    Raises:
        ValueError: a decoder without such vectors.
    """
    table = with_vectors(tokenizer.decoder, "code tracker").embedding.table().detach().double()
    left, values, _ = torch.linalg.svd(table - table.mean(0), full_matrices=False)
    count = min(count, int((values > 1e-6 * values[0]).sum()))
    return (left[:, :count] * len(table) ** 0.5).float()


class CodeTracker(nn.Module):
    """Robots, codes and time -> target angles.

    Args:
        joints: J.
        num_tokens: T.
        table: of symbols, as symbol_components makes it.
        config: sizes.
    """

    table: Tensor

    def __init__(
        self, joints: int, num_tokens: int, table: Float[Tensor, "V E"], config: CodeTrackerConfig | None = None
    ) -> None:
        super().__init__()
        self.config = CodeTrackerConfig() if config is None else config
        self.register_buffer("table", table)
        self.felt = Normaliser(4 + 6 + 2 * joints + 4)
        self.targets = Normaliser(joints)
        inputs = len(self.felt.mean) + 1 + 2 * WAVES + num_tokens * table.shape[1]
        self.net = perceptron(inputs, self.config.hidden, joints)

    def observe(self, state: State, anchor: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N O"]:
        """What the robot feels, and where it is in the frame of the anchor: place, cosine and sine of the heading."""
        place = rotation.rotate_z(-anchor[..., 2], state.pose[..., :2] - anchor[..., :2])
        angle = rotation.heading(state.pose[..., 3:ROOT]) - anchor[..., 2]
        return torch.cat((state.felt(), place, angle.cos().unsqueeze(-1), angle.sin().unsqueeze(-1)), -1)

    def forward(
        self,
        state: State,
        codes: Int[Tensor, "*N T"],
        anchor: Float[Tensor, "*N 3"],
        step: Int[Tensor, "*N"],
    ) -> Float[Tensor, "*N J"]:
        """Target angles, rad, `step` control steps after the windows began."""
        time = step.unsqueeze(-1) / RATE  # s; windows are about a second long
        waves = torch.pi * time * torch.arange(1, WAVES + 1)
        seen = (self.felt(self.observe(state, anchor)), time, waves.sin(), waves.cos(), self.table[codes].flatten(-2))
        return self.net(torch.cat(seen, -1)) * self.targets.deviation + self.targets.mean

    def act(self, state: State, plan: Plan, step: int) -> Float[Tensor, "N J"]:
        """Target angles of robots `step` control steps into their plans, rad."""
        return self(state, plan.codes, plan.anchor, torch.full((len(plan.codes),), step))
