"""A user's files: what is to be encoded, and what was decoded."""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from daps.atomic import replacing
from daps.data import arrays, pictures
from daps.data.dataset import warn_skipped
from daps.data.decoding import Plan, decode_in_memory

WRITABLE = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
RESERVED = {"con", "prn", "aux", "nul"} | {f"{d}{i}" for d in ("com", "lpt") for i in range(10)}


def read_input(
    path: str | PathLike[str], shape: Sequence[int], peak: float = 255.0
) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Data of `shape` from a .npy/.npz file, a picture, or a folder of pictures, and their names.

    Models of pictures, shape [C, H, W], get uint8 in 0..peak (pictures are resized, cropped and
    scaled to that; an array must already be so); others get float32 [*shape]. An array may hold
    one datum or N. Bad pictures in a folder are left out with a warning. Raises ValueError, in
    one line, for data of another shape or range, NaN, and where nothing can be read.
    """
    source, shape = Path(path).expanduser(), tuple(shape)
    if source.suffix.lower() in arrays.SUFFIXES and not source.is_dir():
        return read_array(source, shape, peak)
    if not source.exists():
        raise ValueError(f"{source}: there is no such file or folder")
    if len(shape) != 3:
        raise ValueError(f"{source}: the model takes arrays of shape {list(shape)}: pass a .npy or .npz file")
    if source.is_dir():
        files, skipped = pictures.find_files(source, pictures.is_picture)
        if not files:
            raise ValueError(f"{source}: holds no picture")
    else:
        files, skipped = [(source.name, source)], []
    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"{source}: pictures have 1 or 3 channels, the model takes {channels}")
    plan = Plan(
        names=tuple(name for name, _ in files),
        shape=shape,
        items=lambda: ((row, file) for row, (_, file) in enumerate(files)),
        decode=partial(pictures.decode_picture, channels=channels, height=height, width=width),
    )
    try:
        decoded = decode_in_memory(plan)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    warn_skipped((*skipped, *decoded.skipped))
    return rescale(decoded.values, 255.0, peak), decoded.names


def read_array(path: Path, shape: tuple[int, ...], peak: float) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """The data of an array file (one array, or `values` and perhaps `names`)."""
    found = arrays.read_arrays(path)
    names = found.pop("names", None) if "values" in found else None
    if len(found) != 1:
        keys = ", ".join(map(repr, sorted(found))) or "none"
        raise ValueError(f"{path}: must hold one array, or one called values, got {keys}")
    values = next(iter(found.values()))
    if values.shape == shape:
        values = values[None]
    if values.shape[1:] != shape or values.ndim == 0:
        raise ValueError(
            f"{path}: data must have shape {list(shape)}, that is [N, "
            f"{', '.join(map(str, shape))}] in all, got {list(values.shape)}"
        )
    if len(values) == 0:
        raise ValueError(f"{path}: holds no data, its shape is {list(values.shape)}")
    if names is not None and names.shape != (len(values),):
        raise ValueError(f"{path}: wants {len(values)} names, got shape {list(names.shape)}")
    digits = len(str(len(values) - 1))
    plain = [f"{row:0{digits}d}" for row in range(len(values))] if names is None else names
    real = arrays.to_float32(values, str(path))
    if len(shape) != 3:
        return real, tuple(map(str, plain))
    if real.min() < 0 or real.max() > peak or (real != np.round(real)).any():
        raise ValueError(
            f"{path}: pictures must hold whole numbers in 0..{peak:g}, got {values.dtype} in "
            f"{real.min():g}..{real.max():g}"
        )
    return real.astype(np.uint8), tuple(map(str, plain))


def write_output(
    path: str | PathLike[str],
    values: NDArray[np.generic],
    names: Sequence[str],
    peak: float = 255.0,
) -> tuple[Path, ...]:
    """Write data [N, *shape] where `path` says; returns the files written.

    .npy: the array; .npz: `values` and `names`; a picture's ending: the one picture; anything
    else: a folder, one PNG for each datum, called by its name. Pictures are scaled from 0..peak
    to 0..255 and clipped. Every file is complete or not there; a file in a folder is never
    overwritten. Raises ValueError, in one line, where the data do not fit the ending.
    """
    target = Path(path).expanduser()
    if len(names) != len(values):
        raise ValueError(f"names must be one for each of {len(values)} data, got {len(names)}")
    try:
        return write(target, values, tuple(names), peak)
    except OSError as error:
        raise ValueError(f"{target}: cannot be written: {error.strerror or error}") from None


def write(target: Path, values: NDArray[np.generic], names: tuple[str, ...], peak: float) -> tuple[Path, ...]:
    """`write_output` with the errors of the file system as they are."""
    suffix = target.suffix.lower()
    if suffix in arrays.SUFFIXES:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as stream:
            if suffix == ".npy":
                np.save(stream, values)
            else:
                np.savez(stream, values=values, names=np.array(names, dtype=np.str_))
        return (target,)
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise ValueError(
            f"{target}: data of shape {list(values.shape[1:])} are no pictures: write them to a .npy or .npz file"
        )
    if suffix in pictures.SUFFIXES and suffix not in WRITABLE:
        raise ValueError(f"{target}: {suffix} is not written: use .png")
    if not np.isfinite(values).all():
        raise ValueError(f"{target}: pictures must be finite, got NaN or infinite values")
    pixels = rescale(values, peak, 255.0)
    if suffix in WRITABLE:
        if len(values) != 1:
            raise ValueError(
                f"{target}: one picture file holds exactly one picture, got {len(values)}: pass a folder, .npy or .npz"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        write_picture(target, pixels[0])
        return (target,)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file: pass a folder, or an ending like .png or .npz")
    files = tuple(target / f"{name}.png" for name in safe_names(names))
    there = [file for file in files if file.exists()]
    if there:
        raise ValueError(
            f"{target}: {there[0].name} is already there ({len(there)} of {len(files)} files): pass a new folder"
        )
    target.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, pixels, strict=True):
        write_picture(file, picture)
    return files


def rescale(values: NDArray[np.generic], old_peak: float, new_peak: float) -> NDArray[np.uint8]:
    """Values in 0..old_peak as the nearest whole numbers in 0..new_peak, clipped."""
    if old_peak == new_peak and values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    scaled = values.astype(np.float64) * (new_peak / old_peak)
    return np.clip(np.round(scaled), 0, math.floor(new_peak)).astype(np.uint8)


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 [C, H, W] in the format of the ending."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    form = Image.registered_extensions()[path.suffix.lower()]
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    with replacing(path) as stream:
        image.save(stream, format=form, **options)


def safe_names(names: Sequence[str]) -> list[str]:
    """A file name for each name, without ending: flat, portable, and no two alike in any case."""
    used: set[str] = set()
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        base = safe_name(name)
        unique = base
        while unique.casefold() in used:
            seen[base.casefold()] += 1
            unique = f"{base}-{seen[base.casefold()] + 1}"
        used.add(unique.casefold())
        result.append(unique)
    return result


def safe_name(name: str) -> str:
    """`name` without a picture's ending, as one file name that every system accepts."""
    stem, dot, ending = name.rpartition(".")
    if f".{ending.lower()}" not in pictures.SUFFIXES or not dot:
        stem = name
    stem = unicodedata.normalize("NFC", stem)
    kept = [c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in stem]
    plain = "".join(kept).strip(" .")
    while len(plain.encode("utf-8")) > 200:
        plain = plain[:-1]
    if plain.split(".")[0].strip().casefold() in RESERVED:
        plain = f"_{plain}"
    return plain.rstrip(" .") or "picture"
