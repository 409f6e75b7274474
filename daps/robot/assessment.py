"""What a kit can do, in figures: how motion survives its codes, how it is followed, how orders are, and how fast."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import mujoco
import torch
from jaxtyping import Float
from torch import Tensor

from daps.data.clips import WINDOW
from daps.kinematics import Kinematics
from daps.methods.base import Autoencoder
from daps.metrics import psnr
from daps.motion import pose_features
from daps.motion_metrics import feature_errors
from daps.progress import ProgressLine
from daps.robot.code_tracker import CodeTracker
from daps.robot.following import Recogniser, at_30_hz, falls_per_minute, turn_errors, velocity_errors
from daps.robot.kit import Kit
from daps.robot.labels import Command, kind_of
from daps.robot.pilot import Orders, Pilot
from daps.robot.play import Loop, LoopConfig, Recording
from daps.robot.reference import References
from daps.robot.retelling import Retelling
from daps.robot.simulation import RATE
from daps.robot.tracker import Tracker
from daps.robot.trial import Blows, Outcome, spread_starts, try_out, try_plans

Clips = Mapping[str, Float[Tensor, "_ P"]]
GRID = {  # prompt -> forward speeds m/s and turns rad/s to follow
    "walk": ((0.3, 0.6, 0.9), (-0.5, 0.0, 0.5)),
    "run": ((1.2, 1.8, 2.4), (-0.5, 0.0, 0.5)),
}
DANCES = ("dance", "perform a dance", "move to the music", "groove")
SETTLING = 2.0  # s until a dance counts
STEPS = ("control step", "control steps")


@dataclass(frozen=True)
class Row:
    """A figure, and what it is of."""

    stage: str
    clips: str
    metric: str
    value: float
    n: int
    seed: int


def tokenizer_rows(
    tokenizer: Autoencoder, clips: Clips, name: str, kinematics: Kinematics, batch: int = 128
) -> list[Row]:
    """Errors of decoded motion, greedily encoded, and PSNR of its features, dB: means over windows side by side."""
    windows = torch.cat([pose_features(poses).unfold(0, WINDOW, WINDOW).transpose(1, 2) for poses in clips.values()])
    windows, errors = windows.float(), []
    for part in windows.split(batch):
        again = tokenizer.decode(tokenizer.encode(part)).mean
        ratio = {"psnr": psnr(part.double(), again.double(), tokenizer.scaling.peak.double())}
        errors.append(feature_errors(part, again, kinematics) | ratio)
    return [
        Row("tokenizer", name, metric, float(torch.cat([e[metric] for e in errors]).mean()), len(windows), 0)
        for metric in errors[0]
    ]


def alike(sets: Mapping[str, Clips]) -> dict[str, Clips]:
    """The clips that all sets have, each as long as the shortest of that name, so that trials begin at like places."""
    names = [name for name in next(iter(sets.values())) if all(name in clips for clips in sets.values())]
    lengths = {name: min(len(clips[name]) for clips in sets.values()) for name in names}
    return {title: {name: clips[name][: lengths[name]] for name in names} for title, clips in sets.items()}


def tracker_outcomes(
    kit: Kit,
    model: mujoco.MjModel,
    kinematics: Kinematics,
    motions: Mapping[str, Clips],
    trials: int,
    seconds: float,
    pushes: Sequence[float],
    seed: int,
    threads: int = 1,
) -> Iterator[tuple[str, Outcome]]:
    """Outcomes of trials on sets of clips for each speed of pushes, m/s; without any (0) also kind by kind."""
    for name, clips in motions.items():
        references = References.of(clips)
        starts = spread_starts(references, trials, seconds, seed)
        for push in pushes:
            title = f"{name}, pushes of {push:g} m/s" if push else name
            blows = Blows(push) if push else None
            tally = try_out(model, kinematics, kit.tracker, references, starts, seconds, blows, threads, seed)
            yield title, tally.outcome()
            if not push and len({kind_of(clip) for clip in clips}) > 1:
                kinds = [kind_of(references.names[clip]) for clip in starts[:, 0].tolist()]
                groups = {kind: torch.tensor([each == kind for each in kinds]) for kind in sorted(set(kinds))}
                yield from ((f"{title}: {kind}", tally.outcome(mine)) for kind, mine in groups.items())


def plan_outcomes(
    kit: Kit,
    codes: CodeTracker | None,
    model: mujoco.MjModel,
    kinematics: Kinematics,
    motions: Mapping[str, Clips],
    trials: int,
    seconds: float,
    loop: LoopConfig,
    seed: int,
    threads: int = 1,
) -> Iterator[tuple[str, Outcome]]:
    """Outcomes of trials on clips as plans: by the tracker of frames, and by that of codes where there is one."""
    for name, clips in motions.items():
        retelling = Retelling(kit.tokenizer, clips)
        for face, policy in (("frames", kit.tracker), ("codes", codes)):
            if policy is not None:
                given = (model, kinematics, policy, retelling, trials, seconds, loop, threads, seed)
                yield f"{name}, plan by plan, from {face}", try_plans(*given).outcome()


def outcome_rows(outcomes: Iterable[tuple[str, Outcome]], seed: int) -> list[Row]:
    """A row per figure of an outcome."""
    rows = []
    for name, outcome in outcomes:
        figures = asdict(outcome)
        count = figures.pop("trials")
        rows += [Row("tracker", name, metric, value, count, seed) for metric, value in figures.items()]
    return rows


def act(
    kit: Kit,
    model: mujoco.MjModel,
    texts: Sequence[str],
    commands: Sequence[Command] | None,
    seconds: float,
    pilot: Pilot,
    loop: LoopConfig,
    seed: int,
    policy: Tracker | CodeTracker | None = None,
) -> Recording:
    """Robots under the same orders all the time, one for each sentence; by the kit's tracker unless by a policy."""
    orders = Orders(kit.reader.encode(texts), tuple(commands) if commands is not None else None)
    robots = Loop(model, pilot, policy or kit.tracker, len(texts), loop, seed=seed)
    with ProgressLine(0, round(seconds * RATE), units=STEPS) as line:
        for done, _ in enumerate(robots.run(lambda moment, state: orders, seconds), 1):
            line.update(done, {})
    robots.close()
    return robots.recording


