"""Any folder of pictures, or of parquet files that hold pictures."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from daps.data.dataset import Dataset, hash_order, validation_count, warn_skipped
from daps.data.decoding import Decoded, Item, Plan, cached
from daps.data.pictures import decode_picture, find_files, is_picture
from daps.data.tables import parquet_plan

DEFAULT_SIZE = 64
HELD_OUT = ("validation", "val", "test")
Files = list[tuple[str, Path]]


def load_images(split: str, path: Path, size: int) -> Dataset:
    """Pictures below `path` as uint8 [3, size, size], resized and cropped in the centre.

    With folders train and validation (or val, or test) these are the splits; parquet files are
    told apart by the start of their names. Otherwise a tenth of the pictures, by a hash of their
    relative names, is validation, at least one. Raises ValueError, in one line, where nothing
    can be read; single bad pictures are left out, with a warning and a line in `skipped`.
    """
    files, skipped = list_files(path)
    kind = "pictures" if is_picture(files[0][1]) else "parquet"
    parts = named_splits(path, files, kind)
    try:
        if parts is not None:
            held_out, chosen = parts
            mine = chosen[split]
            decoded = decode(kind, mine, size, by_hash=False)
            rows = slice(None)
            how = f"train and {held_out}, as its folders or files are called"
        else:
            decoded = decode(kind, files, size, by_hash=True)
            total = len(decoded.names)
            if total < 2:
                raise ValueError(f"a split needs at least 2 readable pictures, got {total}")
            count = validation_count(decoded.names)
            rows = slice(None, count) if split == "validation" else slice(count, None)
            how = f"{count} of {total} pictures, by a hash of their names, are validation"
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    left_out = (*skipped, *decoded.skipped)
    warn_skipped(left_out)
    return Dataset(
        values=decoded.values[rows],
        name="images",
        split=split,
        peak=255.0,
        about=f"pictures of {path.name or path}, {size}x{size} from the centre; {how}",
        names=decoded.names[rows],
        skipped=left_out,
    )


def list_files(path: Path) -> tuple[Files, list[str]]:
    """Pictures or else parquet files below `path` (or the one parquet file), and what was not
    readable; ValueError where there are none, or both."""
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return [(path.name, path)], []
        raise ValueError(f"{path}: is a file: images wants a folder of pictures, or a .parquet")
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such folder")
    files, skipped = find_files(path, lambda p: is_picture(p) or p.suffix.lower() == ".parquet")
    pictures = [file for file in files if is_picture(file[1])]
    tables = [file for file in files if not is_picture(file[1])]
    if pictures and tables:
        raise ValueError(
            f"{path}: holds {len(pictures)} pictures and {len(tables)} parquet files: pass a folder with one kind"
        )
    if not files:
        unreadable = f" ({skipped[0]})" if skipped else ""
        raise ValueError(
            f"{path}: holds no picture{unreadable}: want .png, .jpg, .webp and the like, in it or "
            "in folders below it, or .parquet files with a column 'image'"
        )
    return files, skipped


def named_splits(path: Path, files: Files, kind: str) -> tuple[str, dict[str, Files]] | None:
    """The name of the held-out part and the files of both splits; None where none are named."""
    groups: dict[str, Files] = {"train": [], **{held_out: [] for held_out in HELD_OUT}}
    for name, file in files:
        match = re.match(r"(train|validation|val|test)[-_.]", file.name)
        group = match[1] if match and kind == "parquet" else name.split("/")[0]
        groups.setdefault(group, []).append((name, file))
    for held_out in HELD_OUT:
        both = {"train": groups["train"], "validation": groups[held_out]}
        if all(both.values()):
            return held_out, both
        if (path / "train").is_dir() and (path / held_out).is_dir():
            empty = held_out if both["train"] else "train"
            raise ValueError(f"{path}: its folder {empty} holds no picture")
    return None


def decode(kind: str, files: Files, size: int, by_hash: bool) -> Decoded:
    """All of `files`, in the order of their names or of the names' hashes."""
    order: Any = hash_order if by_hash else lambda names: list(range(len(names)))

    def picture_plan() -> Plan:
        ordered = [files[i] for i in order([name for name, _ in files])]

        def items() -> Iterator[Item]:
            return ((row, path) for row, (_, path) in enumerate(ordered))

        return Plan(
            names=tuple(name for name, _ in ordered),
            shape=(3, size, size),
            items=items,
            decode=partial(decode_picture, channels=3, height=size, width=size),
        )

    what = (kind, size, by_hash, [name for name, _ in files])
    plan = picture_plan if kind == "pictures" else partial(parquet_plan, files, size, order)
    return cached(what, [path for _, path in files], plan)
