"""`daps robot play | trial`: the robot does what it is told, and how well it follows motion."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tyro.conf import Positional, arg

from daps.atomic import replacing
from daps.data.clips import find_clips
from daps.kinematics import Kinematics
from daps.motion import G1_JOINTS
from daps.options import parse
from daps.robot.assessment import Clips, alike
from daps.robot.film import check_film, watch, write_film
from daps.robot.kit import CODES, SHIPPED, load_code_tracker, load_kit, load_tokenizer, load_tracker
from daps.robot.labels import Command, kind_of
from daps.robot.material import decoded, read_clips, training_clips
from daps.robot.model import build, find_mjcf
from daps.robot.pilot import Orders, Pilot, towards
from daps.robot.play import Loop, LoopConfig, Recording, heading_velocity
from daps.robot.reference import References
from daps.robot.simulation import RATE
from daps.robot.training_commands import CLIPS, MODEL, SENTENCES, THREADS
from daps.robot.trial import Blows, Outcome, spread_starts, summary, try_out
from daps.robot.world import State
from daps.run import write_json
from daps.tables import print_lines, print_rows

TEXT = arg(metavar="TEXT", help='What to do: "walk forward slowly".')
KIT = arg(help="Folder that daps robot train wrote; the kit that comes with the package if left out.")


@dataclass(frozen=True)
class PlayOptions:
    """The robot does what it is told, in physics: a sentence becomes codes, codes motion, motion torques."""

    text: Annotated[Positional[str], TEXT]
    velocity: tuple[float, float, float] | None = None
    """Forward and left, m/s, and turn, rad/s, in the robot's heading; what suits the sentence if left out."""
    waypoint: tuple[tuple[float, float], ...] = ()
    """Places to go to one after the other, x and y in metres, from (0, 0) facing along x."""
    pace: float = 0.8
    """Speed towards them, m/s."""
    seconds: float = 10.0
    """How long."""
    video: Path | None = None
    """MP4 file to write."""
    record: Path | None = None
    """NPZ file to write: poses and references, velocity of the centre of mass, torques, power and forces under the
    feet, 50 a second."""
    view: bool = False
    """Show it in MuJoCo's viewer, which needs a display."""
    kit: Annotated[Path | None, KIT] = None
    codes: bool = False
    """Torques from codes, without a look at the frames that they stand for."""
    sentences: Annotated[Path | None, SENTENCES] = None
    model: Annotated[Path | None, MODEL] = None
    guidance: float | None = None
    """How closely plans follow sentence and velocity; 1 draws from the policy itself; 1.5 with a velocity and 2.5
    without if left out."""
    temperature: float = Pilot.temperature
    """1 draws plans as the policy has them, 0 takes the likeliest symbols."""
    loop: LoopConfig = LoopConfig()
    seed: int = 0
    """Of the plans' draws."""


@dataclass(frozen=True)
class TrialOptions:
    """Try a tracker from many places in clips, on the robot with all its shapes; writes trial.json beside it."""

    run: Positional[Path]
    """Folder that daps robot track wrote."""
    clips: Annotated[Positional[Path], CLIPS]
    only: tuple[str, ...] = ()
    """Names of clips, or their beginnings; those that it trained on and the held-out ones, apart, if left out."""
    tokenizer: Path | None = None
    """Run of daps train lafan1: also follows the clips as this decodes them."""
    model: Annotated[Path | None, MODEL] = None
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
    threads: Annotated[int, THREADS] = 1

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("seconds", 1 / RATE), ("push", 0.0)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be >= {least:g} and finite, got {getattr(self, name):g}")


def run_play(arguments: Sequence[str]) -> None:
    """daps robot play TEXT [--velocity FORWARD LEFT TURN] [--video FILE]."""
    options = parse(PlayOptions, arguments, "daps robot play")
    if options.velocity and options.waypoint:
        raise ValueError("velocity: way-points set it; pass --velocity or --waypoint, not both")
    if not 1 / RATE <= options.seconds < math.inf:
        raise ValueError(f"seconds: must be >= {1 / RATE:g}, a control step, and finite, got {options.seconds:g}")
    numbers = {"velocity": options.velocity or (), "waypoint": sum(options.waypoint, ())}
    for name, given in numbers.items():
        if not all(map(math.isfinite, given)):
            raise ValueError(f"{name}: wants finite numbers, got {' '.join(map(str, given))}")
    if not 0 < options.pace < math.inf:
        raise ValueError(f"pace: must be > 0 and finite, got {options.pace:g}")
    if options.video:
        check_film(options.video)
    if options.record and options.record.suffix != ".npz":
        raise ValueError(f"record: wants a name that ends in .npz, got {options.record}; change the ending")
    kit, model = load_kit(options.kit, options.sentences), build(options.model)
    text = kit.reader.encode([options.text])
    pilot = Pilot(kit.planner, kit.tokenizer, options.guidance, options.temperature)
    tracker = load_code_tracker((options.kit or SHIPPED) / CODES) if options.codes else kit.tracker
    loop = Loop(model, pilot, tracker, 1, options.loop, seed=options.seed)
    points = list(options.waypoint)
    states = loop.run(_orders(options, text, points), options.seconds)
    if options.view:
        watch(model, states, RATE)
    else:
        for _ in states:
            pass
    rows = report(loop.recording, options.loop.rise)
    if options.velocity:
        rows.insert(2, ["velocity asked for", "{:.2f}, {:.2f} m/s, {:.2f} rad/s".format(*options.velocity)])
    if options.waypoint:
        rows.append(["way-points reached", f"{len(options.waypoint) - len(points)} of {len(options.waypoint)}"])
    print_rows(rows)
    if options.record:
        write_recording(options.record, loop.recording)
        print(f"record: {options.record}")
    if options.video:
        write_film(options.video, model, [pose[0] for pose in loop.recording.poses], RATE)
        print(f"film: {options.video}")


