"""Our own presets: tuned for time to quality, the same number of parameters for every method (docs/compare.md)."""

from typing import Any

from daps.architecture import Architecture
from daps.config import DataConfig, TrainConfig
from daps.methods import (
    BSQConfig,
    DAPSConfig,
    FSQConfig,
    GRMCKConfig,
    GumbelConfig,
    LFQConfig,
    PPOConfig,
    RLOOConfig,
    RWSConfig,
    VIMCOConfig,
    VQVAEConfig,
)
from daps.presets.row import Preset, Variant, parallel


def local_methods(
    levels: tuple[int, ...],
    samples: int = 4,
    beta_last: float = 0.01,
    wide: dict[str, Any] | None = None,
    fullness: float = 6.0,
    revival: float = 0.1,
) -> dict[str, Variant]:
    """DAPS and its rivals where the decoder is local.

    Args:
        levels: of FSQ.
        samples, beta_last: of DAPS, and of all that draw samples.
        wide: networks of the deterministic encoders, which need no output per symbol; those of the preset if None.
        fullness, revival: of DAPS; on motion, whose codebooks fill by themselves, a large reward costs quality.
    """
    drawn: dict[str, Any] = {"samples": samples, "trained": 1, "beta_first": 1.0, "beta_last": beta_last}
    local: dict[str, Any] = drawn | {"credit": "local"}
    relaxed: dict[str, Any] = {"beta_first": 1.0, "beta_last": beta_last, "temperature_last": 0.5}
    nets = wide or {}
    policy = DAPSConfig(
        **local, ess_fraction=0.5, fullness=fullness, revival=revival, decoder_samples="drawn", centred=True
    )
    return {
        "daps": Variant(policy),
        "gumbel": Variant(GumbelConfig(**relaxed)),
        "grmck": Variant(GRMCKConfig(**relaxed)),
        "vqvae": Variant(VQVAEConfig(dimension=8, own=True), nets),
        "lfq": Variant(LFQConfig(), nets),
        "bsq": Variant(BSQConfig(), nets),
        "rloo": Variant(RLOOConfig(**local)),
        "vimco": Variant(VIMCOConfig(**drawn)),
        "rws": Variant(RWSConfig(**drawn)),
        "ppo": Variant(PPOConfig(**local)),
        "fsq": Variant(FSQConfig(levels), nets),
    }


