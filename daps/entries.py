"""What a page or a table of runs knows of each of them: the contents of its folder."""

import io
import shlex
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from daps import plots
from daps.config import Config
from daps.run import Run

Array = NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """What the page knows of one run; `style` is its place on the page."""

    style: int
    label: str
    path: Path
    config: Config
    parameters: int | None
    rows: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    arrays: dict[str, Array]
    environment: dict[str, Any] | None
    samples: list[Path]

    @property
    def dashes(self) -> str:
        """Of its lines, as SVG writes them."""
        return plots.dashes(self.style)

    @property
    def colour(self) -> int:
        """Number of its colour on the page."""
        return self.style % plots.COLOURS

    @property
    def eval_command(self) -> str:
        """What fills the missing evaluation."""
        return f"daps eval {shlex.quote(str(self.path))}"

    @property
    def commands(self) -> list[tuple[str, str]]:
        """(what it did, the command line) as recorded."""
        places = {"Command of the training": self.environment, "Command of the evaluation": self.figure("environment")}
        return [(title, place["command"]) for title, place in places.items() if place and "command" in place]

    def figure(self, *keys: str) -> Any:
        """A figure of the evaluation, or None."""
        found: Any = self.evaluation
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def last(self, key: str) -> Any:
        """A metric's last logged value, or None."""
        return next((row[key] for row in reversed(self.rows) if key in row), None)


def read_entries(runs: Sequence[Path]) -> list[Entry]:
    """The runs' contents, each under a name of its own: the folder's, or its path where two folders share one."""
    opened = [Run.open(path) for path in runs]
    names = [run.path.resolve().name or str(run.path) for run in opened]
    labels: list[str] = []
    for run, name in zip(opened, names, strict=True):
        label = name if names.count(name) == 1 else str(run.path)
        twins = sum(other.split(" #")[0] == label for other in labels)
        labels.append(f"{label} #{twins + 1}" if twins else label)
    return [_read(style, label, run) for style, (label, run) in enumerate(zip(labels, opened, strict=True))]


def _read(style: int, label: str, run: Run) -> Entry:
    config = run.config()
    evaluated, recorded = ((run.path / f"{name}.json").is_file() for name in ("evaluation", "environment"))
    return Entry(
        style=style,
        label=label,
        path=run.path,
        config=config,
        parameters=parameters(config),
        rows=run.metrics(),
        evaluation=run.read_json("evaluation.json") if evaluated else None,
        arrays=_arrays(run.path / "evaluation.npz") if evaluated else {},
        environment=run.read_json("environment.json") if recorded else None,
        samples=sorted(run.samples_path.glob("step_[0-9]*.png")),
    )


def _arrays(path: Path) -> dict[str, Array]:
    if not path.is_file():
        return {}
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            return dict(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged ({error}); write it again: daps eval {path.parent}") from error


def parameters(config: Config) -> int | None:
    """Of encoder and decoder, counted on a new model; None where the data's shape is unknown."""
    if not config.nets.data_shape:
        return None
    with torch.random.fork_rng(devices=[]):
        model = config.build(config.scaling((0.0, 1.0), 1.0))
    both = nn.ModuleList([model.encoder, model.decoder])  # which counts what they share once
    return sum(p.numel() for p in both.parameters())
