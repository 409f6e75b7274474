"""The table of all methods: `daps compare` with the methods, times and networks of each study, kept under docs/.

    python benchmarks/compare.py STUDY DATA [--only METHOD ...] [--seeds 0 1 2] [--seconds S | --steps N]
                                 [--runs runs/compare] [--device auto] [--robot MJCF] [--collect]

    mnist        all methods, DAPS and Gumbel-softmax with either encoder, FSQ also of 64 bits; 167 seconds each: what
                 the authors' FSQ took for 5,000 steps (one core, measured)
    mnist-long   DAPS, FSQ and VQ-VAE for 45 minutes, with more weight decay than the preset has
    cifar10      DAPS with either encoder (autoregressive with either tail), FSQ, VQ-VAE, Gumbel-softmax, 450 seconds
    cifar10-long DAPS, FSQ and VQ-VAE for half an hour, without features' distances
    imagenet256  a folder with train*.parquet and validation*.parquet, or of pictures
    lafan1       DAPS, FSQ (also with more weight decay), VQ-VAE; --robot adds errors in millimetres

Of colour pictures also Frechet distances and top-1 agreement by EfficientNet-Lite0. Seconds are of processor time on a
CPU (one thread each) and of the clock on a GPU. Finished runs are kept and stopped ones continue; `--only` and
`--seeds` choose what to train now, and what is finished is collected: a row per run into
docs/results/compare_STUDY.json, where rows stay whose runs are on another machine; curves, reconstructions and
codebook use into docs/pictures/compare_STUDY*.png, as long as all rows are of runs that are here.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from learning import DOCS, reconstructions

from daps.compare import Contestant, Failed, Plan, Stopped, compare
from daps.compare_table import markdown
from daps.data import MOTION
from daps.evaluate import Protocol
from daps.features import FeatureConfig
from daps.run import Run, write_json

AUTOREGRESSIVE = "--nets.encoder-kind autoregressive"
DECAY = "--train.weight-decay 0.05"


@dataclass(frozen=True)
class Study:
    """What is compared on a preset, for how many seconds each."""

    preset: str
    methods: tuple[str, ...]
    seconds: float
    features: FeatureConfig = FeatureConfig()
    samples: int = 8
    options: tuple[str, ...] = ()


# fmt: off
STUDIES = {
    "mnist": Study("mnist", (*"daps vqvae fsq lfq bsq gumbel grmck rloo vimco rws ppo".split(),
                             f"daps {AUTOREGRESSIVE} --method.no-centred", f"gumbel {AUTOREGRESSIVE}",
                             "fsq --method.levels 4 4 4 4 --nets.vocab-size 256"), 167),
    "mnist-long": Study("mnist", tuple(f"{name} {DECAY}" for name in ("daps", "fsq", "vqvae")), 2_700),
    "cifar10": Study("cifar10", ("daps", f"daps {AUTOREGRESSIVE} --method.trained 0",
                                 f"daps {AUTOREGRESSIVE} --method.trained 0 --method.tail 1", "vqvae", "fsq", "gumbel"),
                     450, FeatureConfig(("efficientnet",))),
    "cifar10-long": Study("cifar10", ("daps", "fsq", "vqvae"), 1_800),
    "imagenet256": Study("imagenet256", ("daps", "fsq", "vqvae"), 400, FeatureConfig(("efficientnet",)), 2,
                         ("--runtime.eval-size", "50")),  # validations on the way, which would cost more than the steps
    "lafan1": Study("lafan1", ("daps", "fsq", f"fsq {DECAY}", "vqvae"), 600),
}
# fmt: on


def finished(study: Study, runs: Path) -> tuple[tuple[Contestant, ...], tuple[int, ...]]:
    """The study's methods and seeds with an evaluation."""
    contestants = [Contestant.parse(text, study.preset) for text in study.methods]
    found: dict[Contestant, list[int]] = {}
    for one in contestants:
        names = [path.parent.name for path in runs.glob(f"{one.slug}_*/evaluation.json")]
        seeds = [int(name.removeprefix(f"{one.slug}_")) for name in names if name.rpartition("_")[0] == one.slug]
        if seeds:
            found[one] = seeds
    if not found:
        raise SystemExit(f"no finished run under {runs}")
    return tuple(found), tuple(sorted({seed for seeds in found.values() for seed in seeds}))


