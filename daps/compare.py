"""`daps compare`: several methods and seeds on one preset, trained alike, in one table and on one page."""

import dataclasses
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import numpy as np

from daps import plots, report
from daps.atomic import replacing
from daps.compare_table import row_of, table
from daps.config import Config, DataConfig
from daps.data import load
from daps.entries import Entry, read_entries
from daps.evaluate import Protocol, check_robot, evaluate_run, is_evaluated
from daps.features import FeatureConfig, measures
from daps.presets import preset
from daps.run import Run, pick_device, write_json
from daps.train_options import resolve

CALIBRATION = 60  # steps that a method's pace is measured on
INTERRUPTED = 130  # exit code of a training that was stopped and saved
OWN = {"--run": "--run before --", "--device": "--device before --", "--train.seed": "--seeds"}


@dataclass(frozen=True)
class Contestant:
    """A method on a preset, with options of `daps train` or none: "fsq", "mnist-paper:daps", "daps --train.ema 0.9"."""

    label: str
    preset: str
    method: str
    options: tuple[str, ...]

    @staticmethod
    def parse(text: str, default_preset: str) -> "Contestant":
        """From the text of an argument.

        Raises:
            ValueError: no such preset or method.
        """
        first, *options = shlex.split(text) or [""]
        name, _, method = first.rpartition(":")
        preset(name or default_preset, method)  # both exist
        return Contestant(text, name or default_preset, method, tuple(options))

    @property
    def slug(self) -> str:
        """For names of folders."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.label).strip("-")


@dataclass(frozen=True)
class Plan:
    """What to compare and how. Of `steps` and `seconds` at most one is given; without, the presets' own steps.

    Seconds are of processor time on a CPU, so that what else the machine does costs no method steps.
    """

    contestants: tuple[Contestant, ...]
    seeds: tuple[int, ...]
    folder: Path
    steps: int | None = None
    seconds: float | None = None
    options: tuple[str, ...] = ()
    """Of `daps train`, for all."""
    protocol: Protocol = Protocol()
    """Of the evaluation, of the whole validation split."""
    features: FeatureConfig = FeatureConfig()
    """Networks that compare pictures."""
    device: str = "auto"

    def __post_init__(self) -> None:
        slugs = [one.slug for one in self.contestants]
        twice = next((slug for slug in slugs if slugs.count(slug) > 1), None)
        if not slugs or not self.seeds:
            raise ValueError(
                "compare: needs a method and a seed at least; for example --methods daps fsq --seeds 0 1 2"
            )
        if twice or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"compare: each method and each seed once, got {twice or self.seeds} twice")
        if self.steps is not None and self.seconds is not None:
            raise ValueError("compare: --steps and --seconds exclude each other; give one")
        asked = self.seconds if self.steps is None else self.steps
        if asked is not None and not 0 < asked < math.inf:
            raise ValueError(f"compare: --steps and --seconds must be > 0 and finite, got {asked:g}")

    def run_of(self, contestant: Contestant, seed: int) -> Path:
        """The run's folder."""
        return self.folder / f"{contestant.slug}_{seed}"


