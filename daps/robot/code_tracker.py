"""Codes to torques: a low-level policy that reads the codes of a window itself, without the tokenizer's decoder.

Its first layer is linear in the vectors of the symbols: what it makes of a window is a motion of as many frames, which
the rest follows as a tracker follows frames.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.decoder import with_vectors
from daps.methods.base import Autoencoder
from daps.motion import feature_poses
from daps.robot.reference import Plan, References
from daps.robot.tracker import Tracker, TrackerConfig
from daps.robot.world import State


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
        num_tokens: T.
        frames: F, of a window.
        table: of symbols, as symbol_components makes it.
        joints: J.
        config: sizes of the tracker that follows what is read.
    """

    table: Tensor

    def __init__(
        self, num_tokens: int, frames: int, table: Float[Tensor, "V E"], joints: int, config: TrackerConfig
    ) -> None:
        super().__init__()
        self.frames = frames
        self.register_buffer("table", table)
        self.tracker = Tracker(joints, config)
        self.reading = nn.Linear(num_tokens * table.shape[1], (frames + 1) * (joints + 7))

    def vectors(self, codes: Int[Tensor, "*N T"]) -> Float[Tensor, "*N TE"]:
        """What is read: the numbers of all symbols of a window."""
        return self.table[codes].flatten(-2)

    def read(self, codes: Int[Tensor, "N T"], anchor: Float[Tensor, "N 3"]) -> References:
        """Motions from the frame before each window on, which is at the anchor: clip i is that of robot i."""
        features = self.reading(self.vectors(codes)).unflatten(-1, (self.frames + 1, -1))
        return References.side_by_side(feature_poses(features, anchor))

    def forward(
        self, state: State, motions: References, robot: Int[Tensor, " N"], step: Int[Tensor, " N"]
    ) -> Float[Tensor, "N J"]:
        """Target angles, rad, of robots in states `step` control steps after what was read for them began.

        Args:
            state: of N robots.
            motions: as `read` makes them.
            robot: whose motion each is to follow.
            step: how far it is.
        """
        return self.tracker(state, self.tracker.goals(motions, robot, step))

    def act(self, state: State, plan: Plan, step: int) -> Float[Tensor, "N J"]:
        """Target angles of robots `step` control steps into their plans, rad."""
        robot = torch.arange(len(plan.codes))
        return self(state, self.read(plan.codes, plan.anchor), robot, torch.full_like(robot, step))
