"""`daps compare`: several methods and seeds on one preset, trained alike, in one table and on one page."""

import dataclasses
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from threading import current_thread, main_thread
from typing import Any

import numpy as np

from daps import plots, report
from daps.atomic import replacing
from daps.config import Config, DataConfig
from daps.data import load
from daps.entries import Entry, parameters, read_entries
from daps.evaluate import Protocol, check_robot, evaluate_run
from daps.features import FIGURES, FeatureConfig, measures
from daps.motion_metrics import UNITS
from daps.presets import preset
from daps.run import Run, pick_device, portable_command, write_json
from daps.train_options import resolve

CALIBRATION = 60  # steps that a method's pace is measured on
BETA = 0.01  # of the beta-ELBO, for every method alike
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

    def __init__(self, code: int) -> None:
        super().__init__(f"the short training ended with exit code {code}")
        self.code = code


class Failed(Exception):
    """Some trainings failed; `rows` are of the others, as of compare()."""

    def __init__(self, labels: Sequence[str], rows: list[dict[str, Any]]) -> None:
        super().__init__(
            f"compare: {len(labels)} trainings failed: {', '.join(labels)}; each said why above; the others are done"
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
    failed = []
    for number, (contestant, seed) in enumerate(jobs if train else (), 1):
        print(f"[{number}/{len(jobs)}] {contestant.label}, seed {seed}", flush=True)
        try:
            code = _run_daps(_training(plan, contestant, seed))
        except _Unpaced as failure:
            code = failure.code
        if code:
            failed.append(f"{contestant.label}, seed {seed} (exit code {code})")
        else:
            _evaluate(plan, plan.run_of(contestant, seed))
    done = [job for job in jobs if (plan.run_of(*job) / "evaluation.json").is_file()]
    if not done:
        remedy = "; each training said why above" if failed else "; leave out --collect to train them"
        raise ValueError(f"compare: no evaluated run in {plan.folder}{remedy}")
    rows = [row_of(contestant.label, Run.open(plan.run_of(contestant, seed))) for contestant, seed in done]
    write_json(plan.folder / "compare.json", rows)
    with replacing(plan.folder / "compare.html") as file:
        file.write(page(plan, rows).encode())
    if failed:
        raise Failed(failed, rows)
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
    kinds = {(config.data.name, config.data.size) for config in configs}
    if len(kinds) > 1:
        raise ValueError(
            f"compare: all must learn the same data, got {', '.join(sorted(config.data.name for config in configs))}"
            "; compare those of one data set at a time"
        )
    return configs[0]


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
            raise _Unpaced(code)
    rows = [row for row in Run(folder).metrics() if "loss" in row]
    clock = "cpu_seconds" if Run(folder).read_json("environment.json")["device"] == "cpu" else "seconds"
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
    run = Run.open(folder)
    if (folder / "evaluation.json").is_file():
        old = run.read_json("evaluation.json")
        known = (
            old.get("features", {}).get("stochastic", {}).keys() | old.get("motion", {}).get("stochastic", {}).keys()
        )
        wanted = {*plan.features.figures, *(["mpjpe"] if plan.protocol.robot else [])}
        same = (old["step"], old["importance_samples"]) == (run.trained_steps(), plan.protocol.samples)
        if same and wanted <= known:
            return
    evaluate_run(folder, plan.protocol, device=plan.device, features=plan.features)


def row_of(label: str, run: Run) -> dict[str, Any]:
    """The figures of one run: cost, then quality on the whole validation split; None where it does not apply.

    `psnr`, `ssim`, `usage` and `perplexity` are of one stochastic code per datum, those with `_greedy` of the mode.
    """
    config, figures, environment = run.config(), run.read_json("evaluation.json"), run.read_json("environment.json")
    last: dict[str, Any] = next((row for row in reversed(run.metrics()) if "loss" in row), {})
    train, stochastic, greedy = config.train, figures["stochastic"], figures["greedy"]
    distances = figures.get("features") or {"stochastic": {}, "greedy": {}}
    motion = figures.get("motion") or {"stochastic": {}, "greedy": {}}
    on_cpu = environment["device"] == "cpu"
    sequences = train.batch_size * config.method.sequences * config.nets.num_tokens
    return {
        "method": label,
        "preset": config.preset,
        "seed": train.seed,
        "steps": figures["step"],
        "batch_size": train.batch_size,
        "tokens_sampled": figures["step"] * sequences,
        "cpu_s": last.get("cpu_seconds") if on_cpu else None,
        "gpu_s": None if on_cpu else last.get("seconds"),
        "wall_s": last.get("seconds"),
        "peak_mb": last.get("peak_mb"),
        "params": parameters(config),
        "log_p": figures["log_p"],
        "elbo": figures["elbo"],
        "kl": figures["kl"],
        "beta_elbo": figures["log_p"] - BETA * figures["kl"],
        "iw_log_likelihood": figures["iw_log_likelihood"],
        "psnr": stochastic["psnr"],
        "psnr_greedy": greedy["psnr"],
        "ssim": stochastic["ssim"],
        "ssim_greedy": greedy["ssim"],
        "bits_per_dim": figures["bits_per_dim"],
        **{name: distances["stochastic"].get(name) for name in FIGURES},
        **{f"{name}_greedy": distances["greedy"].get(name) for name in FIGURES},
        **{name: motion["stochastic"].get(name) for name in UNITS},
        **{f"{name}_greedy": motion["greedy"].get(name) for name in UNITS},
        "nominal_bits": figures["nominal_bits"],
        "information_bits": figures["information_bits"],
        "usage": stochastic["usage_pooled"],
        "usage_per_position": fmean(stochastic["usage_per_position"]),
        "usage_per_position_greedy": fmean(greedy["usage_per_position"]),
        "perplexity": stochastic["perplexity_pooled"],
        "perplexity_per_position": fmean(stochastic["perplexity_per_position"]),
        "perplexity_per_position_greedy": fmean(greedy["perplexity_per_position"]),
        "split": figures["split"],
        "n": figures["n"],
        "protocol": figures.get("protocol"),
        "device": environment["processor"] if on_cpu else environment["device"],
        "command": portable_command(environment["command"]),
        "commit": environment["commit"],
    }


def per_step(row: dict[str, Any]) -> float | None:
    """Milliseconds of a training step."""
    seconds = row["gpu_s"] if row["cpu_s"] is None else row["cpu_s"]
    return None if seconds is None else 1000 * seconds / max(row["steps"], 1)


Column = tuple[str, Callable[[dict[str, Any]], Any], str]
COLUMNS: tuple[Column, ...] = (
    ("steps", lambda r: r["steps"], ",.0f"),
    ("CPU-s", lambda r: r["cpu_s"], ",.0f"),
    ("GPU-s", lambda r: r["gpu_s"], ",.0f"),
    ("ms a step", per_step, ",.1f"),
    ("peak MB", lambda r: r["peak_mb"], ",.0f"),
    ("parameters", lambda r: r["params"], ",.0f"),
    ("tokens sampled, M", lambda r: r["tokens_sampled"] / 1e6, ",.1f"),
    ("log p, nats", lambda r: r["log_p"], ",.1f"),
    (f"beta-ELBO ({BETA:g})", lambda r: r["beta_elbo"], ",.1f"),
    ("PSNR, dB", lambda r: r["psnr"], ".2f"),
    ("PSNR greedy", lambda r: r["psnr_greedy"], ".2f"),
    ("SSIM", lambda r: r["ssim"], ".4f"),
    ("rFID", lambda r: r["rfid"], ".1f"),
    ("Frechet, EfficientNet-Lite0", lambda r: r["frechet_efficientnet_lite0"], ".2f"),
    ("top-1 agreement", lambda r: r["top1_agreement_efficientnet_lite0"], ".0%"),
    ("FID to statistics", lambda r: r.get("fid_to_statistics"), ".1f"),
    ("LPIPS", lambda r: r.get("lpips"), ".3f"),
    ("joint RMS, rad", lambda r: r["joint_rms"], ".3f"),
    ("joint RMS greedy", lambda r: r["joint_rms_greedy"], ".3f"),
    ("MPJPE, mm", lambda r: r["mpjpe"], ".1f"),
    ("MPJPE greedy", lambda r: r["mpjpe_greedy"], ".1f"),
    ("nominal bits", lambda r: r["nominal_bits"], ",.0f"),
    ("I(x; z), bits", lambda r: r["information_bits"], ",.1f"),
    ("symbols used", lambda r: r["usage_per_position"], ".0%"),
    ("perplexity", lambda r: r["perplexity_per_position"], ",.1f"),
    ("symbols used, greedy", lambda r: r.get("usage_per_position_greedy"), ".0%"),
    ("perplexity, greedy", lambda r: r.get("perplexity_per_position_greedy"), ",.1f"),
)


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A header and a line per method: means over seeds, ± half their range. Columns without any figure are left out."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    shown = [column for column in COLUMNS if any(column[1](row) is not None for row in rows)]
    lines = [["method", "seeds", *(name for name, _, _ in shown)]]
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        cells = [_mean([value(row) for row in mine], form) for _, value, form in shown]
        lines.append([method, str(len(mine)), *cells])
    return lines


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for a README."""
    header, *lines = table(rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def _mean(values: list[Any], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return report.DASH
    spread = (max(known) - min(known)) / 2
    return f"{fmean(known):{form}}" + (f" ± {spread:{form}}" if len(known) > 1 and spread else "")


def page(plan: Plan, rows: Sequence[dict[str, Any]]) -> str:
    """The report of each method's first run, under the table, with curves of all seeds."""
    firsts: list[Entry] = []
    lines: dict[str, list[plots.Curve]] = {"step": [], "seconds": []}
    for contestant in plan.contestants:
        runs = [plan.run_of(contestant, seed) for seed in plan.seeds]
        entries = read_entries([run for run in runs if (run / "evaluation.json").is_file()])
        if not entries:
            continue
        style = len(firsts)
        firsts.append(dataclasses.replace(entries[0], label=contestant.label, style=style))
        for x, curves in lines.items():
            curves += [curve for entry in entries if (curve := _curve(entry, style, x))]
    titles = {"step": "Validation PSNR against steps", "seconds": "Validation PSNR against seconds of training"}
    panels = [
        plots.Panel(titles[x], "dB, a line per seed.", plots.curves(titles[x], curves, x))
        for x, curves in lines.items()
        if curves
    ]
    return report.render(firsts, report.Summary(table(rows), panels))


def _curve(entry: Entry, style: int, x: str) -> plots.Curve | None:
    points = [(row[x], row["val_psnr"]) for row in entry.rows if row.get("val_psnr") is not None]
    return plots.Curve(style, *np.array(points, dtype=np.float64).T) if points else None