def curves(runs: dict[str, list[Run]], path: Path, title: str) -> None:
    """Validation PSNR against steps and against seconds: a line per run, a colour per method."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    labels = ("steps", "seconds of training (of processor time, on a CPU)")
    for axis, clock, label in zip(axes, ("step", "seconds"), labels, strict=True):
        for number, (name, mine) in enumerate(runs.items()):
            for run in mine:
                rows = _validations([run])
                on_cpu = clock == "seconds" and run.read_json("environment.json")["device"] == "cpu"
                x = [row["cpu_seconds" if on_cpu else clock] for row in rows]
                style = {"color": f"C{number % 10}", "linestyle": ("-", "--")[number // 10], "linewidth": 1.2}
                axis.plot(x, [row["val_psnr"] for row in rows], label=name if run is mine[0] else None, **style)
        axis.set(xlabel=label, xscale="log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation PSNR, dB")
    axes[0].set_ylim(
        bottom=np.quantile([row["val_psnr"] for mine in runs.values() for row in _validations(mine)], 0.05)
    )
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _validations(runs: list[Run]) -> list[dict[str, Any]]:
    return [row for run in runs for row in run.metrics() if "val_psnr" in row]


def codebook_use(runs: dict[str, list[Run]], path: Path, title: str) -> None:
    """How often symbols of a position occur in greedy codes of the validation split, sorted: means over positions."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for number, (name, (run, *_)) in enumerate(runs.items()):
        counts = np.load(run.path / "evaluation.npz")["counts"]
        shares = np.sort(counts / counts.sum(-1, keepdims=True), -1)[:, ::-1].mean(0)
        shares[shares == 0] = np.nan
        axis.plot(np.arange(1, len(shares) + 1), shares, ("-", "--")[number // 10], color=f"C{number % 10}", label=name)
        axis.axhline(1 / len(shares), color="grey", linewidth=0.6, linestyle=":")
    axis.set(xlabel="symbols of a position, by frequency", ylabel="share of the data", yscale="log", title=title)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def merged(study: Study, rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Rows with those of before that they do not replace, in the study's order; how many these are."""

    def key(row: dict[str, Any]) -> tuple[int, int]:
        return row["seed"], labels.index(row["method"])

    labels = [Contestant.parse(text, study.preset).label for text in study.methods]
    here = {key(row) for row in rows}
    kept = [row for row in before if row["method"] in labels and key(row) not in here]
    return sorted(rows + kept, key=key), len(kept)


def collect(name: str, runs: Path) -> None:
    """Results file, pictures and page of what is finished."""
    study = STUDIES[name]
    contestants, seeds = finished(study, runs)
    rows: list[dict[str, Any]] = compare(Plan(contestants, seeds, runs), train=False)
    rows = json.loads(json.dumps(rows), parse_float=lambda text: float(f"{float(text):.6g}"))
    results = DOCS / "results" / f"compare_{name}.json"
    before = json.loads(results.read_text()) if results.is_file() else []
    rows, elsewhere = merged(study, rows, before)
    write_json(results, rows)
    print(markdown(rows))
    if elsewhere:
        print(f"{elsewhere} rows of runs that are not under {runs}: pictures stay as they are")
        return
    folders = {
        one.label: [
            Run(path) for seed in seeds if ((path := runs / f"{one.slug}_{seed}") / "evaluation.json").is_file()
        ]
        for one in contestants
    }
    place = DOCS / "pictures"
    place.mkdir(parents=True, exist_ok=True)
    curves(folders, place / f"compare_{name}.png", name)
    codebook_use(folders, place / f"compare_{name}_codebook.png", f"{name}: greedy codes of the validation split")
    if study.preset not in MOTION:
        reconstructions([mine[0].path for mine in folders.values()], place / f"compare_{name}_images.png")


def main() -> None:
    """Trains what is asked for, then collects all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("data", help="file or folder, as --data.path of daps train")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="as the study has it, or all of a first word; all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, help="of each training; the study's own")
    parser.add_argument("--steps", type=int, help="instead of seconds")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--robot", type=Path, help="MJCF file, for errors of motion in millimetres")
    parser.add_argument("--collect", action="store_true", help="train nothing")
    options = parser.parse_args()
    study, runs = STUDIES[options.study], options.runs / options.study
    if not options.collect:
        asked = set(options.only or study.methods)
        asked |= {text for text in study.methods if text.split()[0] in asked - set(study.methods)}
        chosen = [text for text in study.methods if text in asked]
        if not chosen:
            raise SystemExit(f"--only: {options.study} has {', '.join(study.methods)}; got {' '.join(options.only)}")
        seconds = None if options.steps else options.seconds or study.seconds
        plan = Plan(
            tuple(Contestant.parse(text, study.preset) for text in chosen),
            tuple(options.seeds),
            runs,
            options.steps,
            seconds,
            ("--data.path", options.data, "--runtime.threads", "1", *study.options),
            Protocol(study.samples, robot=options.robot),
            study.features,
            options.device,
        )
        try:
            compare(plan)
        except Stopped as stop:
            raise SystemExit(stop.code) from None
        except Failed as failure:
            print(failure)
    collect(options.study, runs)


if __name__ == "__main__":
    main()
