"""Clips of motion as CSV files, and their windows.

A file has a row per frame at 30 frames per second and 36 columns without a header, as the LAFAN1 clips retargeted to
the Unitree G1 have them: x y z of the root (m), its quaternion x y z w (scalar LAST), 29 joints (rad). In memory poses
are MuJoCo's qpos: scalar first.
"""

import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from daps.atomic import replacing
from daps.data.dataset import one_line
from daps.data.files import safe_names
from daps.motion import POSE, feature_poses, next_start, pose_features, pose_start
from daps.rotation import continuous

SUFFIXES = (".csv", ".csv.xz")
WINDOW = 32  # frames of a datum
TO_QPOS = (0, 1, 2, 6, 3, 4, 5, *range(7, POSE))  # columns of a file, in the order of qpos
TO_FILE = (0, 1, 2, 4, 5, 6, 3, *range(7, POSE))
NORM_TOLERANCE = 1e-2  # of quaternions: files are rounded to a few digits


def is_clip(path: Path) -> bool:
    """Whether a file is called like a clip."""
    return path.name.lower().endswith(SUFFIXES)


def clip_name(path: Path) -> str:
    """walk1_subject1 of walk1_subject1.csv.xz."""
    name = path.name[:-3] if path.name.lower().endswith(".xz") else path.name
    return name[: -len(".csv")]


def find_clips(path: Path) -> dict[str, Path]:
    """Name -> file, sorted by name, of a clip or of the clips in a folder (not in folders below it).

    Raises:
        ValueError: no such file or folder, no clips, or two of one name.
    """
    if path.is_file() and is_clip(path):
        return {clip_name(path): path}
    if not path.is_dir():
        what = "is no .csv or .csv.xz file" if path.is_file() else "there is no such file or folder"
        raise ValueError(f"{path}: {what}; pass a clip or a folder of clips")
    files = sorted(file for file in path.iterdir() if file.is_file() and is_clip(file) and file.name[0] != ".")
    clips: dict[str, Path] = {}
    for file in files:
        twin = clips.setdefault(clip_name(file), file)
        if twin is not file:
            raise ValueError(f"{path}: holds {twin.name} and {file.name}, two clips of one name: keep one")
    if not clips:
        raise ValueError(f"{path}: holds no clip: want .csv or .csv.xz files of {POSE} columns in the folder itself")
    return dict(sorted(clips.items()))


def read_clip(path: Path) -> NDArray[np.float64]:
    """Poses [F, 36] of a file as MuJoCo's qpos; quaternions get norm 1 and continuous signs.

    Raises:
        ValueError: unreadable, another number of columns, NaN, too short for a window, quaternions far from norm 1.
    """
    try:
        with lzma.open(path, "rt") if path.name.lower().endswith(".xz") else open(path) as stream:
            lines = [line for line in stream if line.strip()]
        values = np.loadtxt(lines, delimiter=",", ndmin=2) if lines else np.empty((0, POSE))
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        reason = one_line(str(error).rstrip(". "))
        raise ValueError(
            f"{path}: not readable as numbers ({reason}): want commas between them and no header"
        ) from None
    if values.shape[1] != POSE:
        raise ValueError(
            f"{path}: a clip has {POSE} columns, x y z, quaternion x y z w and {POSE - 7} joints of the G1, got "
            f"{values.shape[1]}: convert it first"
        )
    finite = np.isfinite(values).all(1)
    if not finite.all():
        raise ValueError(
            f"{path}: values must be finite, got NaN or infinite ones in {(~finite).sum()} rows, the first is row "
            f"{int(finite.argmin())}: remove or fill them"
        )
    if len(values) < WINDOW:
        raise ValueError(f"{path}: a clip needs at least {WINDOW} frames, got {len(values)}: take it out of the folder")
    return checked_quaternions(values[:, TO_QPOS], path)


