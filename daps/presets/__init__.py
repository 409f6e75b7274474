"""Every experiment is a row of one table: `daps train PRESET [--method NAME]`.

`mnist-paper`, `cifar10-paper`, `lafan1-paper` and `imagenet256-paper` carry the values of the paper (DAPS, ICLR 2026,
appendix; daps/presets/paper.py); all others are ours (daps/presets/ours.py).
A method's row may change the networks where its encoder is of another kind.
"""

import dataclasses

from daps.config import Config
from daps.presets.ours import OURS
from daps.presets.paper import PAPER
from daps.presets.row import Preset, Variant
from daps.suggest import did_you_mean

__all__ = ["PRESETS", "Preset", "Variant", "preset"]

PRESETS: dict[str, Preset] = OURS | PAPER


def preset(name: str, method: str = "daps") -> Config:
    """The settings of a preset under a method.

    Raises:
        ValueError: no such preset, or no such method; the message lists those that exist.
    """
    row = PRESETS.get(name)
    if row is None:
        raise ValueError(f"preset: no {name!r}; choose {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    if method not in row.methods:
        near = did_you_mean(method, row.methods)
        raise ValueError(f"method: no {method!r} for preset {name}; choose {', '.join(row.methods)}{near}")
    variant = row.methods[method]
    nets = dataclasses.replace(row.nets, **variant.nets)
    train = dataclasses.replace(row.train, **variant.train)
    return Config(name, row.data, nets, variant.method, train, row.runtime)
