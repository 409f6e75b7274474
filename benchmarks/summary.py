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
    "cifar10": ("cifar10-long", "cifar10"),
    "imagenet256": ("imagenet256",),
    "lafan1": ("lafan1",),
}
METHODS = {"daps": "DAPS, {}", "fsq": "FSQ", "vqvae": "VQ-VAE", "gumbel": "Gumbel-softmax, {}", "grmck": "GR-MCK, {}"}


def kind(label: str) -> str | None:
    """What the paper calls the method of a row; None for one that it does not have."""
    name = METHODS.get(label.split()[0])
    return name and name.format("autoregressive" if "autoregressive" in label else "parallel")


def _by_label(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [[row for row in rows if row["method"] == label] for label in dict.fromkeys(row["method"] for row in rows)]


def lines(paper: dict[str, Any], data: str) -> list[str]:
    """A line per method of the paper's, with the longest training here, if there is one, and its best settings."""
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
        if figures[data] is None:
            continue
        nats = paper["beta_elbo"].get(data, {}).get(method)
        theirs = f"| {NAMES[data]} | {method} | {figures[data]:.2f} | {'' if nats is None else f'{nats:.2f}'} |"
        if method not in found:
            made.append(f"{theirs} not run | | | | | | |")
            continue
        name, rows = found[method]
        rows = max(_by_label(rows), key=lambda mine: fmean(row["psnr"] for row in mine))
        ours_nats = _mean([row["beta_elbo"] for row in rows]) if data in paper["beta_elbo"] else ""
        seconds = [row["gpu_s"] if row["cpu_s"] is None else row["cpu_s"] for row in rows]
        share = fmean(r["steps"] * r["batch_size"] for r in rows) / (trained["steps"] * trained["batch_size"])
        ours = " | ".join(_mean([row[key] for row in rows]) for key in ("psnr", "psnr_greedy"))
        made.append(
            f"{theirs} {ours} | {ours_nats} | {share:.2%} | {fmean(seconds):,.0f} | {len(rows)} | "
            f"[{name}](docs/results/compare_{name}.json) |"
        )
    return made


def table() -> str:
    """Markdown."""
    paper = json.loads((RESULTS / "paper.json").read_text())
    paper_has, ours = "data, bits | method | paper, dB | beta-ELBO", "ours, dB | greedy | beta-ELBO"
    head = f"{paper_has} | {ours} | of its data | CPU-s | seeds | rows".split(" | ")
    return "\n".join(
        [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(line for data in NAMES for line in lines(paper, data))]
    )


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    print(table())
