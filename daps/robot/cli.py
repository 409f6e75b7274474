"""The robot's commands: `daps robot track | trial`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from daps.robot.labels import kind_of
from daps.robot.model import build, find_mjcf
from daps.robot.reference import References
from daps.robot.stage import read_settings, read_weights, train_stage
from daps.robot.stream import retold
from daps.robot.tracker import Tracker, TrackerConfig
from daps.robot.tracking import Tracking, TrackingConfig
from daps.robot.trial import Blows, Outcome, spread_starts, summary, try_out
from daps.run import Run, write_json
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
    """Names of clips, or beginnings of names of clips that are not held out: walk run sprint dance; all if left out."""
    tokenizer: tuple[Path, ...] = ()
    """Runs of daps train lafan1: the robot follows the clips as these decode them, too."""
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
    """Names of clips, or their beginnings; those that it trained on and the held-out ones, apart, if left out."""
    tokenizer: Path | None = None
    """Run of daps train lafan1: also follows the clips as this decodes them."""
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
    clips = read_clips(options.clips, training_clips(options.clips, options.only))
    settings = {
        "stage": "tracker",
        "clips": sorted(clips),
        "tokenizers": [str(run) for run in options.tokenizer],
        "tracking": dataclasses.asdict(options.tracking),
        "tracker": dataclasses.asdict(options.tracker),
    }
    model = build(options.model, light=True)
    motions = dict(clips)
    for number, run in enumerate(options.tokenizer):
        motions |= decoded(clips, run, f" as decoded by {number}")
    training = Tracking(model, References.of(motions), options.tracking, options.tracker, options.threads)
    train_stage(options.run, training, settings, ("sample", "samples"))
    print(f"tracker: {options.run.resolve()}; next: daps robot trial {options.run} {options.clips}")


def run_trial(arguments: Sequence[str]) -> None:
    """daps robot trial RUN CLIPS."""
    options = parse(TrialOptions, arguments, "daps robot trial")
    tracker, settings = load_tracker(options.run)
    if options.only:
        sets = {"chosen clips": training_clips(options.clips, options.only)}
    else:
        kinds = {kind_of(name) for name in settings["clips"]}  # others it cannot know
        others = set(find_clips(options.clips)) - set(training_clips(options.clips))
        held_out = tuple(sorted(name for name in others - set(settings["clips"]) if kind_of(name) in kinds))
        sets = {"training clips": tuple(settings["clips"]), "held-out clips": held_out}
    model, kinematics = build(options.model, light=options.light), Kinematics.from_mjcf(find_mjcf(options.model))
    outcomes: list[tuple[str, Outcome]] = []
    for name, names in sets.items():
        if not names:
            continue
        motions = {name: read_clips(options.clips, names)}
        if options.tokenizer:
            motions[f"{name}, decoded"] = decoded(motions[name], options.tokenizer)
        for title, clips in motions.items():
            references = References.of(clips)
            starts = spread_starts(references, options.trials, options.seconds, options.seed)
            blows = Blows(options.push) if options.push else None
            trial = (model, kinematics, tracker, references, starts, options.seconds, blows, options.threads)
            outcomes.append((title, try_out(*trial, seed=options.seed)))
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


def training_clips(folder: Path, only: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the clips of a folder to train on.

    Args:
        folder: of clips.
        only: names, or beginnings of names; all that the data set does not hold out if there are none.

    Raises:
        ValueError: no clip begins like that.
    """
    names = list(find_clips(folder))
    held_out = held_out_clips(folder, names)[0] if len(names) > 1 else set()
    chosen = [name for name in names if name not in held_out]
    if not only:
        return tuple(chosen)
    found: list[str] = []
    for word in only:
        matches = [word] if word in names else [name for name in chosen if name.startswith(word)]
        if not matches:
            raise ValueError(f"only: no clip {word!r} in {folder}{did_you_mean(word, names)}")
        found += [name for name in matches if name not in found]
    return tuple(found)


def decoded(clips: Mapping[str, Tensor], run: Path, mark: str = "") -> dict[str, Tensor]:
    """Clips through a tokenizer and back, those that are long enough; their names get a mark."""
    tokenizer = Run(run).load_model()
    window = tokenizer.data_shape[0]
    return {name + mark: retold(tokenizer, poses) for name, poses in clips.items() if len(poses) >= window}


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
