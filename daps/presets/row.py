"""What a row of the table of presets is made of."""

from dataclasses import dataclass, field
from typing import Any

from daps.architecture import Architecture
from daps.config import DataConfig, RuntimeConfig, TrainConfig
from daps.methods import MethodConfig


@dataclass(frozen=True)
class Variant:
    """A method's settings, and what it changes of the preset's networks and training."""

    method: MethodConfig
    nets: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """Data, networks and training of an experiment, and what each method makes of them."""

    about: str
    data: DataConfig
    nets: Architecture
    train: TrainConfig
    methods: dict[str, Variant]
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def parallel(patches: tuple[int, ...], layers: int, mlp_ratio: int, vocab_size: int) -> dict[str, Any]:
    """Changes of networks for encoders with one patch per token and self-attention alone."""
    return {
        "encoder_kind": "parallel",
        "patches": patches,
        "trunk_layers": layers,
        "mlp_ratio": mlp_ratio,
        "vocab_size": vocab_size,
    }
