"""What motion costs: the rate-distortion bound of a Gaussian with the data's second moments, by transform.

    OMP_NUM_THREADS=1 python benchmarks/rate_distortion.py CLIPS [--bits 640] [--windows 20000]

A Gaussian's coefficients of an orthonormal transform, taken as independent, cost sum max(0, log2(variance / D) / 2)
bits at an error D each (reverse water-filling). The transform that leaves least correlated costs least: frames as they
are, `daps.spectral`, and the principal components of whole windows, which no linear transform beats. Moments and
transform are of training windows; the errors are those of training and of held-out windows, whose variances differ.
Writes docs/results/rate_distortion_lafan1.json. Networks may do better: poses are no Gaussian.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daps.data import load
from daps.data.dataset import Dataset
from daps.motion import ROOT
from daps.run import environment, write_json
from daps.scaling import statistics
from daps.spectral import Spectral

DOCS = Path(__file__).parents[1] / "docs"


def error_at(variance: Tensor, bits: float) -> Tensor:
    """The squared error of each coefficient at so many bits in all: min(variance, D)."""
    low, high = 1e-12, float(variance.max())
    for _ in range(100):
        level = math.sqrt(low * high)
        spent = float((variance / level).clamp(min=1).log2().sum() / 2)
        low, high = (level, high) if spent > bits else (low, level)
    return variance.clamp(max=level)


def spread(dataset: Dataset, count: int) -> Tensor:
    """Evenly spaced windows [n, F, C]."""
    return torch.from_numpy(dataset[np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)])


def main() -> None:
    """Three transforms, two splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", help="folder, as --data.path of daps train lafan1")
    parser.add_argument("--bits", type=float, default=640)
    parser.add_argument("--windows", type=int, default=20_000)
    options = parser.parse_args()
    training, held_out = (load("lafan1", split, path=options.clips) for split in ("train", "validation"))
    shift, scale = statistics(training.distinct, least_variance=training.least_variance)
    spectral = Spectral(shift, scale, 1.0, training.shape, training.shape[0])
    spectral.fit(training.values)
    windows = {"train": spread(training, options.windows), "validation": spread(held_out, options.windows)}
    standardised = {split: ((x - shift) / scale).flatten(1).double() for split, x in windows.items()}
    second = standardised["train"].T @ standardised["train"] / len(standardised["train"])
    size = len(second)
    units = torch.eye(size).view(size, *spectral.model_shape(training.shape))
    bases = {
        "frames": torch.eye(size, dtype=torch.float64),
        "spectral": ((spectral.inverse(units) - shift) / scale).flatten(1).T.double(),
        "principal components of windows": torch.linalg.eigh(second)[1],
    }
    rows = []
    for name, basis in bases.items():  # a column per coefficient
        for split, values in standardised.items():
            variance = (values @ basis).square().mean(0).clamp(min=1e-12)
            error = error_at(variance, options.bits)
            joints = ((basis.square() @ error).view(training.shape) * scale**2)[:, ROOT:]
            row = {"transform": name, "split": split, "bits": options.bits, "windows": len(values)}
            row |= {
                "joint_rms": round(math.sqrt(float(joints.mean())), 5),
                "standardised_mse": round(float(error.mean()), 5),
            }
            rows.append(row | {"coefficients_above_error": int((variance > error).sum())})
            print(rows[-1])
    about = environment(torch.device("cpu"))
    command = f"python benchmarks/rate_distortion.py CLIPS --bits {options.bits:g} --windows {options.windows}"
    facts = {"device": about["processor"], "commit": about["commit"], "command": command}
    write_json(DOCS / "results" / "rate_distortion_lafan1.json", [row | facts for row in rows])


if __name__ == "__main__":
    main()
