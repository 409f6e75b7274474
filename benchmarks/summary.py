"""The README's table: the paper's figures beside ours, from the results files of benchmarks/compare.py.

    python benchmarks/summary.py

Trains nothing. The share is of the data that the paper's training saw, steps times batch.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NAMES = {"mnist": "MNIST, 64", "cifar10": "CIFAR-10, 576", "imagenet256": "ImageNet, 10,240", "lafan1": "LAFAN1, 640"}
FILES = {
    "mnist": ("mnist-long", "mnist"),
    "cifar10": ("cifar10",),
    "imagenet256": ("imagenet256",),
    "lafan1": ("lafan1",),
}
METHODS = {"daps": "DAPS, parallel", "fsq": "FSQ", "vqvae": "VQ-VAE", "gumbel": "Gumbel-softmax, parallel"}


def kind(label: str) -> str | None:
    """What the paper calls the method of a row; None for one that it does not have."""
    if "autoregressive" in label:
        return "DAPS, autoregressive" if label.startswith("daps") else None
    return METHODS.get(label.split()[0])


def lines(paper: dict[str, Any], data: str) -> list[str]:
    """A line per method of the paper's that was trained here; the longest training of each."""
    found: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for name in FILES[data]:
        path = RESULTS / f"compare_{name}.json"
        for row in json.loads(path.read_text()) if path.is_file() else []:
            method = kind(row["method"])
            if method and found.setdefault(method, (name, []))[0] == name:
                found[method][1].append(row)
    trained = paper["training"][data]
    made = []
    for method, figures in paper["psnr"].items():
        if method not in found:
            continue
        name, rows = found[method]
        seconds = [row["gpu_s"] if row["cpu_s"] is None else row["cpu_s"] for row in rows]
        share = fmean(r["steps"] * r["batch_size"] for r in rows) / (trained["steps"] * trained["batch_size"])
        ours = " | ".join(_mean([row[key] for row in rows]) for key in ("psnr", "psnr_greedy"))
        made.append(
            f"| {NAMES[data]} | {method} | {figures[data]:.2f} | {ours} | {share:.2%} | {fmean(seconds):,.0f} | "
            f"{len(rows)} | [{name}](docs/results/compare_{name}.json) |"
        )
    return made


def table() -> str:
    """Markdown."""
    paper = json.loads((RESULTS / "paper.json").read_text())
    head = "data, bits | method | paper, dB | ours, dB | greedy | of its data | CPU-s | seeds | rows".split(" | ")
    return "\n".join(
        [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(line for data in NAMES for line in lines(paper, data))]
    )


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    print(table())
