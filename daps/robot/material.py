"""Clips for the robot: which ones of a folder, and as a tokenizer decodes them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from daps.data.clips import find_clips, read_clip
from daps.data.motion import held_out_clips
from daps.methods.base import Autoencoder
from daps.mirror import mirrored_poses
from daps.robot.stream import retold
from daps.suggest import did_you_mean


def read_clips(folder: Path, only: Sequence[str] = ()) -> dict[str, Tensor]:
    """Poses of clips by name, at 30 frames per second.

    Raises:
        ValueError: a name that is not there.
    """
    files = find_clips(folder)
    for name in only:
        if name not in files:
            raise ValueError(f"only: no clip {name!r} in {folder}{did_you_mean(name, files)}")
    return {name: torch.from_numpy(read_clip(path)) for name, path in files.items() if not only or name in only}


def training_clips(folder: Path, only: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the clips of a folder to train on.

    Args:
        folder: of clips.
        only: names, or beginnings of names; all that the data set does not hold out if there are none.

    Raises:
        ValueError: no clip begins like that.
    """
    names = list(find_clips(folder))
    held_out = held_out_clips(folder, names)[0] if len(names) > 1 else set()
    chosen = [name for name in names if name not in held_out]
    if not only:
        return tuple(chosen)
    found: list[str] = []
    for word in only:
        matches = [word] if word in names else [name for name in chosen if name.startswith(word)]
        if not matches:
            raise ValueError(f"only: no clip {word!r} in {folder}{did_you_mean(word, names)}")
        found += [name for name in matches if name not in found]
    return tuple(found)


def fingerprint(clips: Mapping[str, Tensor]) -> str:
    """12 hexadecimal digits that change with any name or pose."""
    digest = hashlib.sha256()
    for name in sorted(clips):
        digest.update(f"{name}\0{list(clips[name].shape)}".encode())
        digest.update(clips[name].contiguous().numpy().data)
    return digest.hexdigest()[:12]


def with_mirror_images(clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every clip also as a mirror shows it."""
    return {**clips, **{f"{name} mirrored": mirrored_poses(poses) for name, poses in clips.items()}}


def decoded(clips: Mapping[str, Tensor], tokenizer: Autoencoder, mark: str = "") -> dict[str, Tensor]:
    """Clips through a tokenizer and back, those that are long enough; their names get a mark."""
    window = tokenizer.data_shape[0]
    return {name + mark: retold(tokenizer, poses) for name, poses in clips.items() if len(poses) >= window}
