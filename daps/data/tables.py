"""Pictures in parquet tables: mnist, cifar10, and folders of parquet files."""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from daps.data.dataset import Dataset, one_line, warn_skipped
from daps.data.decoding import Item, Plan, cached
from daps.data.pictures import decode_picture

BATCH = 256


class Table(NamedTuple):
    """Where a known data set lies and what its rows look like."""

    hub_id: str
    image: str
    label: str
    shape: tuple[int, int, int]


HUB = {
    "mnist": Table("ylecun/mnist", "image", "label", (1, 28, 28)),
    "cifar10": Table("uoft-cs/cifar10", "img", "label", (3, 32, 32)),
}
FILES = {"train": "train", "validation": "test"}


def load_table(name: str, split: str, path: Path | None) -> Dataset:
    """mnist or cifar10 from the hub, or from a folder with train.parquet and test.parquet."""
    table, stem = HUB[name], FILES[split]
    if path is None:
        source: Any = hub_split(name, table, stem)
        files = [Path(part["filename"]) for part in source.cache_files]
        where = f"{table.hub_id} on the hub"
    else:
        source = None
        files = local_files(name, path, stem)
        where = ", ".join(file.name for file in files)

    def plan() -> Plan:
        tables = hub_batches(source) if path is None else None
        return table_plan(table, stem, files, tables)

    try:
        decoded = cached((name, table, stem), files, plan)
    except ValueError as error:
        raise ValueError(f"data {name!r}, {where}: {error}") from None
    warn_skipped(decoded.skipped)
    return Dataset(
        values=decoded.values,
        name=name,
        split=split,
        peak=255.0,
        about=f"{name} from {where}: train is its train split, validation its test split",
        labels=np.array(decoded.labels, dtype=np.int64),
        skipped=decoded.skipped,
    )


def hub_split(name: str, table: Table, stem: str) -> Any:
    """The split as a `datasets.Dataset` of undecoded pictures."""
    try:
        import datasets

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would bury our one line
        source = datasets.load_dataset(table.hub_id, split=stem)
        return source.cast_column(table.image, datasets.Image(decode=False))
    except Exception as error:  # the hub's client raises its own, and those of the network
        raise ValueError(
            f"data {name!r}: {table.hub_id} cannot be had from the hub "
            f"({type(error).__name__}: {one_line(error, 120)}): pass a folder with train.parquet "
            "and test.parquet with --data.path"
        ) from None


def hub_batches(source: Any) -> list[Any]:
    """The whole split as one arrow table, in a list."""
    return [source.with_format("arrow")[:]]


def local_files(name: str, path: Path, stem: str) -> list[Path]:
    """stem.parquet, or the pieces stem-00000-of-..., in the folder `path`."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise ValueError(f"data {name!r}: {path} {what}: want a folder with {stem}.parquet")
    files = [path / f"{stem}.parquet"]
    if not files[0].is_file():
        files = sorted(path.glob(f"{stem}-*.parquet"))
    if not files:
        raise ValueError(f"data {name!r}: {path} holds no {stem}.parquet (nor {stem}-*.parquet)")
    return files


def table_plan(table: Table, stem: str, files: list[Path], tables: list[Any] | None) -> Plan:
    """Plan to decode all rows in order, with their labels."""
    columns = (table.image, table.label)
    if tables is None:
        tables = [read_parquet(file, columns) for file in files]
    images: list[bytes | None] = []
    labels: list[int] = []
    for part in tables:
        for column in columns:
            if column not in part.column_names:
                raise ValueError(missing_column(column, part.column_names))
        images += picture_bytes(part.column(table.image), table.image)
        labels += part.column(table.label).to_pylist()
    if not images:
        raise ValueError("has no rows")
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(f"column {table.label!r} must hold one whole number a row")
    channels, height, width = table.shape
    return Plan(
        names=tuple(f"{stem}#{row}" for row in range(len(images))),
        shape=table.shape,
        items=lambda: ((row, data or b"") for row, data in enumerate(images)),
        decode=partial(decode_picture, channels=channels, height=height, width=width, exact=True),
        labels=tuple(labels),
    )


def parquet_plan(files: list[tuple[str, Path]], size: int, order: Any) -> Plan:
    """Plan to decode column `image` of several files; `order(names)` gives the rows' order."""
    counts = [count_rows(path) for _, path in files]
    names = [f"{name}#{row}" for (name, _), count in zip(files, counts, strict=True) for row in range(count)]
    if not names:
        raise ValueError("its parquet files have no rows")
    ordered = order(names)
    place = np.empty(len(names), dtype=np.int64)
    place[ordered] = np.arange(len(names))

    def items() -> Iterator[Item]:
        rows = chain.from_iterable(stream_pictures(path) for _, path in files)
        return ((int(place[row]), data or b"") for row, data in enumerate(rows))

    return Plan(
        names=tuple(names[row] for row in ordered),
        shape=(3, size, size),
        items=items,
        decode=partial(decode_picture, channels=3, height=size, width=size),
    )


def read_parquet(path: Path, columns: tuple[str, ...]) -> Any:
    """Those of `columns` that the file has, as an arrow table."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise ValueError(missing_column(column, names))
            return file.read(columns=list(columns))
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: not a readable parquet file: {one_line(error)}") from None


def count_rows(path: Path) -> int:
    """Rows of a parquet file that has a column `image`."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if "image" not in file.schema_arrow.names:
                raise ValueError(f"{path}: {missing_column('image', file.schema_arrow.names)}")
            return int(file.metadata.num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: not a readable parquet file: {one_line(error)}") from None


def stream_pictures(path: Path) -> Iterator[bytes | None]:
    """The encoded pictures of column `image`, a few at a time in memory."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=["image"]):
                yield from picture_bytes(batch.column(0), "image")
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: not a readable parquet file: {one_line(error)}") from None


def picture_bytes(column: Any, name: str) -> list[bytes | None]:
    """The bytes in an arrow column of binary, or of structs with a field `bytes`."""
    import pyarrow
    from pyarrow import types

    if isinstance(column, pyarrow.ChunkedArray):
        return list(chain.from_iterable(picture_bytes(part, name) for part in column.chunks))
    if types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        # flatten, unlike field, keeps the nulls of the structs themselves
        column = column.flatten()[column.type.get_field_index("bytes")]
    if not (types.is_binary(column.type) or types.is_large_binary(column.type)):
        raise ValueError(
            f"column {name!r} must hold encoded pictures (binary, or a struct with a field 'bytes'), got {column.type}"
        )
    return list(column.to_pylist())


def missing_column(column: str, names: list[str]) -> str:
    """The message for a column that is not there."""
    return f"has no column {column!r}: its columns are {', '.join(map(repr, names)) or 'none'}"
