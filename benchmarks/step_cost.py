"""CPU time of one training step on the paper's MNIST setting, and where it goes; and of our own presets.

    OMP_NUM_THREADS=1 python benchmarks/step_cost.py FOLDER_OF_MNIST_PARQUET

One core, batch 256, K = 8, T x V = 8 x 256. The whole step is timed as `daps train` runs it; the parts are timed
in separate passes of the same work, so their sum differs a little from the whole. Beside each part stand its
floating-point operations, counted by torch, and the rate they make. Writes docs/results/step_cost_mnist.json.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from daps.clipping import adaptive_clip
from daps.config import Config
from daps.data import Dataset, batch_indices, load
from daps.objective import log_weights, policy_loss, solve_eta
from daps.presets import preset
from daps.run import environment, write_json
from daps.train import Trainer, build_model, resolve

REPEATS = 15
OUTPUT = Path(__file__).parents[1] / "docs" / "results" / "step_cost_mnist.json"


def cpu_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median process time of `work`, after two warm-up calls."""
    times = []
    for repeat in range(repeats + 2):
        start = time.process_time()
        work()
        if repeat >= 2:
            times.append(time.process_time() - start)
    return statistics.median(times)


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of matrix products, in GFLOP."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def parts(trainer: Trainer, rows: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The pieces of a step as separate calls."""
    model, config = trainer.model, trainer.config.method
    y = model.scaling(rows)
    codes, log_q = model.encoder.sample(y, config.samples)
    log_p = model.decoder(codes).log_prob(y).detach()
    reward, nats = log_p, log_q.sum(-1)
    eta = solve_eta(reward, nats, 0.1, config.ess_target)
    log_w = log_weights(reward, nats, eta, 0.1)

    def encoder_gradient() -> None:
        policy_loss(log_w, model.encoder.log_prob(y, codes)).backward()

    def decoder_gradient() -> None:
        (-model.decoder(codes).log_prob(y).mean()).backward()

    def update() -> None:
        adaptive_clip(trainer.parameters, 1.0)
        for optimizer in trainer.optimizers:
            optimizer.step()

    return {
        "sample K codes (cached, no gradient)": lambda: model.encoder.sample(y, config.samples),
        "solve eta": lambda: solve_eta(reward, nats, 0.1, config.ess_target),
        "encoder: teacher-forced log q, forward and backward": encoder_gradient,
        "decoder: log p, forward and backward": decoder_gradient,
        "clip and update": update,
    }


def whole_step(config: Config, dataset: Dataset) -> dict[str, float]:
    """Of a preset as it trains: its own batch size, samples and optimizer."""
    trainer = Trainer(config, build_model(config, dataset))
    seconds = cpu_seconds(lambda: trainer.advance(dataset))
    return {"cpu_seconds": round(seconds, 4), "gflop": round(operations(lambda: trainer.advance(dataset)), 2)}


def measure(folder: str) -> dict[str, object]:
    """All figures."""
    torch.set_num_threads(1)
    dataset = load("mnist", "train", path=folder)
    paper = preset("mnist-paper")
    config = resolve(dataclasses.replace(paper, method=dataclasses.replace(paper.method, eta="solve")), dataset)
    trainer = Trainer(config, build_model(config, dataset))
    trainer.advance(dataset)
    rows = torch.as_tensor(dataset[batch_indices(0, 0, len(dataset), config.train.batch_size)])
    works = parts(trainer, rows)
    return {
        "what": "CPU-seconds of one DAPS training step: MNIST, 8 x 256, batch 256, K = 8, one thread",
        "reference": "0.37 CPU-seconds (the authors' JAX code on this class of machine)",
        "whole_step_cpu_seconds": round(cpu_seconds(lambda: trainer.advance(dataset)), 4),
        "whole_step_gflop": round(operations(lambda: trainer.advance(dataset)), 2),
        "parts": {
            name: {"cpu_seconds": round(cpu_seconds(work), 4), "gflop": round(operations(work), 2)}
            for name, work in works.items()
        },
        "whole_step_of": {
            f"{name} --method {method}": whole_step(resolve(preset(name, method), dataset), dataset)
            for name, method in (("mnist", "daps"), ("mnist", "fsq"))
        },
        "repeats": REPEATS,
        "seed": config.train.seed,
        "command": "OMP_NUM_THREADS=1 python benchmarks/step_cost.py FOLDER_OF_MNIST_PARQUET",
        "environment": {k: v for k, v in environment(torch.device("cpu")).items() if k != "command"},
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    figures = measure(sys.argv[1])
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT, figures)
    print(OUTPUT.read_text())
