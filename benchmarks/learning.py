"""Variants of DAPS, and FSQ, on one preset at equal CPU time: what each option is worth, as a picture.

    python benchmarks/learning.py mnist FOLDER_OF_PARQUET [--only default fsq] [--seeds 0 1 2] [--jobs 2]
                                  [--runs runs/learning] [--collect]

Every run is one `daps train` in a process of its own with one thread; a variant's steps fill the CPU time asked for
at its own cost per step (measured on one AMD EPYC core), and schedules span these steps. Runs that are finished are
kept, stopped ones continue. Writes docs/results/learning_PRESET.json (a row for every validation) and
docs/pictures/learning_PRESET.png, and learning_PRESET_images.png: originals over the reconstructions of default, fsq
and paper. `--collect` only gathers what is there.
"""

import argparse
import concurrent.futures
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daps.pictures import comparison, to_pixels
from daps.run import Run, portable_command, write_json

DOCS = Path(__file__).parents[1] / "docs"
BETA = 0.01  # of the beta-ELBO, for every variant alike
SHOWN = ("default", "fsq", "paper")  # in the README, and in bold in pictures


@dataclass(frozen=True)
class Variant:
    """One curve: a preset, what is changed of it, and CPU-seconds a step."""

    about: str
    preset: str
    step_cost: float
    options: tuple[str, ...] = ()

    def arguments(self, seed: int, budget: float, data: str, folder: Path) -> list[str]:
        """Of `daps train`."""
        steps = max(round(budget / self.step_cost / 10) * 10, 20)
        runtime = ["--runtime.threads", "1", "--runtime.eval-every", str(max(steps // 25, 1)), "--device", "cpu"]
        train = ["--train.steps", str(steps), "--train.seed", str(seed), "--data.path", data, "--run", str(folder)]
        return ["train", self.preset, *self.options, *train, *runtime]


@dataclass(frozen=True)
class Study:
    """The variants of a preset and the CPU-seconds that each may take."""

    budget: float
    variants: dict[str, Variant]


MNIST, CIFAR = 0.054, 0.180  # CPU-seconds of the default's step
AUTOREGRESSIVE = ("--nets.encoder-kind", "autoregressive", "--nets.trunk-layers", "1", "--nets.mlp-ratio", "4")
RESAMPLED = ("--method.decoder-samples", "resampled", "--method.no-centred")


def earlier(about: str, step_cost: float, *options: str, preset: str = "mnist") -> Variant:
    """A variant of what a preset was before its decoder learned from samples as drawn, with centred weights."""
    if preset == "cifar10":
        fullness = () if "--method.fullness" in options else ("--method.fullness", "1")
        options = ("--method.revival", "0", *fullness, *options)
    return Variant(about, preset, step_cost, (*RESAMPLED, *options))


# fmt: off
STUDIES: dict[str, Study] = {
    # 167 CPU-seconds is what the authors' FSQ took for 5,000 steps and 16.70 dB on this class of machine.
    "mnist": Study(167.0, {
        "default":         Variant("the preset", "mnist", MNIST),
        "fsq":             Variant("FSQ, same preset", "mnist", 0.036, ("--method", "fsq")),
        "fsq-adamw":       Variant("FSQ by AdamW", "mnist", 0.025,
                                   ("--method", "fsq", "--train.optimizer", "adamw", "--train.learning-rate", "2e-3")),
        "paper":           Variant("the paper's settings", "mnist-paper", 0.33),
        "paper-solve":     Variant("... with the exact dual", "mnist-paper", 0.33, ("--method.eta", "solve")),
        "paper-solve-lr":  Variant("... and learning rate 1e-3", "mnist-paper", 0.33,
                                   ("--method.eta", "solve", "--train.learning-rate", "1e-3")),
        # found last, measured on their own: the rows below are variants of "resampled"
        "resampled":       earlier("the decoder on samples by weight, weights not centred", MNIST),
        "centred":         Variant("weights centred, that decoder", "mnist", MNIST, RESAMPLED[:2]),
        # less one option
        "free-symbols":    earlier("unrelated symbols", MNIST, "--nets.structure", "free"),
        "bits":            earlier("symbols share bits", MNIST, "--nets.structure", "bits"),
        "digits":          earlier("symbols share digits", MNIST, "--nets.structure", "digits"),
        "adamw":           earlier("AdamW", 0.042,
                                   "--train.optimizer", "adamw", "--train.learning-rate", "3e-3"),
        "muon-5":          earlier("Muon with its authors' 5 iterations", MNIST + 0.005,
                                   "--train.muon-iterations", "5"),
        "float32-scoring": earlier("codes scored in float32", MNIST + 0.007, "--method.scoring", "float32"),
        "all-trained":     earlier("gradients through all K", 0.088, "--method.trained", "0"),
        "no-fullness":     earlier("no reward for rare symbols", MNIST, "--method.fullness", "0"),
        "early-fullness":  earlier("that reward from the first step", MNIST,
                                   "--method.fullness-first", "0", "--method.fullness-last", "0"),
        "constant-lr":     earlier("no decay of the learning rate", MNIST,
                                   "--train.learning-rate-decay", "1"),
        "one-by-one":      earlier("an autoregressive encoder", 0.140, *AUTOREGRESSIVE, "--nets.no-aligned"),
        "blocks-of-4":     earlier("... that emits 4 tokens a step", 0.110,
                                   *AUTOREGRESSIVE, "--nets.no-aligned", "--nets.block", "4"),
        "aligned":         earlier("an autoregressive encoder whose tokens read the patch of their place", 0.140,
                                   *AUTOREGRESSIVE),
        "eight-samples":   earlier("K = 8", MNIST - 0.007, "--method.samples", "8"),
        "ess-half":        earlier("ESS of half the samples", MNIST, "--method.ess-fraction", "0.5"),
        "batch-256":       earlier("batches of 256", 0.085, "--train.batch-size", "256"),
        # plus one option
        "sweeps":          earlier("samples improved by one sweep", 1.8, "--method.sweeps", "1"),
        "critic":          earlier("first-order targets", 0.18, "--method.critic", "0.1"),
        "rate":            earlier("beta from a rate of 58 bits", MNIST, "--method.rate", "58"),
        "ema":             earlier("averaged weights", MNIST + 0.002, "--train.ema", "0.995"),
        "warmup":          earlier("200 steps of warm-up", MNIST, "--train.warmup", "200"),
    }),
    # The paper's batch of 256 would take 20 CPU-seconds a step: 32 for all.
    "cifar10": Study(450.0, {
        "default":         Variant("the preset", "cifar10", CIFAR),
        "fsq":             Variant("FSQ, same preset", "cifar10", 0.130, ("--method", "fsq")),
        "paper":           Variant("the paper's settings but for the batch", "cifar10-paper", 2.3,
                                   ("--train.batch-size", "32")),
        # found last, one after the other: the rows below are variants of "resampled"
        "unrevived":       Variant("dead symbols stay dead, less reward for rare ones", "cifar10", CIFAR,
                                   ("--method.revival", "0", "--method.fullness", "1")),
        "resampled":       earlier("... the decoder on samples by weight, not centred", CIFAR, preset="cifar10"),
        "sequence":        earlier("one weight per sequence", CIFAR, "--method.credit", "sequence", preset="cifar10"),
        "reach-2":         earlier("a wider reach", CIFAR, "--method.reach", "2", preset="cifar10"),
        "no-fullness":     earlier("no reward for rare symbols", CIFAR, "--method.fullness", "0", preset="cifar10"),
        "free-symbols":    earlier("unrelated symbols", CIFAR, "--nets.structure", "free", preset="cifar10"),
        "adamw":           earlier("AdamW", CIFAR, "--train.optimizer", "adamw", preset="cifar10"),
        "all-trained":     earlier("gradients through all K", 0.270, "--method.trained", "0", preset="cifar10"),
        "sweeps":          earlier("samples improved by one sweep", 4.0, "--method.sweeps", "1", preset="cifar10"),
        "critic":          earlier("first-order targets", 0.40, "--method.critic", "0.1", preset="cifar10"),
    }),
    "mnist-hour": Study(3_600.0, {"default": Variant("the preset", "mnist", MNIST),
                                  "fsq": Variant("FSQ, same preset", "mnist", 0.036, ("--method", "fsq"))}),
}
# fmt: on


def folder_of(root: Path, preset: str, name: str, seed: int) -> Path:
    """Of one run."""
    return root / preset / f"{name}_{seed}"


def run_one(arguments: list[str], log: Path) -> None:
    """Trains and evaluates in one thread; what it says goes to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = arguments[arguments.index("--run") + 1]
    with log.open("a") as file:
        for command in (arguments, ["eval", folder, "--device", "cpu"]):
            subprocess.run(
                [sys.executable, "-m", "daps", *command], check=True, env=environment, stdout=file, stderr=file
            )


def rows_of(name: str, seed: int, run: Run) -> Iterable[dict[str, Any]]:
    """A row for every validation on a part of the test split, and one for the evaluation on all of it."""
    environment = run.read_json("environment.json")
    last: dict[str, Any] = {}
    common = {"variant": name, "seed": seed, "device": environment["processor"], "commit": environment["commit"]}
    command = portable_command(environment["command"])
    size = run.config().runtime.eval_size
    for entry in run.metrics():
        if "val_psnr" in entry:
            figures = {key: entry[f"val_{key}"] for key in ("psnr", "elbo", "log_p", "kl", "information_bits")}
            last = {"step": entry["step"], "cpu_s": entry["cpu_seconds"], "wall_s": entry["seconds"]}
            yield _row(common | last, figures, size, command)
    figures = run.read_json("evaluation.json")
    picked = {key: figures[key] for key in ("elbo", "log_p", "kl", "information_bits")}
    usage = {
        "psnr": figures["stochastic"]["psnr"],
        "psnr_greedy": figures["greedy"]["psnr"],
        "nominal_bits": figures["nominal_bits"],
        "perplexity_pooled": figures["greedy"]["perplexity_pooled"],
        "perplexity_per_position": sum(figures["greedy"]["perplexity_per_position"]) / figures["num_tokens"],
    }
    yield _row(common | last, picked | usage, figures["n"], command)


def _row(place: dict[str, Any], figures: dict[str, float], n: int, command: str) -> dict[str, Any]:
    beta_elbo = figures["log_p"] - BETA * figures["kl"]
    rounded = {key: round(value, 4) for key, value in {**figures, "beta_elbo": beta_elbo}.items()}
    return {**place, **rounded, "n": n, "command": command}


def picture(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """PSNR and beta-ELBO against CPU time, one line a variant: the mean over seeds, and each seed faintly."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    names = list(dict.fromkeys(row["variant"] for row in rows))
    lines = [(colour, style) for style in ("-", "--", ":") for colour in plt.get_cmap("tab10")(range(10))]
    for axis, key, label in zip(axes, ("psnr", "beta_elbo"), ("PSNR, dB", f"beta-ELBO ({BETA:g}), nats"), strict=True):
        for name, (colour, style) in zip(names, lines[: len(names)], strict=True):
            curves = []
            for seed in dict.fromkeys(row["seed"] for row in rows if row["variant"] == name):
                mine = [
                    row for row in rows if (row["variant"], row["seed"]) == (name, seed) and "psnr_greedy" not in row
                ]
                curves.append(([row["cpu_s"] for row in mine], [row[key] for row in mine]))
                axis.plot(*curves[-1], color=colour, alpha=0.3, linewidth=0.8)
            times = np.geomspace(max(c[0][0] for c in curves), min(c[0][-1] for c in curves), 100)
            mean = np.mean([np.interp(times, *curve) for curve in curves], axis=0)
            width = 2.5 if name in SHOWN else 1.0
            axis.plot(times, mean, style, color=colour, linewidth=width, label=f"{name} ({len(curves)})")
        axis.set(xlabel="CPU-seconds of training, one core", ylabel=label, xscale="log")
        axis.grid(alpha=0.3)
    for axis, key in zip(axes, ("psnr", "beta_elbo"), strict=True):  # the first steps of all would flatten the rest
        low, high = np.quantile([row[key] for row in rows], 0.06), max(row[key] for row in rows)
        axis.set_ylim(low, high + 0.05 * (high - low))
    figure.legend(*axes[0].get_legend_handles_labels(), title="variant (seeds)", fontsize=8, loc="outside right upper")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Trains what is missing, collects, draws."""
    abouts = [f"{study} {name}: {v.about}" for study, each in STUDIES.items() for name, v in each.variants.items()]
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="\n".join(abouts), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("data", help="folder of parquet files")
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--budget", type=float, help="CPU-seconds a run")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    parser.add_argument("--collect", action="store_true", help="train nothing")
    options = parser.parse_args()
    study = STUDIES[options.study]
    unknown = set(options.only) - study.variants.keys()
    if unknown:
        parser.error(f"--only: no variant {', '.join(unknown)}; choose {', '.join(study.variants)}")
    budget = options.budget or study.budget
    jobs = [(name, seed) for seed in options.seeds for name in options.only or study.variants]
    if not options.collect:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            started = {}
            for name, seed in jobs:
                folder = folder_of(options.runs, options.study, name, seed)
                if not (folder / "evaluation.json").exists():
                    arguments = study.variants[name].arguments(seed, budget, options.data, folder)
                    started[folder] = pool.submit(run_one, arguments, folder.with_suffix(".log"))
        for folder, run in started.items():
            if run.exception():
                print(f"{folder} failed: see {folder.with_suffix('.log')}", file=sys.stderr)
    collect(options.study, options.runs)


def collect(study: str, runs: Path) -> None:
    """The results file, the pictures and a table from every finished run of the study."""
    rows: list[dict[str, Any]] = []
    for name in STUDIES[study].variants:
        for path in sorted((runs / study).glob(f"{name}_[0-9]*")):
            seed = path.name.removeprefix(f"{name}_")
            if seed.isdigit() and (path / "evaluation.json").exists():
                rows += rows_of(name, int(seed), Run(path))
    if not rows:
        raise SystemExit(f"no finished run under {runs / study}")
    write_json(DOCS / "results" / f"learning_{study}.json", rows)
    title = f"{study}: {max(row['cpu_s'] for row in rows):,.0f} CPU-seconds a run at most"
    picture(rows, DOCS / "pictures" / f"learning_{study}.png", title)
    shown = [runs / study / f"{name}_0" for name in SHOWN]
    shown = [path for path in shown if (path / "evaluation.npz").exists()]
    if shown:
        reconstructions(shown, DOCS / "pictures" / f"learning_{study}_images.png")
    print("\n".join(table(rows)))


def reconstructions(folders: list[Path], path: Path) -> None:
    """Originals, as the likelihood sees them, over each run's greedy reconstructions; of large pictures as JPEG."""
    model = Run(folders[0]).load_model("cpu")
    arrays = [np.load(folder / "evaluation.npz") for folder in folders]
    originals = model.scaling.inverse(model.scaling(torch.as_tensor(arrays[0]["originals"][:16]))).numpy()
    images = [originals, *(array["reconstructions"][:16] for array in arrays)]
    sheet = comparison([to_pixels(values, float(model.scaling.peak)) for values in images], least=56)
    large = originals.shape[-1] >= 128
    sheet.convert("RGB").save(path.with_suffix(".jpg"), quality=90) if large else sheet.save(path)


def seconds_to(rows: list[dict[str, Any]], key: str, value: float) -> tuple[float, bool]:
    """CPU-seconds after which a run's validations first reach a value, interpolated; inf if they never do.

    And whether that is a bound only: the first validation was past the value.
    """
    for before, here in zip([None, *rows[:-1]], rows, strict=True):
        if here[key] >= value:
            if before is None:
                return here["cpu_s"], True
            share = (value - before[key]) / (here[key] - before[key])
            return before["cpu_s"] + share * (here["cpu_s"] - before["cpu_s"]), False
    return math.inf, False


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: the evaluation on all test images, mean over seeds (± half the range), by variant.

    The last columns are CPU-seconds until a validation on 1,000 images first reaches two marks of PSNR ("≤": the
    first validation had passed it), and of the whole training.
    """
    marks = MARKS[max(row["nominal_bits"] for row in rows if "nominal_bits" in row) > 100]
    lines = [
        "| variant | seeds | PSNR, dB | greedy | beta-ELBO | I(x; z), bits | perplexity | "
        + " | ".join(f"s to {mark} dB" for mark in marks)
        + " | CPU-s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == name]
        final = [row for row in mine if "psnr_greedy" in row]
        cells = [_mean([row[key] for row in final], form) for key, form in COLUMNS.items()]
        for mark in marks:
            runs = [[r for r in mine if r["seed"] == one["seed"] and "psnr_greedy" not in r] for one in final]
            times = [seconds_to(run, "psnr", mark) for run in runs]
            seconds, bound = [time for time, _ in times], "≤ " * any(bound for _, bound in times)
            cells.append(bound + _mean(seconds, ".0f") if max(seconds) < math.inf else "-")
        cells.append(_mean([row["cpu_s"] for row in final], ".0f"))
        lines.append(f"| `{name}` | {len(final)} | {' | '.join(cells)} |")
    return lines


MARKS = {False: (11.3, 16.7), True: (20.0, 22.0)}  # of 64 bits, and of more
COLUMNS = {
    "psnr": ".2f",
    "psnr_greedy": ".2f",
    "beta_elbo": ".1f",
    "information_bits": ".1f",
    "perplexity_per_position": ".0f",
}


def _mean(values: list[float], form: str) -> str:
    mean, spread = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{mean:{form}}" + (f" ± {spread:{form}}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
