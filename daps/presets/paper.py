"""The paper's presets (DAPS, ICLR 2026, appendix, and the settings that its code ships).

"-na" (non-autoregressive) are the parallel encoders. Where the code ships several end values of beta we take the one of
the published table, 0.01. PPO has rows for MNIST alone: the code ships no working ones for other data. Its baseline
learns at the rate of the networks, where theirs has 1e-4.
"""

from daps.architecture import Architecture
from daps.config import DataConfig, TrainConfig
from daps.methods import DAPSConfig, FSQConfig, GRMCKConfig, GumbelConfig, PPOConfig, VQVAEConfig
from daps.presets.row import Preset, Variant, parallel

COSINE = {"learning_rate": 1e-4, "learning_rate_decay": 0.1}


def per_value(numbers: int) -> dict[str, float]:
    """What makes the clipping theirs where they divide the loss by the numbers of a datum: adaptive clipping at 1 of
    that is clipping at N of ours, and AdamW does not see a factor."""
    return {"clip": float(numbers)}


def vqvae(commitment: float, width: int) -> VQVAEConfig:
    """Their codebook: a table as embeddings begin, learned and decayed like any weight."""
    return VQVAEConfig(
        commitment=commitment, codebook="gradient", from_data=False, spread=width**-0.5, decayed=True, revival=0.0
    )


