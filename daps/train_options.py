"""The options of `daps train`, and the training that they mean."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from daps.architecture import Architecture
from daps.config import Config, DataConfig, RuntimeConfig, TrainConfig
from daps.methods import METHODS, MethodConfig
from daps.options import parse
from daps.presets import preset

DEVICE = arg(help="cpu, cuda, mps, or auto: the first accelerator found.")


@dataclass(frozen=True)
class TrainOptions:
    """Train a preset, or continue the training in its run folder. `--method NAME` takes another method."""

    data: DataConfig
    nets: Architecture
    method: MethodConfig
    train: TrainConfig
    runtime: RuntimeConfig
    run: Path | None = None
    """Run folder; runs/PRESET, or runs/PRESET-METHOD for another method than daps, if left out."""
    device: Annotated[str, DEVICE] = "auto"
    dry_run: bool = False
    """Print the resolved configuration and stop."""


@dataclass(frozen=True)
class Order:
    """A training as it was asked for."""

    config: Config
    folder: Path
    device: str
    dry_run: bool


def resolve(arguments: Sequence[str]) -> Order:
    """What PRESET [--method NAME] [--options] mean.

    Raises:
        ValueError: no such preset or method, or settings that cannot be.
        SystemExit: options that are not understood, or a question for help.
    """
    name, rest = arguments[0], list(arguments[1:])
    method = _take(rest, "--method", next(iter(METHODS)))
    defaults = preset(name, method)
    groups = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(defaults) if f.name != "preset"}
    options = parse(TrainOptions, rest, f"daps train {name}", TrainOptions(**groups))
    data = options.data
    if data.path:  # so that the run can be evaluated from anywhere
        data = dataclasses.replace(data, path=str(Path(data.path).expanduser().resolve()))
    config = Config(name, data, options.nets, options.method, options.train, options.runtime)
    if config.method.parallel_only and config.nets.encoder_kind != "parallel":
        raise ValueError(
            f"nets.encoder_kind: {method} has a parallel encoder alone, got {config.nets.encoder_kind}; take parallel"
        )
    suffix = "" if method == next(iter(METHODS)) else f"-{method}"
    return Order(config, options.run or Path("runs") / f"{name}{suffix}", options.device, options.dry_run)


def _take(arguments: list[str], flag: str, default: str) -> str:
    """Removes `flag VALUE` or `flag=VALUE` from arguments and returns VALUE."""
    for i, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return arguments.pop(i).split("=", 1)[1]
        if argument == flag:
            if arguments[i + 1 : i + 2] == [] or arguments[i + 1].startswith("-"):
                raise ValueError(f"{flag}: wants a value; choose {', '.join(METHODS)}")
            del arguments[i]
            return arguments.pop(i)
    return default
