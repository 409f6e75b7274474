"""Every experiment is a row of one table: `daps train PRESET [--method NAME]`.

`mnist-paper`, `cifar10-paper` and `lafan1-paper` carry the values of the paper (DAPS, ICLR 2026, appendix); all others
are ours.
A method's row may change the networks where its encoder is of another kind.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from daps.architecture import Architecture
from daps.config import Config, DataConfig, RuntimeConfig, TrainConfig
from daps.methods import (
    BSQConfig,
    DAPSConfig,
    FSQConfig,
    GRMCKConfig,
    GumbelConfig,
    LFQConfig,
    MethodConfig,
    PPOConfig,
    RLOOConfig,
    RWSConfig,
    VIMCOConfig,
    VQVAEConfig,
)
from daps.suggest import did_you_mean


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


def _parallel(patches: tuple[int, ...], layers: int, mlp_ratio: int, vocab_size: int) -> dict[str, Any]:
    """Changes of networks for encoders with one patch per token and self-attention alone."""
    return {
        "encoder_kind": "parallel",
        "patches": patches,
        "trunk_layers": layers,
        "mlp_ratio": mlp_ratio,
        "vocab_size": vocab_size,
    }


# fmt: off
PRESETS: dict[str, Preset] = {
    "digits": Preset(
        about="scikit-learn's 8 x 8 digits, embedded, 8 tokens of 16 symbols (32 bits): half a minute",
        data=DataConfig("digits"),
        nets=Architecture(num_tokens=8, vocab_size=16, width=32, heads=2, patches=(4, 2), trunk_layers=2,
                          encoder_kind="parallel", structure="lattice", hidden=(128, 256), variance=(0.03, 0.03)),
        train=TrainConfig(steps=1_200, batch_size=64, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.05,
                          weight_decay=0.2),
        methods={"daps": Variant(DAPSConfig(samples=16, ess_fraction=0.5, trained=2, beta_first=1.0, beta_last=0.01,
                                            fullness=2.0, fullness_first=0.1, fullness_last=0.3)),
                 "gumbel": Variant(GumbelConfig()),
                 "grmck": Variant(GRMCKConfig()),
                 "vqvae": Variant(VQVAEConfig(dimension=8)),
                 "lfq":  Variant(LFQConfig()),
                 "bsq":  Variant(BSQConfig()),
                 "rloo": Variant(RLOOConfig(trained=2, beta_first=1.0)),
                 "vimco": Variant(VIMCOConfig(trained=2, beta_first=1.0, beta_last=0.01)),
                 "rws":  Variant(RWSConfig(trained=2, beta_first=1.0, beta_last=0.01)),
                 "ppo":  Variant(PPOConfig(trained=2, beta_first=1.0)),
                 "fsq":  Variant(FSQConfig((4, 4)))},
    ),
    "mnist": Preset(
        about="MNIST, binarised, 8 tokens of 256 symbols (64 bits), tuned for time to quality (docs/learning.md)",
        data=DataConfig("mnist", scaling="binarise"),
        nets=Architecture(num_tokens=8, vocab_size=256, width=64, patches=(2, 4), hidden=(64, 256),
                          encoder_kind="parallel", trunk_layers=2, mlp_ratio=6, structure="lattice",
                          likelihood_kind="bernoulli"),
        train=TrainConfig(steps=6_000, batch_size=128, optimizer="muon", learning_rate=5e-3, learning_rate_decay=0.1),
        methods={"daps": Variant(DAPSConfig(samples=16, trained=2, scoring="auto", beta_first=0.5, beta_last=0.01,
                                            ess_fraction=0.33, fullness=1.0)),
                 "vqvae": Variant(VQVAEConfig(commitment=0.05, dimension=8, revival=0.3), _parallel((2, 4), 2, 7, 256)),
                 "lfq":  Variant(LFQConfig(commitment=0.002, entropy=0.03, temperature=4.0),
                                 _parallel((2, 4), 2, 7, 256)),
                 "bsq":  Variant(BSQConfig(commitment=0.0, entropy=0.1), _parallel((2, 4), 2, 7, 256)),
                 "rloo": Variant(RLOOConfig(trained=2, scoring="auto")),
                 "vimco": Variant(VIMCOConfig(trained=2, scoring="auto", beta_first=0.5, beta_last=0.01)),
                 "rws":  Variant(RWSConfig(trained=2, scoring="auto", beta_first=1.0, beta_last=0.01)),
                 "ppo":  Variant(PPOConfig(trained=2, scoring="auto")),
                 "fsq":  Variant(FSQConfig((8, 6, 5)), _parallel((2, 4), 2, 7, 240))},
    ),
    "mnist-paper": Preset(
        about="MNIST, binarised, 8 tokens of 256 symbols (64 bits), as in the paper",
        data=DataConfig("mnist", scaling="binarise"),
        nets=Architecture(num_tokens=8, vocab_size=256, width=64, patches=(2, 4), hidden=(64, 256),
                          likelihood_kind="bernoulli"),
        train=TrainConfig(steps=250_000, batch_size=256),
        methods={"daps": Variant(DAPSConfig(beta_first=0.5, beta_last=0.01, ess_fraction=0.33, eta="gradient")),
                 "vqvae": Variant(VQVAEConfig(commitment=0.25, codebook="gradient", from_data=False, revival=0.0),
                                  _parallel((2, 4), 2, 7, 256)),
                 "ppo":  Variant(PPOConfig(samples=8, updates=2, clip=0.2, beta_first=1.0, beta_last=0.01)),
                 "fsq":  Variant(FSQConfig((8, 6, 5)), _parallel((2, 4), 2, 7, 240))},
    ),
    "cifar10": Preset(
        about="CIFAR-10, 64 tokens of 512 symbols (576 bits), tuned for time to quality (docs/learning.md)",
        data=DataConfig("cifar10"),
        nets=Architecture(num_tokens=64, vocab_size=512, width=128, patches=(8, 8), trunk_layers=2, mlp_ratio=4,
                          encoder_kind="parallel", structure="lattice", decoder_kind="conv", hidden=(64,),
                          decoder_grid=(8, 8), norm="group", variance=(1e-3, 4.0)),
        train=TrainConfig(steps=20_000, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods={"daps": Variant(DAPSConfig(samples=4, ess_fraction=0.5, trained=1, credit="local", beta_first=1.0,
                                            beta_last=0.01, fullness=1.0)),
                 "vqvae": Variant(VQVAEConfig(dimension=8)),
                 "lfq":  Variant(LFQConfig()),
                 "bsq":  Variant(BSQConfig()),
                 "rloo": Variant(RLOOConfig(samples=4, trained=1, credit="local", beta_first=1.0)),
                 "vimco": Variant(VIMCOConfig(samples=4, trained=1, beta_first=1.0, beta_last=0.01)),
                 "rws":  Variant(RWSConfig(samples=4, trained=1, beta_first=1.0, beta_last=0.01)),
                 "ppo":  Variant(PPOConfig(samples=4, trained=1, credit="local", beta_first=1.0)),
                 "fsq":  Variant(FSQConfig((8, 8, 8)))},
    ),
    "cifar10-paper": Preset(
        about="CIFAR-10, 64 tokens of 512 symbols (576 bits), as in the paper",
        data=DataConfig("cifar10"),
        nets=Architecture(num_tokens=64, vocab_size=512, width=128, patches=(8, 8), trunk_layers=2, token_layers=2,
                          decoder_kind="conv", hidden=(64,), decoder_grid=(8, 8), norm="batch",
                          variance=(1e-3, 4.0)),
        train=TrainConfig(steps=250_000, batch_size=256),
        methods={"daps": Variant(DAPSConfig(beta_first=6.0, beta_last=0.01, ess_fraction=0.33, eta="gradient")),
                 "vqvae": Variant(VQVAEConfig(commitment=0.25, codebook="gradient", from_data=False, revival=0.0),
                                  _parallel((8, 8), 4, 6, 512)),
                 "fsq":  Variant(FSQConfig((8, 8, 8)), _parallel((8, 8), 4, 6, 512))},
    ),
    "images": Preset(
        about="your own pictures at 64 x 64, 64 tokens of 512 symbols (72 bytes)",
        data=DataConfig("images", size=64),
        nets=Architecture(num_tokens=64, vocab_size=512, width=128, patches=(8, 8), trunk_layers=2, mlp_ratio=4,
                          encoder_kind="parallel", structure="lattice", decoder_kind="conv", hidden=(64,),
                          decoder_grid=(8, 8), norm="group", variance=(0.01, 1.0)),
        train=TrainConfig(steps=20_000, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods={"daps": Variant(DAPSConfig(samples=4, ess_fraction=0.5, trained=1, credit="local", beta_first=1.0,
                                            beta_last=0.05, fullness=1.0)),
                 "vqvae": Variant(VQVAEConfig(dimension=8)),
                 "lfq":  Variant(LFQConfig()),
                 "bsq":  Variant(BSQConfig()),
                 "rloo": Variant(RLOOConfig(samples=4, trained=1, credit="local", beta_first=1.0, beta_last=0.05)),
                 "vimco": Variant(VIMCOConfig(samples=4, trained=1, beta_first=1.0, beta_last=0.05)),
                 "rws":  Variant(RWSConfig(samples=4, trained=1, beta_first=1.0, beta_last=0.05)),
                 "ppo":  Variant(PPOConfig(samples=4, trained=1, credit="local", beta_first=1.0, beta_last=0.05)),
                 "fsq":  Variant(FSQConfig((8, 8, 8)))},
    ),
    "array": Preset(
        about="your own vectors from an .npy or .npz file, 8 tokens of 64 symbols (48 bits)",
        data=DataConfig("array"),
        nets=Architecture(num_tokens=8, vocab_size=64, width=64, patches=(8,), hidden=(128, 256), trunk_layers=2,
                          encoder_kind="parallel", structure="lattice", variance=(0.01, 1.0)),
        train=TrainConfig(steps=5_000, batch_size=128, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods={"daps": Variant(DAPSConfig(samples=16, trained=2, beta_first=2.0, beta_last=0.05, fullness=1.0)),
                 "vqvae": Variant(VQVAEConfig(dimension=8)),
                 "lfq":  Variant(LFQConfig()),
                 "bsq":  Variant(BSQConfig()),
                 "rloo": Variant(RLOOConfig(trained=2, beta_first=2.0, beta_last=0.05)),
                 "vimco": Variant(VIMCOConfig(trained=2, beta_first=2.0, beta_last=0.05)),
                 "rws":  Variant(RWSConfig(trained=2, beta_first=2.0, beta_last=0.05)),
                 "ppo":  Variant(PPOConfig(trained=2, beta_first=2.0, beta_last=0.05)),
                 "fsq":  Variant(FSQConfig((8, 8)))},
    ),
    "gait": Preset(
        about="a synthetic walk of the Unitree G1, embedded, 16 tokens of 64 symbols (96 bits) for a second: a minute",
        data=DataConfig("gait"),
        nets=Architecture(num_tokens=16, vocab_size=64, width=64, patches=(16,), trunk_layers=2,
                          encoder_kind="parallel", structure="lattice", decoder_kind="conv", hidden=(64,),
                          variance=(0.01, 1.0)),
        train=TrainConfig(steps=800, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.05),
        methods={"daps": Variant(DAPSConfig(samples=8, ess_fraction=0.5, trained=1, credit="local", reach=1,
                                            beta_first=1.0, beta_last=0.01, fullness=1.0)),
                 "fsq":  Variant(FSQConfig((8, 8)))},
    ),
    "lafan1": Preset(
        about="LAFAN1 on the Unitree G1, 32 frames as 64 tokens of 1024 symbols (640 bits), tuned for time to quality",
        data=DataConfig("lafan1"),
        nets=Architecture(num_tokens=64, vocab_size=1024, width=128, patches=(64,), trunk_layers=2, mlp_ratio=4,
                          encoder_kind="parallel", structure="lattice", decoder_kind="conv", hidden=(128,),
                          variance=(0.01, 1.0)),
        train=TrainConfig(steps=20_000, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods={"daps": Variant(DAPSConfig(samples=4, ess_fraction=0.5, trained=1, credit="local", reach=2,
                                            beta_first=1.0, beta_last=0.01, fullness=1.0)),
                 "fsq":  Variant(FSQConfig((4, 4, 4, 4, 4)))},
    ),
    "lafan1-paper": Preset(
        about="LAFAN1 on the Unitree G1, 32 frames as 64 tokens of 1024 symbols (640 bits), as in the paper",
        data=DataConfig("lafan1"),
        nets=Architecture(num_tokens=64, vocab_size=1024, width=128, patches=(64,), trunk_layers=2, token_layers=2,
                          decoder_kind="transformer", variance=(0.25, 0.25)),
        train=TrainConfig(steps=250_000, batch_size=256),
        methods={"daps": Variant(DAPSConfig(beta_first=3.0, beta_last=0.01, ess_fraction=0.33, eta="gradient")),
                 "fsq":  Variant(FSQConfig((10, 10, 10)), _parallel((64,), 4, 6, 1000))},
    ),
}
# fmt: on


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
