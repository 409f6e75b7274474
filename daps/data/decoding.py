"""Many pictures -> one array, decoded by threads, kept as a memory map between runs."""

import hashlib
import json
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from daps.atomic import replacing
from daps.data.dataset import one_line

FORMAT = 1  # of the cache; raise it whenever the decoding changes
CHUNK = 64
Item = tuple[int, bytes | Path]  # row in the result, picture
Row = tuple[int, NDArray[np.uint8] | str]  # row in the result, pixels or what is wrong


@dataclass(frozen=True)
class Plan:
    """What to decode: `items` yields each row's picture, in any order, anew at every call."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    items: Callable[[], Iterable[Item]]
    decode: Callable[[bytes | Path], NDArray[np.uint8]]
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Decoded:
    """The rows that could be decoded, in the plan's order, and what is wrong with the others."""

    values: NDArray[np.uint8]
    names: tuple[str, ...]
    skipped: tuple[str, ...]
    labels: tuple[int, ...] | None


def cached(what: object, files: Iterable[Path], make_plan: Callable[[], Plan]) -> Decoded:
    """`make_plan()` decoded, from the cache if `files` (and `what`) are as they were then.

    A cache that cannot be read is made anew; one that cannot be written costs a warning and the
    memory for the pictures.
    """
    folder = cache_folder()
    if folder is None:
        return decode_in_memory(make_plan())
    target = folder / f"{cache_key(what, files)}.npy"
    hit = read_cache(target)
    if hit is not None:
        return hit
    plan = make_plan()
    try:
        write_cache(target, plan)
        hit = read_cache(target)
    except OSError as error:
        warnings.warn(
            f"the picture cache {folder} cannot be written ({one_line(error)}): "
            "decoding into memory; DAPS_CACHE names another folder",
            stacklevel=2,
        )
    return decode_in_memory(plan) if hit is None else hit


def cache_folder() -> Path | None:
    """DAPS_CACHE, else the platform's folder for caches; None where the user has no home."""
    if chosen := os.environ.get("DAPS_CACHE"):
        return Path(chosen)
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "daps" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "daps"
        xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "daps"
    except RuntimeError:
        return None


