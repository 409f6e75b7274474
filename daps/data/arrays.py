"""Vectors and sequences from .npy and .npz files."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daps.data.dataset import SPLITS, Dataset, one_line, permutation_split

SUFFIXES = (".npy", ".npz")


def load_array(split: str, path: Path) -> Dataset:
    """`path` as float32 [D] or [F, C] data.

    A .npz file with the keys train and validation is split so; a single array is split by a
    permutation of fixed seed, a tenth of its rows (at least one) to validation. Raises ValueError.
    """
    arrays = read_arrays(path)
    if set(arrays) == set(SPLITS):
        both = {key: check_rows(arrays[key], f"{path} [{key}]") for key in SPLITS}
        if both["train"].shape[1:] != both["validation"].shape[1:]:
            raise ValueError(
                f"{path}: train and validation rows must have one shape, got "
                f"{both['train'].shape[1:]} and {both['validation'].shape[1:]}"
            )
        how = "split by its keys train and validation"
    elif len(arrays) == 1:
        values = check_rows(next(iter(arrays.values())), str(path))
        if len(values) < 2:
            raise ValueError(f"{path}: a split needs at least 2 rows, got {len(values)}")
        held_out = max(1, len(values) // 10)
        both = {key: values[permutation_split(len(values), held_out, key)] for key in SPLITS}
        how = f"{held_out} of its {len(values)} rows, drawn by a fixed seed, are validation"
    else:
        raise ValueError(
            f"{path}: a .npz must hold one array, or the two called train and validation, "
            f"got {', '.join(map(repr, sorted(arrays))) or 'none'}"
        )
    low, high = float(both["train"].min()), float(both["train"].max())
    if low == high:
        raise ValueError(f"{path}: all training values are {low:g}: there is nothing to learn")
    return Dataset(
        values=both[split],
        name="array",
        split=split,
        peak=high - low,
        about=f"{path.name}: {how}",
    )


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of a .npy (under the key "") or .npz file; nothing in it is executed."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: an array file ends in .npy or .npz, got {path.suffix!r}")
    if not path.is_file():
        what = "this is a folder" if path.is_dir() else "there is no such file"
        raise ValueError(f"{path}: want a .npy or .npz file, but {what}")
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {"": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path}: holds Python objects (dtype object), which are not read: save a plain array of numbers"
            ) from None
        # numpy takes whatever it does not know for a pickle
        reason = "not in numpy's format" if "pickle" in str(error) else one_line(error)
        raise ValueError(f"{path}: not a readable array file: {reason}") from None


def check_rows(values: NDArray[np.generic], where: str) -> NDArray[np.float32]:
    """`values` as float32 [N, D] or [N, F, C] with finite values, else ValueError."""
    if values.ndim not in (2, 3):
        hint = "; for pictures use images" if values.ndim == 4 else ""
        raise ValueError(f"{where}: an array has shape [N, D] or [N, F, C], got {list(values.shape)}{hint}")
    if values.size == 0:
        raise ValueError(f"{where}: want at least one row and one value in it, got {values.shape}")
    return to_float32(values, where)


def to_float32(values: NDArray[np.generic], where: str) -> NDArray[np.float32]:
    """Real numbers as finite float32, else ValueError."""
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{where}: values must be real numbers, got dtype {values.dtype}: convert them first")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values, dtype=np.float32)
    finite = np.isfinite(result)
    if not finite.all():
        bad = ~finite.reshape(len(result), -1)
        raise ValueError(
            f"{where}: values must be finite float32, got {int(bad.sum())} NaN or infinite, the "
            f"first in row {int(bad.any(axis=1).argmax())}: remove or fill them"
        )
    return result
