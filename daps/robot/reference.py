"""Motions for a robot to follow: poses and velocities at the control rate, many clips in one table.

Velocities are as MuJoCo has them: of the root in the world, m/s; its rotation in its own frame, rad/s; of the joints,
rad/s. There are as many as joints plus 6, one less than numbers in a pose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from daps import rotation
from daps.mirror import mirrored_poses, mirrored_velocities
from daps.motion import FPS, ROOT
from daps.robot.simulation import RATE


def difference(before: Float[Tensor, "*N P"], after: Float[Tensor, "*N P"]) -> Float[Tensor, "*N V"]:
    """The velocity that leads from one pose to the other in a second."""
    turn = rotation.multiply(rotation.conjugate(before[..., 3:ROOT]), after[..., 3:ROOT])
    moved = after[..., :3] - before[..., :3]
    return torch.cat((moved, rotation.to_vector(turn), after[..., ROOT:] - before[..., ROOT:]), -1)


def advance(pose: Float[Tensor, "*N P"], velocity: Float[Tensor, "*N V"], seconds: float) -> Float[Tensor, "*N P"]:
    """The pose after a time at constant velocity."""
    step = velocity * seconds
    turned = rotation.multiply(pose[..., 3:ROOT], rotation.from_vector(step[..., 3:6]))
    turned = turned / turned.norm(dim=-1, keepdim=True)
    return torch.cat((pose[..., :3] + step[..., :3], turned, pose[..., ROOT:] + step[..., 6:]), -1)


def resampled(poses: Float[Tensor, "*N F P"], rate: float = RATE, fps: float = FPS) -> Float[Tensor, "*N G P"]:
    """Poses at another rate, from the first to the last, by cubics through the frames (Catmull and Rom, 1974).

    Raises:
        ValueError: fewer than two frames.
    """
    frames = poses.shape[-2]
    if frames < 2:
        raise ValueError(f"motion: needs at least 2 frames, got {frames}; take a longer clip")
    points = torch.cat((poses[..., :3], rotation.continuous(poses[..., 3:ROOT]), poses[..., ROOT:]), -1)
    first = 2 * points[..., :1, :] - points[..., 1:2, :]
    last = 2 * points[..., -1:, :] - points[..., -2:-1, :]
    ends = torch.cat((first, points, last), -2)
    slope = (ends[..., 2:, :] - ends[..., :-2, :]) / 2  # per frame
    time = torch.arange(int((frames - 1) * rate / fps + 1e-6) + 1, dtype=torch.float64) * fps / rate
    at = time.floor().long().clamp_max(frames - 2)
    t = (time - at).to(poses.dtype).unsqueeze(-1)
    curve = (
        points[..., at, :] * (2 * t**3 - 3 * t**2 + 1)
        + slope[..., at, :] * (t**3 - 2 * t**2 + t)
        + points[..., at + 1, :] * (3 * t**2 - 2 * t**3)
        + slope[..., at + 1, :] * (t**3 - t**2)
    )
    unit = curve[..., 3:ROOT] / curve[..., 3:ROOT].norm(dim=-1, keepdim=True)
    return torch.cat((curve[..., :3], unit, curve[..., ROOT:]), -1)


def velocities(poses: Float[Tensor, "*N F P"], rate: float = RATE) -> Float[Tensor, "*N F V"]:
    """By central differences; one-sided at the ends."""
    inner = difference(poses[..., :-2, :], poses[..., 2:, :]) * (rate / 2)
    first, last = (difference(poses[..., i, :], poses[..., i + 1, :]) * rate for i in (0, -2))
    return torch.cat((first.unsqueeze(-2), inner, last.unsqueeze(-2)), -2)


@dataclass(frozen=True)
class References:
    """Clips end to end: row `starts[i] + f` is frame f of clip i, which has `lengths[i]` frames."""

    names: tuple[str, ...]
    poses: Float[Tensor, "M P"]
    velocities: Float[Tensor, "M V"]
    starts: Int[Tensor, " C"]
    lengths: Int[Tensor, " C"]

    @staticmethod
    def of(clips: Mapping[str, Float[Tensor, "F P"]]) -> "References":
        """From poses at 30 frames per second, one clip a name.

        Raises:
            ValueError: no clip, or one of a single frame.
        """
        if not clips:
            raise ValueError("motion: no clips to follow; give a folder that has some")
        poses = [resampled(clip.double()) for clip in clips.values()]
        lengths = torch.tensor([len(clip) for clip in poses])
        speeds = torch.cat([velocities(clip) for clip in poses])
        return References(tuple(clips), torch.cat(poses).float(), speeds.float(), lengths.cumsum(0) - lengths, lengths)

    @staticmethod
    def side_by_side(poses: Float[Tensor, "N F P"]) -> "References":
        """From as many frames of each of N motions, 30 per second: that of robot i is clip i."""
        every = resampled(poses.double())
        count, frames = every.shape[:2]
        names = tuple(str(row) for row in range(count))
        lengths = torch.full((count,), frames)
        speeds = velocities(every).flatten(0, 1)
        return References(names, every.flatten(0, 1).float(), speeds.float(), lengths.cumsum(0) - lengths, lengths)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.names)

    def with_mirror(self) -> "References":
        """Twice as many: clip i + C is clip i as a mirror shows it."""
        return References(
            (*self.names, *(f"{name} mirrored" for name in self.names)),
            torch.cat((self.poses, mirrored_poses(self.poses))),
            torch.cat((self.velocities, mirrored_velocities(self.velocities))),
            torch.cat((self.starts, self.starts + len(self.poses))),
            self.lengths.repeat(2),
        )

    def rows(self, clip: Int[Tensor, "*#N"], frame: Int[Tensor, "*#N"]) -> Int[Tensor, "*N"]:
        """Where frames lie in the table; the last frame of a clip stands for all after it."""
        return self.starts[clip] + torch.minimum(frame, self.lengths[clip] - 1)

    def starting_points(self, frames: int) -> Int[Tensor, "S 2"]:
        """All pairs of clip and frame with at least so many frames to go; the first frame of clips that are shorter."""
        pairs: Sequence[Tensor] = [
            torch.stack((torch.full((n,), clip), torch.arange(n)), -1)
            for clip, n in enumerate((self.lengths - frames).clamp_min(1).tolist())
        ]
        return torch.cat(list(pairs))


@dataclass(frozen=True)
class Plan:
    """The next window of each of N robots: as motion, and as the codes that it was decoded from."""

    references: References
    """Clip i is what robot i is to do, from the last frame before the window on."""
    codes: Int[Tensor, "N T"]
    """Of the windows."""
    anchor: Float[Tensor, "N 3"]
    """Place (m) and heading (rad) of that last frame."""
