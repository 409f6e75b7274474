"""The robot's commands: `daps robot track | trial`."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tyro.conf import Positional

from daps.data.clips import find_clips, read_clip
from daps.data.motion import held_out_clips
from daps.kinematics import Kinematics
from daps.motion import G1_JOINTS
from daps.options import parse
from daps.robot.model import build, find_mjcf
from daps.robot.reference import References
from daps.robot.stage import read_settings, read_weights, train_stage
from daps.robot.tracker import Tracker, TrackerConfig
from daps.robot.tracking import Tracking, TrackingConfig
from daps.robot.trial import Blows, Outcome, spread_starts, summary, try_out
from daps.run import write_json
from daps.suggest import did_you_mean
from daps.tables import print_lines


@dataclass(frozen=True)
class TrackOptions:
    """Train the low-level policy to follow clips of motion, or continue; weights and figures go to the run folder."""

    clips: Positional[Path]
    """Folder of clips, as of `daps train lafan1`."""
    tracking: TrackingConfig = TrackingConfig()
    tracker: TrackerConfig = TrackerConfig()
    only: tuple[str, ...] = ()
    """Names of clips; all but the held-out ones if left out."""
    model: Path | None = None
    """MJCF file of the Unitree G1 with 29 joints; that of the package mjlab if left out."""
    run: Path = Path("runs/robot/tracker")
    """Folder of this stage."""
    threads: int = 1
    """CPU threads of the physics."""


@dataclass(frozen=True)
class TrialOptions:
    """Try a tracker from many places in clips, on the robot with all its shapes; writes trial.json beside it."""

    run: Positional[Path]
    """Folder that daps robot track wrote."""
    clips: Positional[Path]
    """Folder of clips."""
    only: tuple[str, ...] = ()
    """Names of clips; those that it trained on and the held-out ones, apart, if left out."""
    model: Path | None = None
    """MJCF file, as for daps robot track."""
    trials: int = 64
    """Places to start from, of each set of clips."""
    seconds: float = 8.0
    """Length of a trial."""
    push: float = 0.0
    """m/s that a push in a random direction adds every two seconds."""
    light: bool = False
    """On the light twin that training uses."""
    seed: int = 0
    """Of the places and the pushes."""
    threads: int = 1
    """CPU threads of the physics."""


def read_clips(folder: Path, only: Sequence[str] = ()) -> dict[str, Tensor]:
    """Poses of clips by name, at 30 frames per second.

    Raises:
        ValueError: a name that is not there.
    """
    files = find_clips(folder)
    for name in only:
        if name not in files:
            raise ValueError(f"only: no clip {name!r} in {folder}{did_you_mean(name, files)}")
    return {name: torch.from_numpy(read_clip(path)) for name, path in files.items() if not only or name in only}


def run_track(arguments: Sequence[str]) -> None:
    """daps robot track CLIPS [--run FOLDER]."""
    options = parse(TrackOptions, arguments, "daps robot track")
    names = options.only or _training_clips(options.clips)
    clips = read_clips(options.clips, names)
    settings = {
        "stage": "tracker",
        "clips": sorted(clips),
        "tracking": dataclasses.asdict(options.tracking),
        "tracker": dataclasses.asdict(options.tracker),
    }
    model = build(options.model, light=True)
    training = Tracking(model, References.of(clips), options.tracking, options.tracker, options.threads)
    train_stage(options.run, training, settings, ("sample", "samples"))
    print(f"tracker: {options.run.resolve()}; next: daps robot trial {options.run} {options.clips}")


def run_trial(arguments: Sequence[str]) -> None:
    """daps robot trial RUN CLIPS."""
    options = parse(TrialOptions, arguments, "daps robot trial")
    tracker, settings = load_tracker(options.run)
    if options.only:
        sets = {"chosen clips": tuple(options.only)}
    else:
        there = set(find_clips(options.clips))
        held_out = tuple(sorted(there - set(settings["clips"]) - set(_training_clips(options.clips))))
        sets = {"training clips": tuple(sorted(there & set(settings["clips"]))), "held-out clips": held_out}
    model, kinematics = build(options.model, light=options.light), Kinematics.from_mjcf(find_mjcf(options.model))
    outcomes: list[tuple[str, Outcome]] = []
    for name, names in sets.items():
        if names:
            references = References.of(read_clips(options.clips, names))
            starts = spread_starts(references, options.trials, options.seconds, options.seed)
            blows = Blows(options.push) if options.push else None
            trial = (model, kinematics, tracker, references, starts, options.seconds, blows, options.threads)
            outcomes.append((name, try_out(*trial, seed=options.seed)))
    protocol = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in ("run", "clips")}
    rows = [{"clips": name, **outcome.rows()} for name, outcome in outcomes]
    write_json(
        options.run / "trial.json", {"protocol": protocol | {"model": str(options.model or "mjlab")}, "outcomes": rows}
    )
    print_lines(summary(outcomes))


def load_tracker(folder: Path) -> tuple[Tracker, dict[str, Any]]:
    """The tracker of a stage, and its settings.

    Raises:
        ValueError: another stage, or one that is not done.
    """
    settings = read_settings(folder)
    if settings.get("stage") != "tracker":
        raise ValueError(f"run: {folder} is no tracker; pass the folder that daps robot track wrote")
    sizes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings["tracker"].items()
    }
    tracker = Tracker(len(G1_JOINTS), TrackerConfig(**sizes))
    tracker.load_state_dict(read_weights(folder))
    return tracker.eval().requires_grad_(False), settings


def _training_clips(folder: Path) -> tuple[str, ...]:
    """All but those that the data set holds out; all of a folder with one clip."""
    names = list(find_clips(folder))
    held_out = held_out_clips(folder, names)[0] if len(names) > 1 else set()
    return tuple(name for name in names if name not in held_out)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"track": run_track, "trial": run_trial}

USAGE = """usage: daps robot COMMAND ...

  track CLIPS       train the low-level policy to follow motion, or continue
  trial RUN CLIPS   how well it does: success, errors, power, with pushes if asked

'daps robot COMMAND --help' lists the options of a command"""


def main(arguments: Sequence[str]) -> None:
    """Runs one of the robot's commands."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    command = COMMANDS.get(arguments[0])
    if command is None:
        near = did_you_mean(arguments[0], COMMANDS)
        raise ValueError(f"no command 'robot {arguments[0]}'; choose {', '.join(COMMANDS)}{near}")
    command(arguments[1:])
