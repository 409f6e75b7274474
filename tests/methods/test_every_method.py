"""What every method promises, on every preset that has it. A method comes here by METHODS and the presets' rows."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import daps
from daps.architecture import Architecture
from daps.config import Config
from daps.data import Dataset
from daps.methods import METHODS, Autoencoder
from daps.presets import PRESETS, preset
from daps.run import Run, write_json
from daps.scaling import Threshold
from daps.train import Trainer, build_model, resolve

MANY = 256  # tokens; presets of more have the methods of smaller ones, and tests/test_presets.py takes a step of each
PAIRS = [(name, method) for name, row in PRESETS.items() for method in row.methods if row.nets.num_tokens <= MANY]
BATCH, EVERY = 4, pytest.mark.parametrize(("name", "method"), PAIRS)


def shape_of(nets: Architecture) -> tuple[int, ...]:
    """The smallest data that the networks of a preset take."""
    if len(nets.patches) == 2:
        rows, columns = nets.patches
        return (3 if nets.decoder_kind == "conv" else 1, 2 * rows, 2 * columns)
    return (nets.patches[0] + 3,) if nets.decoder_kind == "mlp" else (2 * nets.patches[0], 3)


def shrunk(name: str, method: str) -> tuple[Config, Dataset]:
    """A preset with narrow networks, and some data of its kind; tokens and symbols are the preset's."""
    config = preset(name, method)
    values = np.random.default_rng(0).integers(0, 256, (12, *shape_of(config.nets))).astype(np.uint8)
    config = dataclasses.replace(
        config,
        nets=dataclasses.replace(config.nets, width=8, heads=2, hidden=(8,), mlp_ratio=2, trunk_layers=1),
        train=dataclasses.replace(config.train, steps=6, batch_size=BATCH),
    )
    return config, Dataset(values, config.data.name, "train", 255.0, "random numbers")


def trainer(name: str, method: str) -> tuple[Trainer, Dataset]:
    """At the first step."""
    config, data = shrunk(name, method)
    config = resolve(config, data)
    loop = Trainer(config, build_model(config, data))
    loop.model.train()
    return loop, data


def trained(name: str, method: str, steps: int) -> tuple[Autoencoder, Tensor]:
    """A model after some steps, ready for use, and data."""
    loop, data = trainer(name, method)
    for _ in range(steps):
        loop.advance(data)
    return loop.model.eval(), torch.as_tensor(data[np.arange(BATCH)])


def test_every_method_has_a_row_for_the_digits() -> None:
    assert PRESETS["digits"].methods.keys() == METHODS.keys()


@EVERY
def test_losses_are_finite_and_every_trained_parameter_has_a_gradient(name: str, method: str) -> None:
    loop, data = trainer(name, method)
    for step in range(2):
        before = {n: p.detach().clone() for n, p in loop.model.named_parameters() if p.requires_grad}
        loop.advance(data)
        assert loop.skipped == 0, step
        for parameter, value in loop.model.named_parameters():
            if value.requires_grad:
                gradient = value.grad
                assert gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()), parameter
                assert not torch.equal(before[parameter], value), parameter
    row = loop.row()
    assert {"loss", "log_p", "kl", "elbo", "bits"} <= row.keys()
    assert all(math.isfinite(figure) for figure in row.values())
    assert row["elbo"] == pytest.approx(row["log_p"] - row["kl"], rel=1e-5, abs=1e-3)
    assert -1e-3 <= row["bits"] <= loop.model.bits + 1e-3
    assert -1e-3 <= row["kl"] <= loop.model.bits * math.log(2) + 1e-3
    assert loop.config.method.targets.keys() <= row.keys()


