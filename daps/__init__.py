"""daps: discrete autoregressive autoencoders trained by policy search.

>>> model = daps.load("runs/digits")
>>> codes = model.encode(x)              # [B, T] integers
>>> x_hat = model.decode(codes).mean     # [B, *data_shape]
"""

from pathlib import Path
from typing import TYPE_CHECKING

from daps import data as data  # daps.data.load
from daps import version

__version__ = version.VERSION

if TYPE_CHECKING:
    from daps.methods import Autoencoder


def load(run: str | Path, device: str = "cpu") -> "Autoencoder":
    """The trained model of a run folder, ready to encode and decode.

    Args:
        run: a folder written by `daps train`.
        device: cpu, cuda, mps, or auto.

    Raises:
        ValueError: not a run folder, of another version, or damaged.
    """
    from daps.run import Run, pick_device

    return Run.open(run).load_model(pick_device(device))
