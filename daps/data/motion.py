"""Motion as a data set: every window of 32 frames of a folder of clips, or of the synthetic gait."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from daps.data.clips import WINDOW, find_clips, read_clip
from daps.data.dataset import Dataset, Windows, hash_order, validation_count
from daps.data.gait import gait
from daps.mirror import mirrored_poses
from daps.motion import pose_features

HELD_OUT = ("dance2_subject2", "fight1_subject2", "run2_subject1", "walk2_subject4")  # the paper's, of LAFAN1
LEAST_VARIANCE = 1e-5  # the paper drops features that vary less
STRIDE = {"train": 1, "validation": WINDOW}  # frames from one window to the next


def load_lafan1(split: str, path: Path, mirror: bool = False) -> Dataset:
    """Windows float32 [32, 36] of the clips in the folder `path`, as features (daps/motion.py).

    Validation are the paper's four clips where the folder has any of them, else the clips in the lowest tenth by a
    hash of their names (at least one), in windows side by side; training has a window at every frame of the others,
    and with `mirror` of their mirror images.
    Raises ValueError as find_clips and read_clip do, and where a split would be empty.
    """
    files = find_clips(path)
    held_out, how = held_out_clips(path, list(files))
    poses = {name: read_clip(file) for name, file in files.items() if (name in held_out) == (split == "validation")}
    return _of_clips(poses, "lafan1", split, f"{len(files)} clips of {path.name}: {how}", mirror)


def held_out_clips(path: Path, names: Sequence[str]) -> tuple[set[str], str]:
    """The clips for validation, and how they were chosen."""
    found = set(HELD_OUT) & set(names)
    if len(names) < 2 or len(found) == len(names):
        kind = "all of them held out for validation" if found else "one"
        raise ValueError(f"{path}: a split needs at least 2 clips, got {len(names)}, {kind}: add clips to train on")
    if found:
        return found, f"{', '.join(sorted(found))} are validation, the others train"
    order = [names[i] for i in hash_order(names)]
    count = validation_count(order)
    return set(order[:count]), f"{count} of them, by a hash of their names, are validation"


def load_gait(split: str, mirror: bool = False) -> Dataset:
    """Windows float32 [32, 36] of the synthetic gait: 24 walks of ten seconds to train, 6 others for validation."""
    seeds = range(24) if split == "train" else range(1_000, 1_006)
    poses = {f"gait{seed}": gait(seed, 300) for seed in seeds}
    return _of_clips(poses, "gait", split, "synthetic walks of the Unitree G1; validation has other seeds", mirror)


def _of_clips(poses: dict[str, NDArray[np.float64]], name: str, split: str, about: str, mirror: bool) -> Dataset:
    if mirror and split == "train":
        twins = {f"{clip} mirrored": mirrored_poses(torch.from_numpy(rows)).numpy() for clip, rows in poses.items()}
        poses, about = poses | twins, f"{about}; clips and their mirror images"
    return windows(poses, name, split, about)


def windows(poses: Mapping[str, NDArray[np.float64]], name: str, split: str, about: str) -> Dataset:
    """The windows of clips, of which only the frames are held in memory."""
    parts = [pose_features(torch.from_numpy(clip)).float().numpy() for clip in poses.values()]
    ends = np.cumsum([len(part) for part in parts])
    starts = [
        np.arange(end - len(part), end - WINDOW + 1, STRIDE[split]) for part, end in zip(parts, ends, strict=True)
    ]
    frames = np.concatenate(parts)
    span = frames.max(0) - frames.min(0)
    names = [f"{clip}:{i}" for clip, first in zip(poses, starts, strict=True) for i in first - first[0]]
    return Dataset(
        values=Windows(frames, np.concatenate(starts), WINDOW),
        name=name,
        split=split,
        peak=np.where(span > 0, span, np.float32(1)),  # as the paper: features have units of their own
        about=f"{about}; windows of {WINDOW} frames at 30 Hz",
        names=tuple(names) if split == "validation" else None,
        least_variance=LEAST_VARIANCE,
    )