class Stopped(Exception):
    """The comparison was stopped by the user; `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"training ended with exit code {code}")
        self.code = code


class _Unpaced(Exception):
    """The pace of a method could not be measured."""


class Failed(Exception):
    """Some trainings failed; `rows` are of the others, as of compare()."""

    def __init__(self, labels: Sequence[str], rows: list[dict[str, Any]]) -> None:
        super().__init__(
            f"compare: {len(labels)} of the runs failed: {', '.join(labels)}; each said why above; the others are done"
        )
        self.rows = rows


def compare(plan: Plan, train: bool = True) -> list[dict[str, Any]]:
    """Trains and evaluates what is missing, in processes of their own; writes compare.json and compare.html.

    Returns:
        a row per run, see `row_of`.

    Raises:
        Stopped: by the user; the same call takes it up again.
        Failed: trainings ended with errors; the others were trained, and table and page are of these.
        ValueError: the contestants do not fit together or their settings cannot be, or nothing is evaluated.
    """
    jobs = [(contestant, seed) for seed in plan.seeds for contestant in plan.contestants]
    if train:
        check_measures(plan, check(plan).data)
    failed: dict[tuple[Contestant, int], str] = {}
    for number, (contestant, seed) in enumerate(jobs if train else (), 1):
        print(f"[{number}/{len(jobs)}] {contestant.label}, seed {seed}", flush=True)
        try:
            if code := _run_daps(_training(plan, contestant, seed)):
                failed[contestant, seed] = f"exit code {code}"
            else:
                _evaluate(plan, plan.run_of(contestant, seed))
        except (_Unpaced, ValueError) as failure:  # a training that diverged, say: the others go on
            print(f"{contestant.label}, seed {seed}: {failure}", flush=True)
            failed[contestant, seed] = str(failure)
    done = [job for job in jobs if job not in failed and (plan.run_of(*job) / "evaluation.json").is_file()]
    if not done:
        remedy = "; each training said why above" if failed else "; leave out --collect to train them"
        raise ValueError(f"compare: no evaluated run in {plan.folder}{remedy}")
    rows = [row_of(contestant.label, Run.open(plan.run_of(contestant, seed))) for contestant, seed in done]
    write_json(plan.folder / "compare.json", rows)
    with replacing(plan.folder / "compare.html") as file:
        file.write(page(plan, rows).encode())
    if failed:
        raise Failed([f"{one.label}, seed {seed} ({why})" for (one, seed), why in failed.items()], rows)
    return rows


def check(plan: Plan) -> Config:
    """Whether all contestants can be trained side by side, before any is; the first one's settings.

    Raises:
        ValueError: settings that cannot be, other data, or options that the comparison sets itself.
    """
    unpaced = dataclasses.replace(plan, seconds=None)
    for word in [*plan.options, *(word for one in plan.contestants for word in one.options)]:
        flag = word.split("=")[0].replace("_", "-")
        if flag in OWN or (flag == "--train.steps" and (plan.steps or plan.seconds)):
            raise ValueError(f"compare: {flag} is set by the comparison; give it as {OWN.get(flag, '--steps')}")
    configs = [resolve(_training(unpaced, one, plan.seeds[0])[1:]).config for one in plan.contestants]
    kinds = sorted({_learned(config.data) for config in configs})
    if len(kinds) > 1:
        raise ValueError(
            f"compare: all must learn the same data, got {', '.join(kinds)}; compare those of one data set at a time"
        )
    return configs[0]


def _learned(data: DataConfig) -> str:
    """What figures are of: other files, sizes and binarised images are other data."""
    size = f" at {data.size} pixels" if data.size else ""
    return f"{data.name}{f' in {data.path}' if data.path else ''}{size}{' binarised' * (data.scaling == 'binarise')}"


def check_measures(plan: Plan, data: DataConfig) -> None:
    """Whether the data have what is to be measured.

    Raises:
        ValueError: they do not, or are not there.
    """
    if plan.protocol.robot or plan.features != FeatureConfig():
        dataset = load(data.name, "validation", path=data.path, size=data.size)
        check_robot(dataset, plan.protocol)
        measures(plan.features, dataset.shape)


def commands(plan: Plan) -> list[str]:
    """The trainings of a plan as command lines; where seconds are given, without the steps that will fill them.

    Raises:
        ValueError: as `check`.
    """
    check(plan)
    unpaced = dataclasses.replace(plan, seconds=None)
    jobs = [(contestant, seed) for seed in plan.seeds for contestant in plan.contestants]
    return [shlex.join(["daps", *_training(unpaced, *job)]) for job in jobs]


def _training(plan: Plan, contestant: Contestant, seed: int) -> list[str]:
    """Arguments of `daps train`."""
    steps = plan.steps if plan.seconds is None else _steps_within(plan, contestant, plan.seconds)
    arguments = ["train", contestant.preset, "--method", contestant.method]
    if steps:  # a curve of some twenty points, unless the options say otherwise
        arguments += ["--train.steps", str(steps), "--runtime.eval-every", str(max(steps // 20, 1))]
    arguments += [*plan.options, *contestant.options]
    place = ["--run", str(plan.run_of(contestant, seed)), "--device", plan.device]
    return [*arguments, "--train.seed", str(seed), *place]


def _run_daps(arguments: Sequence[str]) -> int:
    """`daps` in another process, so that each run has its own peak of memory and clean state; its exit code.

    Raises:
        Stopped: it was interrupted, or this process was, which passes that on.
    """
    process = subprocess.Popen([sys.executable, "-m", "daps", *arguments])
    asked = False

    def pass_on(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on) if current_thread() is main_thread() else None
    try:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:  # the terminal tells the child too, which saves and ends
                continue
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    if asked or code == INTERRUPTED:
        raise Stopped(INTERRUPTED)
    return code


def _steps_within(plan: Plan, contestant: Contestant, seconds: float) -> int:
    """Steps that a training of so many seconds has, from the pace of a short one, which is measured once.

    Raises:
        Stopped: by the user.
        _Unpaced: the short training failed.
    """
    folder = plan.folder / "pace" / contestant.slug
    runtime = ["--runtime.log-every", "10", "--runtime.eval-every", "1000", "--runtime.eval-size", "1"]
    trial = dataclasses.replace(plan, steps=CALIBRATION, seconds=None)
    arguments = [*_training(trial, contestant, 0), *runtime, "--train.warmup", "0", "--run", str(folder)]
    if not _measured(folder, arguments, plan.device):
        shutil.rmtree(folder, ignore_errors=True)
        if code := _run_daps(arguments):
            raise _Unpaced(f"exit code {code} of a short training that measures its pace")
    rows = [row for row in Run(folder).metrics() if "loss" in row]
    clock = "cpu_seconds" if Run(folder).read_json("environment.json")["device"] == "cpu" else "seconds"
    if len(rows) < 2:
        raise _Unpaced("no finite step in a short training that measures its pace")
    paces = [(b[clock] - a[clock]) / (b["step"] - a["step"]) for a, b in zip(rows, rows[1:], strict=False)]
    return max(round(seconds / float(np.median(paces))), 1)


def _measured(folder: Path, arguments: Sequence[str], device: str) -> bool:
    """Whether a pace is of these arguments, on this kind of device."""
    run = Run(folder)
    if run.trained_steps() != CALIBRATION:
        return False
    there, asked = run.config(), resolve(arguments[1:]).config
    if there != dataclasses.replace(asked, nets=dataclasses.replace(asked.nets, data_shape=there.nets.data_shape)):
        return False
    on_cpu = run.read_json("environment.json")["device"] == "cpu"
    return on_cpu == (pick_device(device).type == "cpu")


def _evaluate(plan: Plan, folder: Path) -> None:
    """Evaluates the whole validation split, unless all that is asked for is there for these weights."""
    if is_evaluated(Run.open(folder), plan.protocol, plan.features):
        return
    protocol = dataclasses.replace(plan.protocol, progress=True)
    evaluate_run(folder, protocol, device=plan.device, features=plan.features)


def page(plan: Plan, rows: Sequence[dict[str, Any]]) -> str:
    """The report of each method's first run, under the table, with curves of all seeds."""
    firsts: list[Entry] = []
    clock = "seconds" if any(row["cpu_s"] is None for row in rows) else "cpu_seconds"
    lines: dict[str, list[plots.Curve]] = {"step": [], clock: []}
    for contestant in plan.contestants:
        runs = [plan.run_of(contestant, seed) for seed in plan.seeds]
        entries = read_entries([run for run in runs if (run / "evaluation.json").is_file()])
        if not entries:
            continue
        style = len(firsts)
        firsts.append(dataclasses.replace(entries[0], label=contestant.label, style=style))
        for x, curves in lines.items():
            curves += [curve for entry in entries if (curve := _curve(entry, style, x))]
    what = {"step": "steps", "seconds": "seconds of training", "cpu_seconds": "seconds of processor time"}
    titles = {x: f"Validation PSNR against {words}" for x, words in what.items()}
    panels = [
        plots.Panel(titles[x], "dB, a line per seed.", plots.curves(titles[x], curves, what[x]))
        for x, curves in lines.items()
        if curves
    ]
    return report.render(firsts, report.Summary(table(rows), panels))


def _curve(entry: Entry, style: int, x: str) -> plots.Curve | None:
    points = [(row[x], row["val_psnr"]) for row in entry.rows if row.get("val_psnr") is not None]
    return plots.Curve(style, *np.array(points, dtype=np.float64).T) if points else None