# fmt: off
PAPER: dict[str, Preset] = {
    "mnist-paper": Preset(
        about="MNIST, binarised, 8 tokens of 256 symbols (64 bits), as in the paper",
        data=DataConfig("mnist", scaling="binarise"),
        nets=Architecture(num_tokens=8, vocab_size=256, width=64, patches=(2, 4), hidden=(64, 256),
                          likelihood_kind="bernoulli"),
        train=TrainConfig(steps=250_000, batch_size=256),
        methods={"daps": Variant(DAPSConfig(beta_first=0.5, beta_last=0.01, ess_fraction=0.33, eta="gradient")),
                 "daps-na": Variant(DAPSConfig(beta_first=0.5, beta_last=0.01, ess_fraction=0.5, eta="gradient"),
                                    parallel((2, 4), 2, 6, 256)),
                 "gumbel": Variant(GumbelConfig(beta_first=0.5, beta_last=0.01)),
                 "gumbel-na": Variant(GumbelConfig(beta_first=0.5, beta_last=0.01, temperature_last=0.1),
                                      parallel((2, 4), 2, 6, 256)),
                 "grmck": Variant(GRMCKConfig(beta_first=0.5, beta_last=0.01, temperature_last=0.75,
                                              inner_samples=100)),
                 "ppo": Variant(PPOConfig(samples=1, updates=1, lag=True, clip=0.2, ratio="sequence",
                                          baseline="learned", normalised=False, kl_target=0.05, beta_first=1.0,
                                          beta_last=0.01)),
                 "vqvae": Variant(vqvae(0.25, 64), parallel((2, 4), 2, 7, 256), per_value(784)),
                 "fsq": Variant(FSQConfig((8, 6, 5)), parallel((2, 4), 2, 7, 240), per_value(784))},
    ),
    "cifar10-paper": Preset(
        about="CIFAR-10, 64 tokens of 512 symbols (576 bits), as in the paper",
        data=DataConfig("cifar10"),
        nets=Architecture(num_tokens=64, vocab_size=512, width=128, patches=(8, 8), trunk_layers=2, token_layers=2,
                          decoder_kind="conv", hidden=(64,), decoder_grid=(8, 8), norm="batch",
                          variance=(1e-3, 4.0)),
        train=TrainConfig(steps=250_000, batch_size=256),
        methods={"daps": Variant(DAPSConfig(beta_first=6.0, beta_last=0.01, ess_fraction=0.33, eta="gradient")),
                 "daps-na": Variant(DAPSConfig(beta_first=6.0, beta_last=0.01, ess_fraction=0.33, eta="gradient"),
                                    parallel((8, 8), 4, 6, 512)),
                 "gumbel": Variant(GumbelConfig(beta_first=6.0, beta_last=0.01), train=COSINE),
                 "gumbel-na": Variant(GumbelConfig(beta_first=6.0, beta_last=0.01, temperature_last=0.1),
                                      parallel((8, 8), 4, 6, 512)),
                 "grmck": Variant(GRMCKConfig(beta_first=3.0, beta_last=0.01, temperature_last=0.75,
                                              inner_samples=100)),
                 "vqvae": Variant(vqvae(0.25, 128), parallel((8, 8), 4, 6, 512), per_value(3072)),
                 "fsq": Variant(FSQConfig((8, 8, 8)), parallel((8, 8), 4, 6, 512), per_value(3072))},
    ),
    "lafan1-paper": Preset(
        about="LAFAN1 on the Unitree G1, 32 frames as 64 tokens of 1024 symbols (640 bits), as in the paper",
        data=DataConfig("lafan1"),
        nets=Architecture(num_tokens=64, vocab_size=1024, width=128, patches=(64,), trunk_layers=2, token_layers=2,
                          decoder_kind="transformer", variance=(0.25, 0.25)),
        train=TrainConfig(steps=250_000, batch_size=256),
        methods={"daps": Variant(DAPSConfig(beta_first=3.0, beta_last=0.01, ess_fraction=0.33, eta="gradient")),
                 "daps-na": Variant(DAPSConfig(beta_first=1.0, beta_last=0.01, ess_fraction=0.33, eta="gradient"),
                                    parallel((64,), 6, 4, 1024)),
                 "gumbel": Variant(GumbelConfig(beta_first=2.0, beta_last=0.01), train=COSINE),
                 "gumbel-na": Variant(GumbelConfig(beta_first=3.0, beta_last=0.01, temperature_last=0.75),
                                      parallel((64,), 6, 4, 1024)),
                 "grmck": Variant(GRMCKConfig(beta_first=2.0, beta_last=0.01, inner_samples=10), train=COSINE),
                 "vqvae": Variant(vqvae(0.5, 128), parallel((64,), 6, 4, 1024), per_value(1152)),
                 "fsq": Variant(FSQConfig((10, 10, 10)), parallel((64,), 6, 4, 1000), per_value(1152))},
    ),
    "imagenet256-paper": Preset(
        about="pictures at 256 x 256, 1024 tokens of 1024 symbols (1.28 kB), as in the paper; --data.path ImageNet",
        data=DataConfig("images", size=256),
        nets=Architecture(num_tokens=1024, vocab_size=1024, width=128, patches=(32, 32), trunk_layers=2,
                          token_layers=2, decoder_kind="conv", hidden=(64,), decoder_grid=(32, 32), norm="batch",
                          variance=(0.01, 1.0)),
        train=TrainConfig(steps=300_000, batch_size=64),
        methods={"daps": Variant(DAPSConfig(beta_first=50.0, beta_last=1.0, ess_fraction=0.25, eta="gradient")),
                 "daps-na": Variant(DAPSConfig(beta_first=50.0, beta_last=1.0, ess_fraction=0.25, eta="gradient"),
                                    parallel((32, 32), 6, 4, 1024)),
                 "gumbel": Variant(GumbelConfig(beta_first=50.0, beta_last=1.0, temperature_last=0.75),
                                   train={"learning_rate": 1e-4}),
                 "gumbel-na": Variant(GumbelConfig(beta_first=50.0, beta_last=1.0, temperature_last=0.1),
                                      parallel((32, 32), 6, 4, 1024)),
                 "grmck": Variant(GRMCKConfig(beta_first=10.0, beta_last=1.0, temperature_last=0.75,
                                              inner_samples=10), train={"learning_rate": 1e-4}),
                 "vqvae": Variant(vqvae(0.25, 128), parallel((32, 32), 6, 4, 1024), per_value(196608)),
                 "fsq": Variant(FSQConfig((8, 5, 5, 5)), parallel((32, 32), 6, 4, 1000), per_value(196608))},
    ),
}
# fmt: on
