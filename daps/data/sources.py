"""`load`: a data set by name."""

import difflib
from os import PathLike
from pathlib import Path
from types import ModuleType

from daps.data.arrays import load_array
from daps.data.dataset import SPLITS, Dataset
from daps.data.digits import load_digits
from daps.data.images import DEFAULT_SIZE, load_images
from daps.data.tables import HUB, load_table

MOTION = ("lafan1", "gait")
NAMES = ("digits", "mnist", "cifar10", "images", "array", *MOTION)
EMBEDDED = ("digits", "gait")
WANTED = {"images": "a folder of pictures", "array": "a .npy or .npz file", "lafan1": "a folder of clips"}


def load(
    name: str, split: str, *, path: str | PathLike[str] | None = None, size: int | None = None, mirror: bool = False
) -> Dataset:
    """One split ("train" or "validation") of the data set `name`, in natural units.

    digits    scikit-learn's 1,797 digits, embedded: uint8 [1, 8, 8] in 0..16, labels
    mnist     from the hub, or `path`, a folder with train.parquet and test.parquet: [1, 28, 28]
    cifar10   the same: uint8 [3, 32, 32] in 0..255, labels
    images    `path`, a folder of pictures (or of parquet files): uint8 [3, size, size], size 64
    array     `path`, a .npy or .npz file: float32 [D] or [F, C]
    lafan1    `path`, a folder of clips of the Unitree G1: windows float32 [32, 36] of features (daps/motion.py)
    gait      the same of a synthetic walk, made when asked for

    With `mirror` the training split of motion also holds every clip as a mirror shows it (daps/mirror.py).
    Splits are fixed and stated in the result's `about`. Raises ValueError, in one line, for an
    unknown name or split, a missing path or option that does not fit, and unreadable data.
    """
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"data: no data set is called {name!r}{hint}: use {', '.join(NAMES)}")
    if split not in SPLITS:
        raise ValueError(f"split must be {' or '.join(map(repr, SPLITS))}, got {split!r}")
    if size is not None and name != "images":
        raise ValueError(f"size belongs to images; {name} has its own, got {size}: leave it out")
    if mirror and name not in MOTION:
        raise ValueError(f"mirror: exchanges left and right of a robot; {name} is no motion: leave it out")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if name in EMBEDDED:
        if path is not None:
            raise ValueError(f"{name} is embedded and takes no path, got {str(path)!r}")
        return load_digits(split) if name == "digits" else _motion().load_gait(split, mirror)
    source = None if path is None else Path(path).expanduser()
    if name in HUB:
        return load_table(name, split, source)
    if source is None:
        raise ValueError(f"data {name!r} needs a path: pass {WANTED[name]} with --data.path")
    if name == "images":
        return load_images(split, source, DEFAULT_SIZE if size is None else size)
    return load_array(split, source) if name == "array" else _motion().load_lafan1(split, source, mirror)


def _motion() -> ModuleType:
    """daps.data.motion, which loads torch; `import daps` need not wait for that."""
    from daps.data import motion

    return motion
