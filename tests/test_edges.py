"""Edges where something once broke: small scales, odd sizes, empty batches, values that JSON cannot hold."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from daps.architecture import Architecture
from daps.data import Dataset
from daps.evaluate import Protocol, evaluate
from daps.methods import DAPSConfig, FSQConfig
from daps.objective import policy_loss
from daps.scaling import Affine, statistics

VEC = Architecture(num_tokens=3, vocab_size=4, width=8, heads=2, patches=(3,), hidden=(8,), data_shape=(6,))
IMG = Architecture(num_tokens=4, vocab_size=3, width=8, heads=2, patches=(2, 2), hidden=(8,), data_shape=(1, 4, 4))


def test_small_pictures_give_valid_json() -> None:
    ds = Dataset(
        np.random.default_rng(0).integers(0, 255, (4, 1, 4, 4)).astype(np.uint8), "t", "validation", 255.0, "x"
    )
    json.dumps(evaluate(DAPSConfig().build(IMG, Affine(120.0, 50.0, 255.0), 1), ds, Protocol())[0], allow_nan=False)


def test_features_of_small_scale_are_standardised() -> None:
    assert statistics(np.random.default_rng(0).normal(size=(1000, 2)) * 1e-3)[1] == pytest.approx(1e-3, rel=0.1)


def test_an_encoder_without_token_layers_would_not_see_x() -> None:
    with pytest.raises(ValueError, match="nets.token_layers: must be >= 1"):
        dataclasses.replace(VEC, token_layers=0)


def test_twenty_hidden_channels() -> None:
    dataclasses.replace(IMG, decoder_kind="conv", decoder_grid=(2, 2), hidden=(20,)).decoder()


def test_one_sample_says_so() -> None:
    with pytest.raises(ValueError, match="method.samples: K must be at least 2, got 1"):
        DAPSConfig(samples=1)


@pytest.mark.parametrize("name", ["beta_first", "beta_last", "eta_first", "eta_learning_rate"])
def test_nan_settings(name: str) -> None:
    with pytest.raises(ValueError):
        DAPSConfig(**{name: math.nan})


def test_an_empty_batch() -> None:
    assert DAPSConfig().build(VEC, Affine(), 1).encode(torch.zeros(0, 6)).shape == (0, 3)


def test_fsq_in_double() -> None:
    model = FSQConfig((2, 2)).build(VEC, Affine(), 1).double()
    model.decode(model.encode(torch.zeros(2, 6)))


def test_nan_weights_have_nan_gradient() -> None:
    log_q = torch.zeros(2, 1, requires_grad=True)
    policy_loss(torch.full((2, 1), torch.nan), log_q).backward()
    assert log_q.grad.isnan().all()


def test_no_data_shape() -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(VEC, data_shape=()).encoder()


def test_float_codes() -> None:
    with pytest.raises(ValueError):
        DAPSConfig().build(VEC, Affine(), 1).decode(np.full((1, 3), 0.9))


@pytest.mark.parametrize("levels", [(), (1,), (8, 1), (1024,)])
def test_lattices_out_of_range(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"method.levels: needs one or more numbers in 2\.\.1000"):
        FSQConfig(levels)