@EVERY
def test_codes_are_in_range_and_decode(name: str, method: str) -> None:
    model, x = trained(name, method, 2)
    codes = model.encode(x)
    assert codes.shape == (BATCH, model.num_tokens) and not codes.is_floating_point()
    assert 0 <= int(codes.min()) <= int(codes.max()) < model.vocab_size
    assert torch.equal(codes, model.encode(x.numpy()))
    drawn = model.encode(x, 1.0, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, model.encode(x, 1.0, torch.Generator().manual_seed(3)))
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < model.vocab_size
    decoded = model.decode(codes)
    assert decoded.mean.shape == (BATCH, *model.data_shape) and bool(decoded.mean.isfinite().all())
    log_p = decoded.log_prob(x)
    assert log_p.shape == (BATCH,) and bool(log_p.isfinite().all())
    with torch.no_grad():
        log_q = model.encoder.log_prob(model.scaling(x), drawn.unsqueeze(0))
    assert log_q.shape == (1, BATCH, model.num_tokens) and bool((log_q <= 1e-6).all()) and bool(log_q.isfinite().all())


@pytest.mark.parametrize("method", METHODS)
def test_search_never_lowers_the_likelihood(method: str) -> None:
    model, x = trained("digits", method, 2)
    codes = model.encode(x)
    better = model.encode(x, effort=1)
    change = model.decode(better).log_prob(x) - model.decode(codes).log_prob(x)
    assert bool((change >= -1e-4).all()) and bool(change.any())


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@EVERY
def test_a_saved_model_is_the_same_model(name: str, method: str, tmp_path: Path) -> None:
    loop, data = trainer(name, method)
    for _ in range(2):
        loop.advance(data)
    run = Run(tmp_path)
    write_json(run.config_path, loop.config.to_dict())
    loop.save(run)
    model, loaded, x = loop.result.eval(), daps.load(tmp_path), torch.as_tensor(data[np.arange(BATCH)])
    assert type(loaded) is type(model) and same(loaded.state_dict(), model.state_dict())
    codes = model.encode(x)
    assert torch.equal(loaded.encode(x), codes)
    assert torch.equal(loaded.decode(codes).mean, model.decode(codes).mean)


@EVERY
def test_a_resumed_training_is_the_same_training(name: str, method: str, tmp_path: Path) -> None:
    whole, data = trainer(name, method)
    parts, _ = trainer(name, method)
    for step in range(4):
        whole.advance(data)
        if step == 1:
            whole.save(Run(tmp_path))
    assert parts.restore(Run(tmp_path)) and parts.step == 2
    for _ in range(2):
        parts.advance(data)
    assert same(parts.model.state_dict(), whole.model.state_dict())
    for one, other in zip(parts.optimizers, whole.optimizers, strict=True):
        states = one.state_dict()["state"], other.state_dict()["state"]
        assert states[0].keys() == states[1].keys() and all(same(states[0][i], states[1][i]) for i in states[0])
    assert {k: v for k, v in parts.row().items() if "seconds" not in k and k != "peak_mb"} == {
        k: v for k, v in whole.row().items() if "seconds" not in k and k != "peak_mb"
    }


@EVERY
@pytest.mark.parametrize("where", ["loss", "data"])
def test_a_step_without_a_finite_gradient_changes_nothing(
    name: str, method: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, data = trainer(name, method)
    if where == "data" and isinstance(loop.model.scaling, Threshold):
        pytest.skip("a threshold makes every value finite")
    forward, spoil = type(loop.model).forward, False

    def spoiled(self: Autoencoder, x: Tensor, step: int) -> tuple[Tensor, dict[str, Any]]:
        bad = math.nan if spoil else 1.0
        loss, metrics = forward(self, x.float() * bad if where == "data" else x, step)
        return loss * bad if where == "loss" else loss, metrics

    monkeypatch.setattr(type(loop.model), "forward", spoiled)
    for spoil in (False, True):
        before = {key: value.clone() for key, value in loop.model.state_dict().items()}
        loop.advance(data)
        assert same(before, loop.model.state_dict()) == spoil
    assert loop.skipped == 1
