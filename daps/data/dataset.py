"""Dataset: one split of a data set in natural units, and the two fixed ways to make a split."""

import hashlib
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation")


@dataclass(frozen=True, eq=False)
class Windows:
    """An array [N, F, C] whose row i is frames[starts[i] : starts[i] + F], cut out when asked for.

    Windows overlap, so the frames [M, C] are held once and not F times.
    """

    frames: NDArray[np.float32]
    starts: NDArray[np.int64]
    length: int

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Of the frames."""
        return self.frames.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, F, C]."""
        return len(self.starts), self.length, self.frames.shape[1]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int | slice | NDArray[np.integer]) -> NDArray[np.float32]:
        return self.frames[self.starts[index, ..., None] + np.arange(self.length)]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set: `values` [N, *shape] in natural units.

    `peak` is the range of the data (for PSNR and scaling), of all or of each feature, `labels` [N]
    and `names` (file names) are there where the source has them, `skipped` says in one line each what was left out, and
    `about` says in one sentence where the data come from and how the split is made. Features
    whose variance is below `least_variance` are constant for our purposes and not scaled up.
    """

    values: NDArray[np.generic] | Windows
    name: str
    split: str
    peak: float | NDArray[np.float32]
    about: str
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()
    least_variance: float = 0.0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | slice | NDArray[np.integer]) -> NDArray[np.generic]:
        """A writable copy of one datum [*shape] or of several [n, *shape]."""
        return np.array(self.values[index])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any value, the order, the type or the number of the data."""
        digest = hashlib.sha256(repr((self.values.dtype.str, self.values.shape)).encode())
        parts = (self.values.frames, self.values.starts) if isinstance(self.values, Windows) else (self.values,)
        for part in parts:
            for start in range(0, len(part), 4096):
                digest.update(np.ascontiguousarray(part[start : start + 4096]).data)
        return digest.hexdigest()[:16]

    @property
    def distinct(self) -> NDArray[np.generic]:
        """The values, each once: [N, *shape], or of windows the frames under them as one long row [1, M, C]."""
        return self.values.frames[None] if isinstance(self.values, Windows) else self.values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.values.shape[1:]


def permutation_split(count: int, validation: int, split: str) -> NDArray[np.int64]:
    """Sorted row numbers of `split`, where `validation` of `count` rows are held out.

    The rows are drawn by a permutation of fixed seed 0, so they depend on the two counts alone.
    """
    order = np.random.Generator(np.random.Philox(0)).permutation(count)
    chosen = order[:validation] if split == "validation" else order[validation:]
    return np.sort(chosen).astype(np.int64)


def name_hash(name: str) -> int:
    """64-bit hash of a relative posix name, the same on every machine and file system."""
    normal = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(normal).digest()[:8], "big")


def hash_order(names: Sequence[str]) -> list[int]:
    """Positions of `names` by rising hash: the validation rows come first."""
    return sorted(range(len(names)), key=lambda i: (name_hash(names[i]), names[i]))


def validation_count(names_in_hash_order: Sequence[str]) -> int:
    """How many of the first names (by hash) are validation: those in the lowest tenth of hashes.

    A name's split does not depend on the other names, except that both splits get at least one.
    """
    count = sum(name_hash(name) < 2**64 // 10 for name in names_in_hash_order)
    return min(max(count, 1), len(names_in_hash_order) - 1)


def one_line(text: object, limit: int = 200) -> str:
    """`text` as one printable line (a file name may hold a line break or broken characters)."""
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= limit else line[: limit - 3] + "..."


def warn_skipped(skipped: Sequence[str]) -> None:
    """One warning for all that was left out (the first five by name)."""
    if skipped:
        shown = "; ".join(skipped[:5])
        more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        warnings.warn(f"left out {len(skipped)}: {shown}{more}", stacklevel=3)
