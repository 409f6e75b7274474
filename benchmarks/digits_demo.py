"""What `make demo` reaches: are the digits still readable, and are the symbols in use?

    python benchmarks/digits_demo.py [SEEDS]

Trains the default preset with each seed (0 to SEEDS - 1, one if left out) as `daps train digits` does, and asks a
k-nearest-neighbours classifier, fitted on the original training digits, to read the held-out ones decoded.
Writes docs/results/digits_demo.json.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sklearn.neighbors import KNeighborsClassifier

import daps
from daps.run import Run, environment, write_json

OUTPUT = Path(__file__).parents[1] / "docs" / "results" / "digits_demo.json"


def readability(model: "daps.methods.Autoencoder") -> dict[str, float]:
    """Share of held-out digits that the classifier reads rightly: the originals, and both kinds of reconstruction."""
    train, held_out = daps.data.load("digits", "train"), daps.data.load("digits", "validation")
    classifier = KNeighborsClassifier().fit(train.values.reshape(len(train), -1), train.labels)
    greedy = model.decode(model.encode(held_out[:])).mean
    sampled = model.decode(model.encode(held_out[:], 1.0, torch.Generator().manual_seed(0))).mean
    pictures = {"originals": held_out[:], "greedy": greedy.numpy(), "stochastic": sampled.numpy()}
    return {
        name: round(float(classifier.score(x.reshape(len(x), -1), held_out.labels)), 4) for name, x in pictures.items()
    }


def measure(seed: int, folder: Path) -> dict[str, Any]:
    """Trains and evaluates one seed."""
    run = Run(folder / str(seed))
    command = ["train", "digits", "--run", str(run.path), "--train.seed", str(seed)]
    subprocess.run([sys.executable, "-m", "daps", *command], check=True)
    subprocess.run([sys.executable, "-m", "daps", "eval", str(run.path)], check=True, stdout=subprocess.DEVNULL)
    model, figures = daps.load(run.path), run.read_json("evaluation.json")
    last = [row for row in run.metrics() if "loss" in row][-1]
    return {
        "seed": seed,
        "bits": model.bits,
        "steps": figures["step"],
        "readable": readability(model),
        "symbols_alive_per_position": figures["greedy"]["usage_per_position"],
        "perplexity_per_position": [round(p, 2) for p in figures["greedy"]["perplexity_per_position"]],
        "psnr_greedy": round(figures["greedy"]["psnr"], 2),
        "psnr_stochastic": round(figures["stochastic"]["psnr"], 2),
        "elbo": round(figures["elbo"], 2),
        "n": figures["n"],
        "train_seconds": last["seconds"],
        "train_cpu_seconds": last["cpu_seconds"],
        "command": f"daps train digits --train.seed {seed}",
    }


def main(seeds: int) -> None:
    """All seeds, into the results file."""
    with TemporaryDirectory() as folder:
        rows = [measure(seed, Path(folder)) for seed in range(seeds)]
    machine = {k: v for k, v in environment(torch.device("cpu")).items() if k != "command"}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT, {"split": "the 360 held-out digits", "runs": rows, "environment": machine})
    print(OUTPUT.read_text())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
