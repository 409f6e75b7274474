"""`daps robot eval`: the tables of a kit, and the rows that they are made of."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import Positional

from daps.data.clips import find_clips
from daps.kinematics import Kinematics
from daps.options import parse
from daps.progress import ProgressLine
from daps.robot.assessment import (
    Clips,
    Row,
    alike,
    command_rows,
    dance_rows,
    latency_rows,
    outcome_rows,
    plan_outcomes,
    recogniser_rows,
    tokenizer_rows,
    tracker_outcomes,
)
from daps.robot.code_tracker import CodeTracker
from daps.robot.following import Recogniser
from daps.robot.kit import CODES, SHIPPED, TOKENIZER, TRACKER, Kit, load_code_tracker, load_kit, load_tokenizer
from daps.robot.labels import kind_of
from daps.robot.material import decoded, read_clips, training_clips
from daps.robot.model import build, find_mjcf
from daps.robot.pilot import Pilot
from daps.robot.play import LoopConfig
from daps.robot.stage import read_settings
from daps.robot.training_commands import CLIPS, MODEL, SENTENCES, THREADS
from daps.robot.trial import Outcome, summary
from daps.robot.using_commands import KIT, clip_sets
from daps.run import Run, environment, write_json
from daps.tables import print_lines, print_rows

PARTS = ("tokenizer", "tracker", "commands", "dance", "latency")
TRIALS = ("set of trials", "sets of trials")


@dataclass(frozen=True)
class EvalOptions:
    """How well a kit does all that it is for; prints tables and keeps rows."""

    clips: Annotated[Positional[Path], CLIPS]
    kit: Annotated[Path | None, KIT] = None
    sentences: Annotated[Path | None, SENTENCES] = None
    model: Annotated[Path | None, MODEL] = None
    parts: tuple[str, ...] = PARTS
    """What to measure."""
    name: str | None = None
    """What the kit is called in rows and tables; the method of its tokenizer if left out."""
    tokenizers: tuple[Path, ...] = ()
    """Runs of daps train lafan1 whose errors to measure beside those of the kit's tokenizer; by their methods, with the
    folder's name where another is called so."""
    trials: int = 256
    """Places to start from, of each set of clips."""
    seconds: float = 8.0
    """Length of a trial; orders are given for half as long again."""
    pushes: tuple[float, ...] = (0.3, 0.6)
    """m/s of pushes every two seconds, on the training clips."""
    repeats: int = 12
    """Robots for each velocity and each prompt."""
    guidance: float | None = None
    """As for daps robot play."""
    temperature: float = Pilot.temperature
    """As for daps robot play."""
    loop: LoopConfig = LoopConfig()
    seed: int = 0
    out: Path | None = None
    """JSON file of rows, which keeps those of kits with other names; robot.json in the kit's folder if left out, here
    for the kit that comes with the package."""
    threads: Annotated[int, THREADS] = 1


def run_eval(arguments: Sequence[str]) -> None:
    """daps robot eval CLIPS [--kit FOLDER]."""
    options = parse(EvalOptions, arguments, "daps robot eval")
    for part in options.parts:
        if part not in PARTS:
            raise ValueError(f"parts: choose from {', '.join(PARTS)}, got {part!r}")
    for name, least in (("trials", 1), ("repeats", 1), ("seconds", 2.0)):
        if not least <= getattr(options, name) < math.inf:
            raise ValueError(f"{name}: must be >= {least:g} and finite, got {getattr(options, name):g}")
    folder = options.kit or SHIPPED
    kit, model = load_kit(options.kit, options.sentences), build(options.model)
    out = options.out or (options.kit or Path()) / "robot.json"
    needed = set(options.parts) & {"tracker", "commands", "dance"}
    sets = clip_sets(options.clips, read_settings(folder / TRACKER)["clips"]) if needed else {}
    every: list[tuple[str, Row]] = []
    for name, rows in _measured(options, kit, model, sets):
        keep_rows(out, name, rows)
        every += [(name, row) for row in rows]
    print_rows(table(every))


def _measured(options: EvalOptions, kit: Kit, model: Any, sets: dict[str, Clips]) -> Iterator[tuple[str, list[Row]]]:
    """Part after part, the name of the kit or tokenizer and rows."""
    kinematics, folder = Kinematics.from_mjcf(find_mjcf(options.model)), options.kit or SHIPPED
    name = options.name or _method(folder / TOKENIZER)
    if "tokenizer" in options.parts:
        held_out = tuple(sorted(set(find_clips(options.clips)) - set(training_clips(options.clips))))
        clips = read_clips(options.clips, held_out) if held_out else {}
        for called, run in _named(name, folder / TOKENIZER, options.tokenizers).items() if clips else ():
            yield called, tokenizer_rows(load_tokenizer(run), clips, "all held-out clips", kinematics)
    codes = load_code_tracker(folder / CODES) if (folder / CODES).is_dir() else None
    if "tracker" in options.parts:
        pieces, outcomes = _trials(options, kit, codes, model, kinematics, sets), []
        with ProgressLine(0, len(pieces), units=TRIALS) as line:
            for done, piece in enumerate(pieces, 1):
                outcomes += list(piece)
                line.update(done, {})
        print_lines(summary(outcomes))
        yield name, outcome_rows(outcomes, options.seed)
    for rows in _closed_loop(options, kit, codes, model, sets):
        yield name, rows


