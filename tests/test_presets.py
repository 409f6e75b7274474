"""Settings: JSON and back, the paper's table, and what contradicts itself."""

import dataclasses
import json
import math

import pytest
import torch

from builders import SHAPES
from daps.config import Config
from daps.methods import METHODS, FSQConfig, PPOConfig, VQVAEConfig
from daps.presets import PRESETS, preset
from daps.scaling import Affine, Threshold
from daps.train import Trainer

PAIRS = [(name, method) for name, row in PRESETS.items() for method in row.methods]


def with_shape(config: Config, shape: tuple[int, ...]) -> Config:
    return dataclasses.replace(config, nets=dataclasses.replace(config.nets, data_shape=shape))


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_config_survives_json(name: str, method: str) -> None:
    config = with_shape(preset(name, method), SHAPES[name])
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.method_name == method.removesuffix("-na")


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_every_preset_takes_a_step_and_encodes(name: str, method: str) -> None:
    shape = SHAPES[name]
    config = with_shape(preset(name, method), shape)
    batch = 2 if config.nets.num_tokens <= 256 else 1  # as little as shows the same
    model = config.build(config.scaling((torch.zeros(()), torch.ones(())), 1.0))
    x = torch.rand(batch, *shape)
    loss, metrics = model(x, 0)
    loss.backward()
    assert torch.isfinite(loss) and all(math.isfinite(float(value)) for value in metrics.values())
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    model.eval()
    codes = model.encode(x)
    assert codes.shape == (batch, model.num_tokens) and int(codes.max()) < model.vocab_size
    assert model.decode(codes).mean.shape == (batch, *shape)


@pytest.mark.parametrize(
    ("name", "tokens", "vocab", "first", "last", "ess", "batch", "steps"),
    [
        ("mnist-paper", 8, 256, 0.5, 0.01, 0.33, 256, 250_000),
        ("cifar10-paper", 64, 512, 6.0, 0.01, 0.33, 256, 250_000),
        ("lafan1-paper", 64, 1024, 3.0, 0.01, 0.33, 256, 250_000),
        ("imagenet256-paper", 1024, 1024, 50.0, 1.0, 0.25, 64, 300_000),
    ],
)
def test_presets_carry_the_papers_values(
    name: str, tokens: int, vocab: int, first: float, last: float, ess: float, batch: int, steps: int
) -> None:
    config = preset(name)
    settings = dataclasses.asdict(config.method)
    assert (config.nets.num_tokens, config.nets.vocab_size) == (tokens, vocab)
    assert (settings["beta_first"], settings["beta_last"], settings["ess_fraction"]) == (first, last, ess)
    assert (config.train.batch_size, config.train.steps, config.train.learning_rate) == (batch, steps, 3e-4)
    assert settings["samples"] == 8 and config.train.weight_decay == 1e-4 and config.train.clip == 1.0


@pytest.mark.parametrize(
    ("name", "method", "betas", "temperatures", "inner"),
    [
        ("mnist-paper", "gumbel", (0.5, 0.01), (1.0, 1.0), None),
        ("mnist-paper", "grmck", (0.5, 0.01), (1.0, 0.75), 100),
        ("cifar10-paper", "gumbel", (6.0, 0.01), (1.0, 1.0), None),
        ("cifar10-paper", "grmck", (3.0, 0.01), (1.0, 0.75), 100),
    ],
)
def test_gumbel_rows_carry_the_papers_values(
    name: str, method: str, betas: tuple[float, float], temperatures: tuple[float, float], inner: int | None
) -> None:
    config = preset(name, method)
    found = dataclasses.asdict(config.method)
    assert (found["beta_first"], found["beta_last"]) == betas
    assert (found["temperature_first"], found["temperature_last"]) == temperatures
    assert found.get("inner_samples") == inner and found["samples"] == 1
    assert config.nets.encoder_kind == "autoregressive" and found["through_inputs"]
    slow = (name, method) == ("cifar10-paper", "gumbel")
    rates = config.train.learning_rate, config.train.learning_rate_decay
    assert rates == ((1e-4, 0.1) if slow else (3e-4, 1.0)) and config.train.optimizer == "adamw"


