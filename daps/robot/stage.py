"""A stage of the robot's training as a folder: its settings, its figures, what it made, and what continues it.

config.json          settings; the same ones again continue
environment.json     versions, machine, commit, command
metrics.jsonl        figures of the training
weights.safetensors  what the stage made, once it is done
state.pt             what continues it bit for bit
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor

from daps.atomic import replacing
from daps.progress import Interrupted, ProgressLine, interrupts
from daps.run import Run, environment, exclusive, write_json

WEIGHTS, STATE = "weights.safetensors", "state.pt"


@runtime_checkable
class Training(Protocol):
    """What a stage wants of a training: rounds with figures, of which `step` counts, and a state to keep between."""

    @property
    def done(self) -> int:
        """What was counted so far."""

    @property
    def total(self) -> int:
        """What is counted in all."""

    def run(self) -> Iterator[dict[str, float]]:
        """Rounds that are left, with the figures of each."""

    def weights(self) -> dict[str, Tensor]:
        """What remains of it."""

    def state_dict(self) -> dict[str, Any]:
        """All that continues it bit for bit."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes up where state_dict left off."""


def train_stage(
    folder: Path,
    training: Training,
    settings: dict[str, Any],
    units: tuple[str, str] = ("step", "steps"),
    log_every: int = 1,
    save_seconds: float = 60.0,
) -> None:
    """Runs a training to its end in a folder, or goes on with the one that is there.

    Args:
        folder: of the stage.
        training: just made, from the settings.
        settings: all that decides the outcome, as JSON holds it.
        units: what is counted, one and several.
        log_every: rounds between rows of figures, which are means over them.
        save_seconds: between savings of the state.

    Raises:
        ValueError: the folder holds something else, or another process trains in it.
        Interrupted: Ctrl-C or SIGTERM; all is saved.
    """
    check_settings(folder, settings)
    with exclusive(folder):
        write_json(folder / "config.json", settings)
        state = folder / STATE
        if state.is_file():
            training.load_state_dict(_load(state))
        else:
            write_json(folder / "environment.json", environment(torch.device("cpu")))
        run = Run(folder)
        run.rewind_metrics(training.done)
        with interrupts() as interrupted, ProgressLine(training.done, training.total, units=units) as line:
            if training.done:
                line.say(f"{folder}: going on from {training.done} of {training.total} {units[1]}")
            window: list[dict[str, float]] = []
            saved = time.monotonic()
            for figures in training.run():
                window.append(figures)
                at_end = training.done >= training.total
                if len(window) == log_every or at_end or interrupted():
                    means = {key: sum(row[key] for row in window) / len(window) for key in figures if key != "step"}
                    window = []
                    run.append_metrics({"step": training.done, **means})
                    line.update(training.done, means)
                if at_end or interrupted() or time.monotonic() - saved >= save_seconds:
                    with replacing(state) as file:
                        torch.save(training.state_dict(), file)
                    saved = time.monotonic()
                if interrupted() and not at_end:
                    raise Interrupted(
                        f"stopped at {training.done} of {training.total} {units[1]}; the same command resumes it"
                    )
        weights = {name: tensor.contiguous() for name, tensor in training.weights().items()}
        with replacing(folder / WEIGHTS) as file:
            file.write(safetensors.torch.save(weights))


def finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds what a training of these settings made.

    Raises:
        ValueError: it holds something else.
    """
    check_settings(folder, settings)
    return (folder / WEIGHTS).is_file()


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """An old folder must be empty or hold the same settings.

    Raises:
        ValueError: it holds others, or is none.
    """
    if not (folder / "config.json").is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"run: {folder} exists and is no folder of this stage; choose another with --run FOLDER")
        return
    there, here = _flat(read_settings(folder)), _flat(json.loads(json.dumps(settings)))
    keys = [key for key in there | here if there.get(key) != here.get(key)]
    if keys:
        changed = "; ".join(f"{key} (there {there.get(key)}, now {here.get(key)})" for key in keys)
        raise ValueError(
            f"run: {folder} holds another training: {changed}; give the same options, choose another folder, or remove "
            "that one to train anew"
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """config.json of a stage.

    Raises:
        ValueError: there is none.
    """
    settings: dict[str, Any] = Run.open(folder).read_json("config.json")
    return settings


def read_weights(folder: Path) -> dict[str, Tensor]:
    """What a stage made.

    Raises:
        ValueError: it is not done.
    """
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"run: {folder} holds no {WEIGHTS}: its training is not done; the same command continues it")
    return safetensors.torch.load_file(folder / WEIGHTS)


def read_state(folder: Path) -> dict[str, Any]:
    """What continues a training.

    Raises:
        ValueError: there is none.
    """
    if not (folder / STATE).is_file():
        raise ValueError(f"run: {folder} holds no {STATE}, which only folders of trainings have; give one of these")
    return _load(folder / STATE)


def _load(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:
        raise ValueError(f"run: {path} is damaged ({type(error).__name__}); delete it to begin anew") from error
    return saved


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