def _named(name: str, own: Path, others: Sequence[Path]) -> dict[str, Path]:
    """Tokenizers by what they are called in rows, each otherwise.

    Raises:
        ValueError: two could only be called alike.
    """
    named = {name: own}
    for run in others:
        method = _method(run)
        called = f"{method} ({run.resolve().name})" if method in named else method
        if called in named:
            raise ValueError(f"tokenizers: {run} would be called {called!r}, as another is; rename its folder")
        named[called] = run
    return named


def _method(run: Path) -> str:
    return Run.open(run).config().method_name


def _closed_loop(
    options: EvalOptions, kit: Kit, codes: CodeTracker | None, model: Any, sets: dict[str, Clips]
) -> Iterator[list[Row]]:
    """Rows of orders: how either policy follows them, whether dances are dances, and how fast plans come."""
    pilot = Pilot(kit.planner, kit.tokenizer, options.guidance, options.temperature)
    length, orders = 1.5 * options.seconds, (pilot, options.loop, options.seed)
    kinds = {kind_of(name) for name in sets.get("training clips", ())}
    dancing = "dance" in options.parts and "dance" in kinds and len(kinds) > 1
    recogniser = Recogniser(sets["training clips"]) if dancing else None
    for mark, policy in (("", kit.tracker), (", from codes", codes)):
        if policy is None:
            continue
        if "commands" in options.parts:
            yield _marked(command_rows(kit, model, kinds, options.repeats, length, *orders, policy), mark)
        if recogniser:
            yield _marked(dance_rows(kit, model, recogniser, options.repeats, length, *orders, policy), mark)
    if recogniser and "held-out clips" in sets:
        yield recogniser_rows(recogniser, sets["held-out clips"], options.seed)
    if "latency" in options.parts:
        yield latency_rows(kit, pilot)


def _marked(rows: Sequence[Row], mark: str) -> list[Row]:
    return [replace(row, clips=row.clips + mark) for row in rows]


def _trials(
    options: EvalOptions,
    kit: Kit,
    codes: CodeTracker | None,
    model: Any,
    kinematics: Kinematics,
    sets: dict[str, Clips],
) -> list[Iterator[tuple[str, Outcome]]]:
    """Sets of trials, run as they are asked for: on clips, on clips as the codes retell them, pushed, plan by plan."""
    motions: dict[str, Clips] = {}
    for title, clips in sets.items():
        motions |= alike({title: clips, f"{title}, decoded": decoded(clips, kit.tokenizer)})
    bodies, trial, ends = (model, kinematics), (options.trials, options.seconds), (options.seed, options.threads)
    pushed = {"training clips": motions["training clips"]}
    return [
        *(tracker_outcomes(kit, *bodies, {name: clips}, *trial, (0.0,), *ends) for name, clips in motions.items()),
        *(tracker_outcomes(kit, *bodies, pushed, *trial, (speed,), *ends) for speed in options.pushes),
        *(plan_outcomes(kit, codes, *bodies, {n: c}, *trial, options.loop, *ends) for n, c in sets.items()),
    ]


def keep_rows(path: Path, name: str, rows: Sequence[Row], program: str = "daps") -> None:
    """Puts rows into a file, in place of those of the same figures.

    Args:
        path: JSON file, which need not be there.
        name: of the kit, or of the tokenizer.
        rows: figures just measured by this command.
        program: how the command begins.
    """
    about = environment(torch.device("cpu"))
    command = " ".join([program, *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])])
    record = {"tokenizer": name, "device": about["processor"], "commit": about["commit"], "command": command}
    old = json.loads(path.read_text()) if path.is_file() else []
    new = [{**asdict(row), **record} for row in rows]
    keys = {_figure(row) for row in new}
    kept = [row for row in old if _figure(row) not in keys]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, kept + new)


def _figure(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("stage", "tokenizer", "clips", "metric", "seed"))


def table(rows: Sequence[tuple[str, Row]]) -> list[list[str]]:
    """A line per figure but those of trackers; of which kit or tokenizer where there are several."""
    several = len({name for name, _ in rows}) > 1
    lines = [
        [*[name] * several, row.stage, row.clips, row.metric, f"{row.value:.3g}", str(row.n)]
        for name, row in rows
        if row.stage != "tracker"
    ]
    return [[*["codes"] * several, "stage", "of", "figure", "value", "n"], *lines]
