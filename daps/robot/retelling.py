"""Clips as plans: what a planner that knew the clip would say, window after window."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from daps.methods.base import Autoencoder
from daps.motion import feature_poses, next_start, pose_features, pose_start
from daps.robot.planning import PAST
from daps.robot.stream import stitched


class Retelling:
    """Clips as plans: the window of a clip that comes next, through a tokenizer, from where the past ends.

    Raises:
        ValueError: no clip with a window and the frames before it.
    """

    def __init__(self, tokenizer: Autoencoder, clips: Mapping[str, Float[Tensor, "F P"]]) -> None:
        self.tokenizer, self.window = tokenizer, tokenizer.data_shape[0]
        long = {name: poses for name, poses in clips.items() if len(poses) >= PAST + self.window}
        if not long:
            raise ValueError(f"motion: wants clips of at least {PAST + self.window} frames; give longer ones")
        self.poses = torch.cat([poses.double() for poses in long.values()])
        lengths = torch.tensor([len(poses) for poses in long.values()])
        self.ends = lengths.cumsum(0)
        starts = self.ends - lengths
        pieces = zip(starts.tolist(), self.ends.tolist(), strict=True)
        self.beginnings = torch.cat([torch.arange(a + PAST, b - self.window + 1) for a, b in pieces])

    def past(self, frame: Int[Tensor, " N"]) -> Float[Tensor, "N B P"]:
        """The frames before."""
        return self.poses[frame[:, None] + torch.arange(-PAST, 0)]

    @torch.no_grad()
    def motion(
        self, past: Float[Tensor, "N B P"], frame: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, "N G P"], Int[Tensor, "N T"]]:
        """Poses of the last frame of a past and of the window that goes on from there as codes retell it; the codes."""
        windows = pose_features(self.poses[frame[:, None] + torch.arange(self.window)]).float()
        codes = self.tokenizer.encode(windows)
        before = pose_features(past)
        features = stitched(before, self.tokenizer.decode(codes).mean.to(past.dtype))
        poses = feature_poses(features, next_start(before, pose_start(past[:, 0])))
        return torch.cat((past[:, -1:], poses), 1), codes

    def places(self, count: int, frames: int, seed: int) -> Int[Tensor, " N"]:
        """Frames to begin at that leave so many frames of the clip and a window after them, drawn by chance.

        Raises:
            ValueError: no clip is so long.
        """
        end = self.ends[torch.searchsorted(self.ends, self.beginnings, right=True)]
        fit = self.beginnings[self.beginnings + frames + self.window <= end]
        if not len(fit):
            raise ValueError(
                f"motion: wants a clip of {frames + self.window} frames; give longer ones, or shorter trials"
            )
        return fit[torch.randint(len(fit), (count,), generator=torch.Generator().manual_seed(seed))]