# fmt: off
OURS: dict[str, Preset] = {
    "digits": Preset(
        about="scikit-learn's 8 x 8 digits, embedded, 8 tokens of 16 symbols (32 bits): half a minute",
        data=DataConfig("digits"),
        nets=Architecture(num_tokens=8, vocab_size=16, width=32, heads=2, patches=(4, 2), trunk_layers=2,
                          encoder_kind="parallel", aligned=True, structure="lattice", hidden=(128, 256),
                          variance=(0.03, 0.03)),
        train=TrainConfig(steps=1_200, batch_size=64, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.05,
                          weight_decay=0.2),
        methods={"daps": Variant(DAPSConfig(samples=16, ess_fraction=0.5, trained=2, beta_first=1.0, beta_last=0.01,
                                            fullness=2.0, fullness_first=0.1, fullness_last=0.3)),
                 "gumbel": Variant(GumbelConfig()),
                 "grmck": Variant(GRMCKConfig()),
                 "vqvae": Variant(VQVAEConfig(dimension=8, own=True)),
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
                          encoder_kind="parallel", aligned=True, trunk_layers=2, mlp_ratio=6, structure="lattice",
                          likelihood_kind="bernoulli"),
        train=TrainConfig(steps=6_000, batch_size=128, optimizer="muon", learning_rate=5e-3, learning_rate_decay=0.1),
        methods={"daps": Variant(DAPSConfig(samples=16, trained=2, scoring="auto", beta_first=0.5, beta_last=0.01,
                                            ess_fraction=0.33, fullness=1.0, decoder_samples="drawn",
                                            centred=True)),
                 "gumbel": Variant(GumbelConfig(temperature_last=0.5)),
                 "grmck": Variant(GRMCKConfig(temperature_last=0.5)),
                 "vqvae": Variant(VQVAEConfig(commitment=0.05, dimension=8, own=True, revival=0.3),
                                  parallel((2, 4), 2, 7, 256)),
                 "lfq":  Variant(LFQConfig(commitment=0.002, entropy=0.03, temperature=4.0),
                                 parallel((2, 4), 2, 7, 256)),
                 "bsq":  Variant(BSQConfig(commitment=0.0, entropy=0.1), parallel((2, 4), 2, 7, 256)),
                 "rloo": Variant(RLOOConfig(trained=2, scoring="auto")),
                 "vimco": Variant(VIMCOConfig(trained=2, scoring="auto", beta_first=0.5, beta_last=0.01)),
                 "rws":  Variant(RWSConfig(trained=2, scoring="auto", beta_first=1.0, beta_last=0.01)),
                 "ppo":  Variant(PPOConfig(trained=2, scoring="auto")),
                 "fsq":  Variant(FSQConfig((8, 6, 5)), parallel((2, 4), 2, 7, 240))},
    ),
    "cifar10": Preset(
        about="CIFAR-10, 64 tokens of 512 symbols (576 bits), tuned for time to quality (docs/learning.md)",
        data=DataConfig("cifar10"),
        nets=Architecture(num_tokens=64, vocab_size=512, width=128, patches=(8, 8), trunk_layers=2, mlp_ratio=4,
                          encoder_kind="parallel", aligned=True, structure="lattice", decoder_kind="conv", hidden=(64,),
                          decoder_grid=(8, 8), norm="group", variance=(1e-3, 4.0)),
        train=TrainConfig(steps=20_000, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods=local_methods((8, 8, 8), wide=parallel((8, 8), 2, 5, 512)),
    ),
    "images": Preset(
        about="your own pictures at 64 x 64, 64 tokens of 512 symbols (72 bytes)",
        data=DataConfig("images", size=64),
        nets=Architecture(num_tokens=64, vocab_size=512, width=128, patches=(8, 8), trunk_layers=2, mlp_ratio=4,
                          encoder_kind="parallel", aligned=True, structure="lattice", decoder_kind="conv", hidden=(64,),
                          decoder_grid=(8, 8), norm="group", variance=(0.01, 1.0)),
        train=TrainConfig(steps=20_000, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods=local_methods((8, 8, 8), beta_last=0.05, wide=parallel((8, 8), 2, 5, 512)),
    ),
    "imagenet64": Preset(
        about="pictures at 64 x 64, 256 tokens of 1024 symbols (320 bytes); --data.path ImageNet or another folder",
        data=DataConfig("images", size=64),
        nets=Architecture(num_tokens=256, vocab_size=1024, width=128, patches=(16, 16), trunk_layers=2, mlp_ratio=4,
                          encoder_kind="parallel", aligned=True, structure="lattice", decoder_kind="conv", hidden=(64,),
                          decoder_grid=(16, 16), norm="group", variance=(0.01, 1.0)),
        train=TrainConfig(steps=20_000, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods=local_methods((4, 4, 4, 4, 4), beta_last=0.05, wide=parallel((16, 16), 2, 6, 1024)),
    ),
    "imagenet256": Preset(
        about="pictures at 256 x 256, 1024 tokens of 1024 symbols (1.28 kB); --data.path ImageNet or another folder",
        data=DataConfig("images", size=256),
        nets=Architecture(num_tokens=1024, vocab_size=1024, width=128, patches=(32, 32), trunk_layers=2, mlp_ratio=4,
                          encoder_kind="parallel", aligned=True, structure="lattice", decoder_kind="conv", hidden=(64,),
                          decoder_grid=(32, 32), norm="group", variance=(0.01, 1.0)),
        train=TrainConfig(steps=50_000, batch_size=8, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods=local_methods((4, 4, 4, 4, 4), beta_last=0.05, wide=parallel((32, 32), 2, 6, 1024)),
    ),
    "array": Preset(
        about="your own vectors from an .npy or .npz file, 8 tokens of 64 symbols (48 bits)",
        data=DataConfig("array"),
        nets=Architecture(num_tokens=8, vocab_size=64, width=64, patches=(8,), hidden=(128, 256), trunk_layers=2,
                          encoder_kind="parallel", aligned=True, structure="lattice", variance=(0.01, 1.0)),
        train=TrainConfig(steps=5_000, batch_size=128, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods={"daps": Variant(DAPSConfig(samples=16, trained=2, beta_first=2.0, beta_last=0.05, fullness=1.0)),
                 "gumbel": Variant(GumbelConfig(beta_first=2.0, beta_last=0.05, temperature_last=0.5)),
                 "grmck": Variant(GRMCKConfig(beta_first=2.0, beta_last=0.05, temperature_last=0.5)),
                 "vqvae": Variant(VQVAEConfig(dimension=8, own=True)),
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
                          encoder_kind="parallel", aligned=True, structure="lattice", decoder_kind="conv", hidden=(64,),
                          variance=(0.01, 1.0)),
        train=TrainConfig(steps=800, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.05),
        methods=local_methods((8, 8), samples=8, fullness=1.0, revival=0.0),
    ),
    "lafan1": Preset(
        about="LAFAN1 on the Unitree G1, 32 frames as 64 tokens of 1024 symbols (640 bits), tuned for time to quality",
        data=DataConfig("lafan1", scaling="spectral"),
        nets=Architecture(num_tokens=64, vocab_size=1024, width=128, patches=(64,), trunk_layers=2, mlp_ratio=4,
                          encoder_kind="parallel", aligned=True, structure="lattice", decoder_kind="conv",
                          hidden=(128,), decoder_layers=1, variance=(0.02, 1.0)),
        train=TrainConfig(steps=20_000, batch_size=32, optimizer="muon", learning_rate=3e-3, learning_rate_decay=0.1),
        methods=local_methods((4, 4, 4, 4, 4), wide=parallel((64,), 2, 6, 1024), fullness=1.0, revival=0.0),
    ),
}
# fmt: on
