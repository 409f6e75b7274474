"""Training methods, one file each. A method's name is known here and nowhere else."""

from daps.methods.base import Autoencoder, MethodConfig
from daps.methods.daps import DAPS, DAPSConfig
from daps.methods.fsq import FSQ, FSQConfig

METHODS: dict[str, type[MethodConfig]] = {"daps": DAPSConfig, "fsq": FSQConfig}

__all__ = ["DAPS", "FSQ", "METHODS", "Autoencoder", "DAPSConfig", "FSQConfig", "MethodConfig"]
