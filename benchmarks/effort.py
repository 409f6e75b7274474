"""Search at test time: PSNR and log p of held-out data against effort and time, as a table and a picture.

    OMP_NUM_THREADS=1 python benchmarks/effort.py RUN [RUN ...] [--images 1000]

Encodes the same images spread over the test split at rising effort (`encode(x, effort)`: 64 draws of q and a sweep a
unit), in batches of 100, from greedy codes. Writes docs/results/effort_PRESET.json, one row for each run and effort,
docs/pictures/effort_PRESET.png and docs/pictures/effort_PRESET_images.png. One thread.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daps.data import load
from daps.evaluate import subset
from daps.metrics import psnr
from daps.pictures import comparison, to_pixels
from daps.run import Run, environment, write_json

DOCS = Path(__file__).parents[1] / "docs"
EFFORTS = (0, 1, 2, 4, 8)


def measure(run: Run, images: int, data: str | None) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Rows for every effort, and the originals and reconstructions of the first 16 images at each."""
    config, model = run.config(), run.load_model("cpu")
    dataset = load(config.data.name, "validation", path=data or config.data.path, size=config.data.size)
    values = subset(dataset, images)
    images = len(values)
    peak = float(model.scaling.peak)
    rows, shown = [], [values[:16]]
    before = np.full(images, -np.inf)
    for effort in EFFORTS:
        log_p, quality, pictures, start = [], [], [], time.process_time()
        for first in range(0, images, 100):
            x = torch.as_tensor(values[first : first + 100])
            with torch.no_grad():
                distribution = model.decode(model.encode(x, effort=effort))
                log_p.append(distribution.log_prob(x).numpy())
                original = model.scaling.inverse(model.scaling(x))
                quality.append(psnr(original, distribution.mean, peak).numpy())
            pictures.append(distribution.mean.numpy())
        seconds = time.process_time() - start
        after = np.concatenate(log_p)
        rows.append(
            {
                "run": run.path.name,
                "method": config.method_name,
                "effort": effort,
                "n": images,
                "seconds_per_image": round(seconds / images, 5),
                "psnr": round(float(np.concatenate(quality).mean()), 3),
                "log_p": round(float(after.mean()), 3),
                "images_improved": int((after > before + 1e-2).sum()) if effort else 0,
                "images_worse": int((after < before - 1e-2).sum()),
            }
        )
        before = after
        shown.append(np.concatenate(pictures)[:16])
        print(rows[-1], flush=True)
    return rows, shown


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR and log p against time, one line a run."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axis, key, label in zip(axes, ("psnr", "log_p"), ("PSNR, dB", "log p(x|z), nats"), strict=True):
        for name in dict.fromkeys(row["run"] for row in rows):
            mine = [row for row in rows if row["run"] == name]
            milliseconds = [1e3 * row["seconds_per_image"] for row in mine]
            axis.plot(milliseconds, [row[key] for row in mine], marker="o", label=name)
            for x, row in zip(milliseconds, mine, strict=True):
                axis.annotate(
                    str(row["effort"]), (x, row[key]), xytext=(3, -10), textcoords="offset points", fontsize=8
                )
        axis.set(xlabel="CPU-milliseconds an image, one core (points: effort)", ylabel=label, xscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures, writes, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--data", help="folder of the data, if it has moved")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    about = environment(torch.device("cpu"))
    for folder in options.runs:
        run = Run.open(folder)
        measured, shown = measure(run, options.images, options.data)
        command = (
            f"python benchmarks/effort.py {' '.join(path.name for path in options.runs)} --images {options.images}"
        )
        facts = {"device": about["processor"], "commit": about["commit"], "command": command}
        rows += [row | facts for row in measured]
    name = Run.open(options.runs[0]).config().preset
    write_json(DOCS / "results" / f"effort_{name}.json", rows)
    picture(rows, DOCS / "pictures" / f"effort_{name}.png")
    peak = float(max(values.max() for values in shown))
    comparison([to_pixels(values, peak) for values in shown], least=56).save(
        DOCS / "pictures" / f"effort_{name}_images.png"
    )


if __name__ == "__main__":
    main()