@pytest.mark.parametrize(
    ("name", "numbers", "commitment", "levels", "layers", "ratios"),
    [
        ("mnist-paper", 28 * 28, 0.25, (8, 6, 5), 2, (7, 6)),
        ("cifar10-paper", 3 * 32 * 32, 0.25, (8, 8, 8), 4, (6, 6)),
        ("lafan1-paper", 32 * 36, 0.5, (10, 10, 10), 6, (4, 4)),
        ("imagenet256-paper", 3 * 256 * 256, 0.25, (8, 5, 5, 5), 6, (4, 4)),
    ],
)
def test_rows_with_parallel_encoders_carry_the_papers_values(
    name: str, numbers: int, commitment: float, levels: tuple[int, ...], layers: int, ratios: tuple[int, int]
) -> None:
    """Where the authors divide the loss by the numbers of a datum, clipping at 1 of theirs is at N of ours."""
    for method in ("fsq", "vqvae", "daps-na", "gumbel-na"):
        config = preset(name, method)
        nets, quantised = config.nets, method in ("fsq", "vqvae")
        assert (nets.encoder_kind, nets.trunk_layers) == ("parallel", layers)
        assert nets.mlp_ratio == ratios[0 if quantised else 1] and nets.structure == "free" and not nets.aligned
        assert config.train.clip == (numbers if quantised else 1.0) and config.train.optimizer == "adamw"
    assert preset(name, "fsq").method == FSQConfig(levels)
    vqvae = preset(name, "vqvae").method
    assert isinstance(vqvae, VQVAEConfig) and vqvae.commitment == commitment and vqvae.codebook == "gradient"
    assert vqvae.spread == pytest.approx(preset(name).nets.width ** -0.5) and vqvae.decayed and not vqvae.from_data
    assert (vqvae.revival, vqvae.dimension, vqvae.own) == (0.0, 0, False)


def test_the_row_of_ppo_carries_the_authors_values() -> None:
    ppo = preset("mnist-paper", "ppo").method
    assert isinstance(ppo, PPOConfig)
    assert (ppo.samples, ppo.updates, ppo.lag, ppo.clip, ppo.ratio) == (1, 1, True, 0.2, "sequence")
    assert (ppo.baseline, ppo.normalised, ppo.kl_target, ppo.kl_price) == ("learned", False, 0.05, 10.0)
    assert (ppo.beta_first, ppo.beta_last) == (1.0, 0.01)


GOLDEN = {
    ("mnist-paper", "daps", "solve"): [610.6458740234375, 606.8741455078125, 605.5239868164062],
    ("mnist-paper", "daps", "gradient"): [639.1109008789062, 634.5592651367188, 631.6670532226562],
    ("cifar10-paper", "daps", "solve"): [43349.3984375, 39961.578125, 36942.60546875],
    ("mnist-paper", "fsq", ""): [554.694091796875, 549.0806274414062, 550.35009765625],
}


