"""What several test files build on: random numbers, a small DAPS model, its draws and its gradients."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.methods import DAPS, DAPSConfig
from daps.scaling import Affine

NETS = Architecture(
    num_tokens=3, vocab_size=4, width=8, heads=2, patches=(3,), hidden=(8,), variance=(0.1, 1.0), data_shape=(6,)
)
SHAPES: dict[str, tuple[int, ...]] = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "mnist-paper": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar10-paper": (3, 32, 32),
    "images": (3, 64, 64),
    "imagenet64": (3, 64, 64),
    "imagenet256": (3, 256, 256),
    "imagenet256-paper": (3, 256, 256),
    "array": (11,),
    "gait": (32, 36),
    "lafan1": (32, 36),
    "lafan1-paper": (32, 36),
}
K = 6
CONFIG = DAPSConfig(samples=K, ess_fraction=0.5, beta_first=0.4, beta_last=0.1)
STEPS = 10


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(kind: str = "autoregressive", **changes: Any) -> DAPS:
    """A small model in float64."""
    torch.manual_seed(0)
    nets = dataclasses.replace(NETS, encoder_kind=kind)
    return dataclasses.replace(CONFIG, **changes).build(nets, Affine(0.5, 2.0), STEPS).double()


def rollout(model: DAPS, x: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The scaled data, and the codes, log q and rewards that a step from this seed draws."""
    y = (x - 0.5) / 2
    torch.manual_seed(seed)
    codes, log_q = model.encoder.sample(y, K)
    return y, codes, log_q.sum(-1), model.decoder(codes).log_prob(y).detach()


def gradients(module: nn.Module) -> list[Tensor]:
    """Of every parameter."""
    return [p.grad.clone() for p in module.parameters()]


def pictures(count: int, size: int = 8, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8))