def command_rows(
    kit: Kit,
    model: mujoco.MjModel,
    kinds: set[str],
    repeats: int,
    seconds: float,
    pilot: Pilot,
    loop: LoopConfig,
    seed: int,
    policy: Tracker | CodeTracker | None = None,
) -> list[Row]:
    """Velocity errors and falls over the grid of commands, per prompt of these kinds."""
    rows = []
    for prompt, (speeds, turns) in GRID.items():
        if prompt not in kinds:
            continue
        commands = [Command(speed, 0.0, turn) for speed, turn in product(speeds, turns)] * repeats
        recording = act(kit, model, [prompt] * len(commands), commands, seconds, pilot, loop, seed, policy)
        errors, turns_off = velocity_errors(recording, commands), turn_errors(recording, commands)
        known = errors[~errors.isnan()]
        at = f"{prompt}, grid of {len(speeds)} x {len(turns)}"
        rows += [
            Row("closed loop", at, "velocity_error", float(known.mean()), len(known), seed),
            Row("closed loop", at, "turn_error", float(turns_off.nanmean()), len(known), seed),
            Row("closed loop", at, "falls_per_minute", falls_per_minute(recording), len(commands), seed),
        ]
        for speed in speeds:
            mine = [float(e) for e, c in zip(errors, commands, strict=True) if c.forward == speed and not e.isnan()]
            value = sum(mine) / len(mine) if mine else float("nan")
            rows.append(Row("closed loop", f"{prompt} at {speed:g} m/s", "velocity_error", value, len(mine), seed))
    return rows


def dance_rows(
    kit: Kit,
    model: mujoco.MjModel,
    recogniser: Recogniser,
    repeats: int,
    seconds: float,
    pilot: Pilot,
    loop: LoopConfig,
    seed: int,
    policy: Tracker | CodeTracker | None = None,
) -> list[Row]:
    """Share of windows of robots told to dance that are recognised as dance; falls."""
    texts = list(DANCES) * repeats
    recording = act(kit, model, texts, None, seconds, pilot, loop, seed, policy)
    poses = at_30_hz(recording)
    windows = poses.unfold(1, WINDOW, WINDOW).transpose(2, 3)
    upright = recording.upright()
    kinds = []
    for number in range(windows.shape[1]):
        first, last = number * WINDOW / 30, (number + 1) * WINDOW / 30
        standing = upright[min(round(last * 50), len(upright)) - 1]
        if first >= SETTLING and bool(standing.any()):
            kinds += recogniser.kinds(windows[standing, number])
    share = sum(kind == "dance" for kind in kinds) / len(kinds) if kinds else float("nan")
    return [
        Row("closed loop", "dance", "recognised_as_dance", share, len(kinds), seed),
        Row("closed loop", "dance", "falls_per_minute", falls_per_minute(recording), len(texts), seed),
    ]


def recogniser_rows(recogniser: Recogniser, clips: Clips, seed: int) -> list[Row]:
    """How often a recogniser is right about real windows, and about those of dances."""

    def row(name: str, metric: str, some: Clips) -> Row:
        count = sum(len(poses) // WINDOW for poses in some.values())
        return Row("recogniser", name, metric, recogniser.accuracy(some), count, seed)

    dances = {name: poses for name, poses in clips.items() if kind_of(name) == "dance"}
    rows = [row("held-out clips", "accuracy", clips)]
    return [*rows, row("held-out dances", "recognised_as_dance", dances)] if dances else rows


def latency_rows(kit: Kit, pilot: Pilot, repeats: int = 20) -> list[Row]:
    """Milliseconds of one plan and its decoding for one robot, on one CPU core: the median."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        orders, past = Orders(kit.reader.encode(["walk"]), (Command(0.6),)), pilot.rest(1)
        times = []
        for number in range(repeats + 3):
            begun = time.perf_counter()
            pilot.plan(past, orders, torch.Generator().manual_seed(number))
            times.append(1e3 * (time.perf_counter() - begun))
    finally:
        torch.set_num_threads(threads)
    return [
        Row(
            "planner",
            f"{pilot.tokenizer.num_tokens} tokens",
            "milliseconds",
            sorted(times[3:])[repeats // 2],
            repeats,
            0,
        )
    ]