def write_recording(path: Path, recording: Recording) -> None:
    """What the first robot did as arrays, a row a control step; the last poses follow the last step."""
    arrays: dict[str, Any] = {name: rows[:, 0].numpy() for name, rows in recording.stacked().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(file, rate=RATE, joints=np.array(G1_JOINTS), **arrays)


def _orders(
    options: PlayOptions, text: torch.Tensor, points: list[tuple[float, float]]
) -> Callable[[float, State], Orders]:
    """What a single robot is told at a moment; points that it has reached are taken off the list."""

    def orders(seconds: float, state: State) -> Orders:
        if not options.waypoint:
            return Orders(text, (Command(*options.velocity),) if options.velocity else None)
        pose = state.pose[0]
        while points and float((pose[:2] - pose.new_tensor(points[0])).norm()) < 0.3:
            points.pop(0)
        return Orders(text, (towards(pose, points[0], options.pace) if points else Command(0.0),))

    return orders


def report(recording: Recording, since: float = 0.0) -> list[list[str]]:
    """What a robot did: a table of two columns; velocities and power from a time on, in seconds."""
    upright = recording.upright()[:, 0]
    standing = int(upright.sum())
    first = round(since * RATE) if standing > round(since * RATE) else 0
    made = recording.stacked()
    poses, velocity, power = (
        part[first:standing, 0] for part in (made["poses"][1:], made["com_velocity"], made["power"])
    )
    forward, left = heading_velocity(poses, velocity).mean(0).tolist() if standing else (float("nan"),) * 2
    begun = f" from {first / RATE:g} s on" if first else ""
    plans = sorted(recording.plan_seconds)
    return [
        ["figure", "value"],
        ["seconds on its feet", f"{standing / RATE:.1f} of {len(upright) / RATE:.1f}"],
        [f"mean velocity, forward and left{begun}", f"{forward:.2f}, {left:.2f} m/s"],
        ["power of the motors", f"{power.mean():.0f} W"],
        ["a plan", f"{1e3 * plans[len(plans) // 2]:.0f} ms (median of {len(plans)})"],
    ]


def run_trial(arguments: Sequence[str]) -> None:
    """daps robot trial RUN CLIPS."""
    options = parse(TrialOptions, arguments, "daps robot trial")
    tracker, settings = load_tracker(options.run)
    if options.only:
        sets: dict[str, Clips] = {
            "chosen clips": read_clips(options.clips, training_clips(options.clips, options.only))
        }
    else:
        sets = clip_sets(options.clips, settings["clips"], "; or choose some of it by --only")
    model, kinematics = build(options.model, light=options.light), Kinematics.from_mjcf(find_mjcf(options.model))
    outcomes: list[tuple[str, Outcome]] = []
    for name, chosen in sets.items():
        motions: dict[str, Clips] = {name: chosen}
        if options.tokenizer:
            motions[f"{name}, decoded"] = decoded(chosen, load_tokenizer(options.tokenizer))
        for title, clips in alike(motions).items():
            references = References.of(clips)
            starts = spread_starts(references, options.trials, options.seconds, options.seed)
            blows = Blows(options.push) if options.push else None
            trial = (model, kinematics, tracker, references, starts, options.seconds, blows, options.threads)
            outcomes.append((title, try_out(*trial, seed=options.seed).outcome()))
    protocol = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in ("run", "clips")}
    protocol |= {"model": str(options.model or "mjlab"), "tokenizer": str(options.tokenizer or "")}
    rows = [{"clips": name, **outcome.rows()} for name, outcome in outcomes]
    print_lines(summary(outcomes))
    write_json(options.run / "trial.json", {"protocol": protocol, "outcomes": rows})


def clip_sets(folder: Path, trained: Sequence[str], otherwise: str = "") -> dict[str, Clips]:
    """Training clips and held-out ones of the same kinds, which names tell: others a robot cannot know.

    Args:
        folder: of clips.
        trained: names of the training clips.
        otherwise: what else may be done, for the complaint.

    Raises:
        ValueError: the folder has not the clips of the training.
    """
    there = set(find_clips(folder))
    if missing := sorted(set(trained) - there):
        raise ValueError(
            f"clips: {folder} lacks {len(missing)} of {len(trained)} clips that the tracker was trained on, such as "
            f"{missing[0]}; pass the folder that it was trained on{otherwise}"
        )
    others = there - set(training_clips(folder)) - set(trained)
    kinds = {_kind(name) for name in trained}
    unseen = tuple(sorted(name for name in others if _kind(name) in kinds))
    names = {"training clips": tuple(trained), "held-out clips": unseen}
    return {title: read_clips(folder, chosen) for title, chosen in names.items() if chosen}


def _kind(clip: str) -> str:
    """What is done in a clip, or nothing where its name does not say."""
    try:
        return kind_of(clip)
    except ValueError:
        return ""
