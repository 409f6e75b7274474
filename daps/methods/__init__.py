"""Training methods, one file each. A method's name is known here and nowhere else."""

from daps.methods.base import Autoencoder, MethodConfig
from daps.methods.daps import DAPS, DAPSConfig
from daps.methods.fsq import FSQ, FSQConfig
from daps.methods.gumbel import GRMCKConfig, Gumbel, GumbelConfig
from daps.methods.lfq import BSQConfig, LFQConfig, SignQuantised
from daps.methods.ppo import PPO, PPOConfig
from daps.methods.reinforce import RLOO, VIMCO, RLOOConfig, VIMCOConfig
from daps.methods.rws import RWS, RWSConfig
from daps.methods.vqvae import VQVAE, VQVAEConfig

METHODS: dict[str, type[MethodConfig]] = {
    "daps": DAPSConfig,
    "fsq": FSQConfig,
    "vqvae": VQVAEConfig,
    "lfq": LFQConfig,
    "bsq": BSQConfig,
    "rloo": RLOOConfig,
    "vimco": VIMCOConfig,
    "rws": RWSConfig,
    "ppo": PPOConfig,
    "gumbel": GumbelConfig,
    "grmck": GRMCKConfig,
}

__all__ = [
    "DAPS",
    "FSQ",
    "METHODS",
    "PPO",
    "RLOO",
    "RWS",
    "VIMCO",
    "VQVAE",
    "Autoencoder",
    "BSQConfig",
    "DAPSConfig",
    "FSQConfig",
    "GRMCKConfig",
    "Gumbel",
    "GumbelConfig",
    "LFQConfig",
    "MethodConfig",
    "PPOConfig",
    "RLOOConfig",
    "RWSConfig",
    "SignQuantised",
    "VIMCOConfig",
    "VQVAEConfig",
]