def checked_quaternions(poses: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """Poses with quaternions of norm 1 and continuous signs; ValueError where a norm is far from 1."""
    norms = np.linalg.norm(poses[:, 3:7], axis=1)
    worst = int(np.abs(norms - 1).argmax())
    if abs(norms[worst] - 1) > NORM_TOLERANCE:
        raise ValueError(
            f"{path}: quaternions (columns 4 to 7, x y z w) must have norm 1, got {norms[worst]:.4g} in row {worst}: "
            "normalise them, or check the order of the columns"
        )
    poses[:, 3:7] = continuous(torch.from_numpy(poses[:, 3:7] / norms[:, None])).numpy()
    return poses


def write_clip(path: Path, poses: NDArray[np.floating]) -> None:
    """Poses [F, 36] (qpos) as a CSV file that read_clip reads, to the micrometre; complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        np.savetxt(stream, poses[:, TO_FILE], fmt="%.6f", delimiter=",")


def write_clips(path: Path, motions: Mapping[str, NDArray[np.floating]]) -> tuple[Path, ...]:
    """Poses by name: into `path` if it ends in .csv and there is one clip, else each into a file of the folder `path`.

    Returns:
        the files written.

    Raises:
        ValueError: an ending that is not written, several clips for one file, or files that are already there.
    """
    if path.suffix.lower() == ".csv":
        if len(motions) != 1:
            raise ValueError(
                f"{path}: one file holds exactly one clip, got {len(motions)}: pass a folder, .npy or .npz"
            )
        write_clip(path, next(iter(motions.values())))
        return (path,)
    if path.suffix or (path.exists() and not path.is_dir()):
        raise ValueError(f"{path}: motion is written as .csv, .npy or .npz, or into a folder: choose one of these")
    files = [path / f"{name}.csv" for name in safe_names(list(motions))]
    there = [file.name for file in files if file.exists()]
    if there:
        raise ValueError(f"{path}: {there[0]} is already there ({len(there)} of {len(files)} files): pass a new folder")
    for file, poses in zip(files, motions.values(), strict=True):
        write_clip(file, poses)
    return tuple(files)


@dataclass(frozen=True, eq=False)
class Tiles:
    """Clips cut into windows side by side; the last of a clip is filled up with its last pose, standing still.

    values [N, F, 36] are features, names "clip:first frame", starts [N, 3] (x, y, heading) of each first frame, and
    lengths [N] the frames that are the clip's own.
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]
    starts: NDArray[np.float64]
    lengths: NDArray[np.int64]


def read_tiles(path: Path) -> Tiles:
    """The windows of a clip, or of all clips in a folder.

    Raises:
        ValueError: as find_clips and read_clip.
    """
    parts = [tile(name, read_clip(file)) for name, file in find_clips(path).items()]
    return Tiles(
        np.concatenate([part.values for part in parts]),
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )


def tile(name: str, poses: NDArray[np.float64]) -> Tiles:
    """One clip of poses [F, 36] as windows."""
    firsts = range(0, len(poses), WINDOW)
    missing = len(firsts) * WINDOW - len(poses)
    whole = torch.from_numpy(np.concatenate((poses, poses[-1:].repeat(missing, 0))))
    return Tiles(
        pose_features(whole).float().view(len(firsts), WINDOW, -1).numpy(),
        tuple(f"{name}:{first}" for first in firsts),
        pose_start(whole[::WINDOW]).numpy(),
        np.array([min(WINDOW, len(poses) - first) for first in firsts]),
    )


def join(
    values: NDArray[np.floating],
    names: Sequence[str],
    starts: NDArray[np.floating] | None = None,
    lengths: NDArray[np.integer] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Windows of features [N, F, 36] -> clip's name -> poses.

    Windows of one clip, in the order given, follow each other: each starts where the one before led to, so a clip has
    no jumps, and errors of velocity add up. Only the first start of a clip is taken from `starts`; zeros without it.
    A name that is not "clip:first frame" is a clip of its own.
    """
    features = torch.from_numpy(np.asarray(values, dtype=np.float64))
    clips: dict[str, list[torch.Tensor]] = {}
    after: dict[str, torch.Tensor] = {}
    for row, name in enumerate(names):
        stem, colon, frame = name.rpartition(":")
        clip = stem if colon and frame.isdecimal() else name
        first = torch.zeros(3, dtype=torch.float64) if starts is None else torch.from_numpy(starts[row]).double()
        start = after.get(clip, first)
        length = features.shape[1] if lengths is None else int(lengths[row])
        clips.setdefault(clip, []).append(feature_poses(features[row], start)[:length])
        after[clip] = next_start(features[row], start)
    return {clip: checked(torch.cat(parts)) for clip, parts in clips.items()}


def checked(poses: torch.Tensor) -> NDArray[np.float64]:
    """Poses with signs of the quaternions that are continuous over the borders of windows, too."""
    return torch.cat((poses[:, :3], continuous(poses[:, 3:7]), poses[:, 7:]), -1).numpy()
