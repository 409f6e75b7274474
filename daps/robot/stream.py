"""Windows of motion, end to end: what a decoder makes window by window becomes one motion.

A window is decoded without a look at the one before, so the two meet with a jump. It is taken out as animators do
(inertialisation, Bollo, 2018): the jump is added to the first frames of the new window and dies out over them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from daps.methods.base import Autoencoder
from daps.motion import feature_poses, pose_features, pose_start

SPEEDS = 3  # features that are velocities: of the root in the plane, and its turn
FADE = 8  # frames over which a jump dies out


def stitched(
    before: Float[Tensor, "*N B C"], window: Float[Tensor, "*N F C"], fade: int = FADE
) -> Float[Tensor, "*N F C"]:
    """A window that goes on where the frames before it end: its first frame is where they lead, its later ones its own.

    Args:
        before: features of the last two frames or more (daps.motion).
        window: features of the frames after them.
        fade: frames over which the difference dies out; 0 leaves the window as it is.

    Raises:
        ValueError: fewer than two frames before.
    """
    if before.shape[-2] < 2:
        raise ValueError(f"before: wants at least 2 frames, got {before.shape[-2]}; they say where the motion leads")
    if not fade:
        return window
    last, trend = before[..., -1, :], before[..., -1, :] - before[..., -2, :]
    trend = torch.cat((torch.zeros_like(trend[..., :SPEEDS]), trend[..., SPEEDS:]), -1)
    jump = last + trend - window[..., 0, :]
    share = (1 - torch.arange(window.shape[-2], dtype=window.dtype) / fade).clamp_min(0)
    smooth = share.square() * (3 - 2 * share)
    return window + jump.unsqueeze(-2) * smooth.unsqueeze(-1)


@torch.no_grad()
def retold(
    tokenizer: Autoencoder, poses: Float[Tensor, "F P"], fade: int = FADE, batch: int = 256
) -> Float[Tensor, "G P"]:
    """A clip through codes and back: windows side by side, encoded greedily, decoded and stitched.

    The root starts where the clip's does; from there on it goes as decoded, so places drift apart.

    Args:
        tokenizer: of windows [F, C] of features.
        poses: of the clip, 30 frames per second.
        fade: as for `stitched`.
        batch: windows at a time.

    Returns:
        Poses of the whole windows in the clip.

    Raises:
        ValueError: a clip shorter than a window.
    """
    frames = tokenizer.data_shape[0]
    count = len(poses) // frames
    if not count:
        raise ValueError(f"motion: wants at least a window of {frames} frames, got {len(poses)}; take a longer clip")
    windows = pose_features(poses)[: count * frames].unflatten(0, (count, frames)).float()
    decoded = torch.cat(
        [tokenizer.decode(tokenizer.encode(part.to(tokenizer.device))).mean.cpu() for part in windows.split(batch)]
    ).to(poses.dtype)
    parts = [decoded[0]]
    for window in decoded[1:]:
        parts.append(stitched(parts[-1][-2:], window, fade))
    return feature_poses(torch.cat(parts), pose_start(poses[0]))
