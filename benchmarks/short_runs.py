"""DAPS with the exact dual, with the paper's gradient rule, and FSQ: MNIST at 64 bits, 2,000 steps each.

    OMP_NUM_THREADS=1 python benchmarks/short_runs.py FOLDER_OF_MNIST_PARQUET [FOLDER_FOR_RUNS]

Trains what is not trained yet (a stopped run continues), evaluates on all 10,000 test images, writes
docs/results/mnist_2000.json and docs/pictures/mnist_2000.png (originals over DAPS over FSQ).
15 minutes a DAPS run.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from daps.pictures import comparison, to_pixels
from daps.run import Run, write_json

DOCS = Path(__file__).parents[1] / "docs"
VARIANTS: dict[str, list[str]] = {
    "solve_lr1e3": ["--train.learning-rate", "1e-3"],
    "gradient_lr1e3": ["--train.learning-rate", "1e-3", "--method.eta", "gradient"],
    "fsq_lr1e3": ["--method", "fsq", "--train.learning-rate", "1e-3"],
}
COMMON = ["--train.steps", "2000", "--runtime.threads", "1", "--runtime.eval-every", "250", "--device", "cpu"]


def train(name: str, data: str, runs: Path) -> Run:
    """A trained and evaluated run."""
    run = Run(runs / name)
    daps = [sys.executable, "-m", "daps"]
    if not (run.path / "evaluation.json").exists():
        command = [*daps, "train", "mnist", "--data.path", data, "--run", str(run.path), *COMMON, *VARIANTS[name]]
        subprocess.run(command, check=True)
        subprocess.run([*daps, "eval", str(run.path), "--device", "cpu"], check=True)
    return run


def row(name: str, run: Run) -> dict[str, Any]:
    """What the documents quote of a run."""
    figures, environment = run.read_json("evaluation.json"), run.read_json("environment.json")
    wanted = ("log_p", "elbo", "beta", "beta_elbo", "iw_log_likelihood", "kl", "nominal_bits", "entropy_bits")
    last = [entry for entry in run.metrics() if "loss" in entry][-1]
    return {
        "variant": name,
        "steps": figures["step"],
        "split": "test images of MNIST, binarised at pixel > 127",
        "n": figures["n"],
        **{key: round(figures[key], 3) for key in wanted},
        "psnr_stochastic": round(figures["stochastic"]["psnr"], 3),
        "psnr_pooled_stochastic": round(figures["stochastic"]["psnr_pooled"], 3),
        "psnr_greedy": round(figures["greedy"]["psnr"], 3),
        "ssim_stochastic": round(figures["stochastic"]["ssim"], 4),
        "code_bits_greedy": round(figures["greedy"]["code_bits"], 2),
        "perplexity_pooled_greedy": round(figures["greedy"]["perplexity_pooled"], 2),
        "train_cpu_seconds": last["cpu_seconds"],
        "skipped_steps": last["skipped"],
        "last_ess": last.get("ess"),
        "last_eta": last.get("eta"),
        "seed": run.config().train.seed,
        "command": "daps train mnist --data.path FOLDER " + " ".join(COMMON + VARIANTS[name]),
        "environment": {k: v for k, v in environment.items() if k != "command"},
        "validation": [{k: round(v, 3) for k, v in entry.items()} for entry in run.metrics() if "val_psnr" in entry],
    }


def picture(runs: dict[str, Run], names: list[str], path: Path) -> None:
    """Originals (binarised, as the likelihood sees them) over each variant's greedy reconstructions."""
    arrays = [np.load(runs[name].path / "evaluation.npz") for name in names]
    originals = (arrays[0]["originals"][:16] > 127) * 255.0
    rows = [to_pixels(values, 255.0) for values in (originals, *(a["reconstructions"][:16] for a in arrays))]
    path.parent.mkdir(parents=True, exist_ok=True)
    comparison(rows, least=56).save(path)


def main(data: str, folder: Path) -> None:
    """Trains, evaluates, collects."""
    runs = {name: train(name, data, folder) for name in VARIANTS}
    output = DOCS / "results" / "mnist_2000.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, [row(name, run) for name, run in runs.items()])
    picture(runs, ["solve_lr1e3", "fsq_lr1e3"], DOCS / "pictures" / "mnist_2000.png")
    for entry in json.loads(output.read_text()):
        print(entry["variant"], entry["psnr_stochastic"], entry["beta_elbo"], entry["train_cpu_seconds"])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) == 3 else "runs/short"))