def cache_key(what: object, files: Iterable[Path]) -> str:
    """Hash of `what` and of the place, size and time of change of each file."""
    digest = hashlib.sha256(repr((FORMAT, what)).encode("utf-8", "surrogateescape"))
    for path in files:
        try:
            stat = path.stat()
            facts = (os.path.abspath(path), stat.st_size, stat.st_mtime_ns)
        except OSError:  # it will be reported when it is decoded
            facts = (os.path.abspath(path), -1, -1)
        digest.update(repr(facts).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def read_cache(target: Path) -> Decoded | None:
    """The cache entry as a read-only memory map, or None if it is missing or broken."""
    try:
        values = np.load(target, mmap_mode="r", allow_pickle=False)
        facts = json.loads(target.with_suffix(".json").read_text("utf-8"))
        labels = None if facts["labels"] is None else tuple(facts["labels"])
        names, skipped = tuple(facts["names"]), tuple(facts["skipped"])
        whole = values.dtype == np.uint8 and len(values) == len(names)
        whole = whole and (labels is None or len(labels) == len(names))
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    return Decoded(values, names, skipped, labels) if whole else None


def write_cache(target: Path, plan: Plan) -> None:
    """Decode `plan` into `target` and its .json, each complete or not there at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as stream:
        header = npy_header(len(plan.names), plan.shape)
        row_size = int(np.prod(plan.shape))
        stream.write(header)

        def put(rows: list[int], pixels: NDArray[np.uint8]) -> None:
            # Written, not mapped: on a full disk a map would kill the process.
            step = len(rows) if rows == list(range(rows[0], rows[0] + len(rows))) else 1
            for first in range(0, len(rows), step):
                stream.seek(len(header) + rows[first] * row_size)
                stream.write(pixels[first : first + step].tobytes())

        bad = run(plan, put)
        names, skipped, labels = good_facts(plan, bad)
        if bad:
            compact(stream, len(plan.names), plan.shape, bad)
        facts = {"names": names, "skipped": skipped, "labels": labels}
        with replacing(target.with_suffix(".json")) as side:  # in place before the array is
            side.write(json.dumps(facts).encode("ascii"))


def decode_in_memory(plan: Plan) -> Decoded:
    """The same without a cache."""
    values = np.zeros((len(plan.names), *plan.shape), dtype=np.uint8)
    bad = run(plan, values.__setitem__)
    names, skipped, labels = good_facts(plan, bad)
    if bad:
        values = np.delete(values, list(bad), axis=0)
    return Decoded(values, names, skipped, labels)


def npy_header(count: int, shape: tuple[int, ...]) -> bytes:
    """Header of a .npy file of uint8 [count, *shape]: always 128 bytes, so it can be rewritten."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(count, *shape)}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"


def compact(stream: BinaryIO, count: int, shape: tuple[int, ...], bad: dict[int, str]) -> None:
    """Close the gaps that the bad rows left in the .npy file `stream`."""
    start, row_size = len(npy_header(count, shape)), int(np.prod(shape))
    good = [row for row in range(count) if row not in bad]
    for to, row in enumerate(good):
        if to != row:
            stream.seek(start + row * row_size)
            pixels = stream.read(row_size)
            stream.seek(start + to * row_size)
            stream.write(pixels)
    stream.truncate(start + len(good) * row_size)
    stream.seek(0)
    stream.write(npy_header(len(good), shape))


def good_facts(plan: Plan, bad: dict[int, str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...] | None]:
    """Names of the good rows, one line for each bad one, labels of the good rows."""
    count = len(plan.names)
    skipped = tuple(f"{one_line(plan.names[row])}: {bad[row]}" for row in sorted(bad))
    if len(bad) == count:
        raise ValueError(f"none of {count} pictures could be decoded, the first: {skipped[0]}")
    good = [row for row in range(count) if row not in bad]
    labels = None if plan.labels is None else tuple(plan.labels[row] for row in good)
    return tuple(plan.names[row] for row in good), skipped, labels


def run(plan: Plan, put: Callable[[list[int], NDArray[np.uint8]], None]) -> dict[int, str]:
    """Decode every item by threads and `put` it in its row; returns what is wrong, by row."""
    bad: dict[int, str] = {}
    with progress(len(plan.names)) as advance:
        for chunk in decode_chunks(plan):
            good = [(row, result) for row, result in chunk if not isinstance(result, str)]
            bad.update((row, result) for row, result in chunk if isinstance(result, str))
            if good:
                put([row for row, _ in good], np.stack([pixels for _, pixels in good]))
            advance(len(chunk))
    return bad


def decode_chunks(plan: Plan) -> Iterator[list[Row]]:
    """Rows in the order of the items; only a few chunks are held in memory at a time."""
    workers = min(8, os.cpu_count() or 1)
    pending: deque[Future[list[Row]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        items = iter(plan.items())
        while chunk := list(islice(items, CHUNK)):
            pending.append(pool.submit(decode_chunk, plan.decode, chunk))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode_chunk(decode: Callable[[bytes | Path], NDArray[np.uint8]], chunk: list[Item]) -> list[Row]:
    """Pixels, or the reason why there are none, of each item."""
    rows: list[Row] = []
    for row, source in chunk:
        try:
            rows.append((row, decode(source)))
        except ValueError as error:
            rows.append((row, str(error)))
    return rows


@contextmanager
def progress(count: int) -> Iterator[Callable[[int], None]]:
    """A function that counts pictures; a bar appears on a terminal after one second."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(transient=True, console=Console(stderr=True))
    task = bar.add_task("decoding pictures", total=count)
    start = time.monotonic()

    def advance(more: int) -> None:
        bar.advance(task, more)
        late = time.monotonic() - start > 1
        if late and bar.console.is_terminal and not bar.live.is_started:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