@pytest.mark.parametrize(("name", "method", "eta"), GOLDEN)
def test_the_paper_presets_train_as_they_did(name: str, method: str, eta: str) -> None:
    """Losses of three steps, recorded before the options of docs/learning.md existed (commit 44972d3)."""
    config = with_shape(preset(name, method), SHAPES[name])
    config = dataclasses.replace(
        config,
        method=dataclasses.replace(config.method, **({"eta": eta} if eta else {})),
        train=dataclasses.replace(config.train, batch_size=8, clip=1.0),  # as it was then
    )
    torch.manual_seed(0)
    binary = config.data.scaling == "binarise"
    model = config.build(Threshold(255.0) if binary else Affine())
    (optimizer,) = Trainer(config, model).optimizers
    generator, losses = torch.Generator().manual_seed(1), []
    for step in range(3):
        shape = (8, *SHAPES[name])
        x = torch.rand(shape, generator=generator) * 255 if binary else torch.randn(shape, generator=generator)
        optimizer.zero_grad()
        torch.manual_seed(step)
        loss, _ = model.train()(x, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(GOLDEN[name, method, eta], rel=1e-4)  # other machines multiply in other orders


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"), [("mnist-paper", 156_480, 267_344), ("cifar10-paper", 1_060_992, 257_958)]
)
def test_parameters_are_as_many_as_the_papers(name: str, encoder: int, decoder: int) -> None:
    """The decoder's exactly; the encoder's within one per cent (the start symbol has a row of its own here)."""
    nets = with_shape(preset(name), SHAPES[name]).nets
    assert sum(p.numel() for p in nets.decoder().parameters()) == decoder
    assert sum(p.numel() for p in nets.encoder().parameters()) == pytest.approx(encoder, rel=0.01)


def test_scaling_follows_the_data_settings() -> None:
    assert isinstance(preset("mnist").scaling((0.0, 1.0), 255.0), Threshold)
    affine = preset("cifar10").scaling((torch.tensor(3.0), torch.tensor(2.0)), 255.0)
    assert isinstance(affine, Affine) and float(affine.peak) == 255.0


def broken(change: dict[str, object]) -> dict[str, object]:
    settings = preset("digits").to_dict()
    for key, value in change.items():
        group, _, name = key.partition(".")
        if name:
            settings[group] = {**settings[group], name: value}
        else:
            settings[group] = value
    return settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "reads run format 2, the folder has 99"),
        ({"format": None}, "the folder has None"),
        ({"method_name": "magic"}, f"must be one of {', '.join(METHODS)}, got 'magic'"),
        ({"nets.depth": 3}, "unknown or missing setting.*depth"),
        ({"nets.width": 0}, "nets.width: must be >= 1, got 0"),
        ({"method.samples": 0}, "method.samples: K must be at least 2, got 0"),
        ({"train.steps": -1}, "train.steps: must be > 0 and finite, got -1"),
        ({"train.learning_rate": float("nan")}, "train.learning_rate: must be > 0 and finite, got nan"),
        ({"train.learning_rate": float("inf")}, "train.learning_rate: must be > 0 and finite, got inf"),
        ({"train.seed": 2**63}, "seed in 0"),
        ({"nets.likelihood_kind": "bernoulli"}, "bernoulli wants values of 0 and 1, but data.scaling is standardise"),
        ({"train": None}, "unknown or missing setting"),
        ({"method_name": ["daps"]}, "must be one of"),
    ],
)
def test_broken_settings_are_told(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.from_dict(broken(change))


@pytest.mark.parametrize("settings", [[1], None, "x", 3])
def test_settings_that_are_none_are_told(settings: object) -> None:
    with pytest.raises(ValueError, match="the folder has None"):
        Config.from_dict(settings)


def test_a_setting_younger_than_the_file_takes_its_default() -> None:
    settings = preset("digits").to_dict()
    for group, name in (("method", "decoder_samples"), ("train", "muon_iterations")):
        settings[group] = {key: value for key, value in settings[group].items() if key != name}
    assert Config.from_dict(settings) == preset("digits")
    del settings["method"]
    with pytest.raises(ValueError, match="unknown or missing setting .*method"):
        Config.from_dict(settings)


def test_missing_group_is_told() -> None:
    settings = preset("digits").to_dict()
    del settings["nets"]
    with pytest.raises(ValueError, match="unknown or missing setting"):
        Config.from_dict(settings)


def test_a_model_needs_the_shape_of_its_data() -> None:
    with pytest.raises(ValueError, match="nets.data_shape: must be"):
        preset("digits").build(Affine())
