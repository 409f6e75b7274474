"""Architectures: the paper's sizes, the parts that each setting builds, and every setting that cannot be."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from builders import SHAPES
from daps.architecture import Architecture
from daps.encoder import AutoregressiveEncoder, ParallelEncoder
from daps.methods.fsq import Lattice
from daps.presets import preset
from daps.presets.ours import OURS
from daps.quantiser import QuantisedEmbedding
from daps.scaling import Affine

SMALL = Architecture(num_tokens=4, vocab_size=3, width=8, heads=2, patches=(4,), hidden=(8,), data_shape=(12,))
IMAGE = dataclasses.replace(SMALL, patches=(2, 2), data_shape=(3, 8, 8))


def size(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "encoder", "decoder"),
    [
        ("mnist-paper", (1, 28, 28), 156_480, 267_344),
        ("cifar10-paper", (3, 32, 32), 1_060_992, 257_958),
        ("imagenet256-paper", (3, 256, 256), 1_211_008, 330_198),
    ],
)
def test_networks_have_the_papers_number_of_parameters(
    name: str, shape: tuple[int, ...], encoder: int, decoder: int
) -> None:
    nets = dataclasses.replace(preset(name).nets, data_shape=shape)
    assert size(nets.decoder()) == decoder
    assert size(nets.encoder()) == pytest.approx(encoder, rel=0.006)  # biases and the last normalisation differ


@pytest.mark.parametrize("name", OURS)
def test_methods_of_a_preset_have_as_many_parameters_as_daps(name: str) -> None:
    def sizes(method: str) -> tuple[int, int]:
        config = preset(name, method)
        nets = dataclasses.replace(config.nets, data_shape=SHAPES[name])
        model = config.method.build(nets, Affine(), 1)
        return size(model.encoder), size(model.decoder)

    ours = sizes("daps")
    for method in OURS[name].methods:
        encoder, decoder = sizes(method)
        assert encoder == pytest.approx(ours[0], rel=0.05), method
        assert decoder == pytest.approx(ours[1], rel=0.01), method


@pytest.mark.parametrize(
    ("shape", "patches", "tokens"),
    [((12,), (4,), 4), ((13,), (4,), 4), ((8, 3), (4,), 4), ((3, 8, 8), (2, 2), 4), ((1, 6, 4), (3, 1), 3)],
)
@pytest.mark.parametrize("kind", ["autoregressive", "parallel"])
def test_encoders_of_every_kind_of_data(
    shape: tuple[int, ...], patches: tuple[int, ...], tokens: int, kind: str
) -> None:
    nets = dataclasses.replace(SMALL, data_shape=shape, patches=patches, num_tokens=tokens, encoder_kind=kind)
    encoder = nets.encoder()
    assert isinstance(encoder, AutoregressiveEncoder if kind == "autoregressive" else ParallelEncoder)
    assert (encoder.num_tokens, encoder.vocab_size) == (tokens, 3)
    assert encoder.sample(torch.zeros(2, *shape), 5)[0].shape == (5, 2, tokens)


def test_an_autoregressive_encoder_needs_no_patch_per_token() -> None:
    nets = dataclasses.replace(SMALL, patches=(3,), num_tokens=5)
    assert nets.encoder().sample(torch.zeros(2, 12), 1)[0].shape == (1, 2, 5)


def test_a_decoder_takes_the_embedding_given() -> None:
    embedding = QuantisedEmbedding(Lattice((3,)), 8)
    assert SMALL.decoder(embedding).embedding is embedding


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": 0}, r"nets.num_tokens: must be >= 1, got 0; take a whole number above 0"),
        ({"width": 0}, r"nets.width: must be >= 1, got 0"),
        ({"heads": 0}, r"nets.heads: must be >= 1, got 0"),
        ({"mlp_ratio": -1}, r"nets.mlp_ratio: must be >= 1, got -1"),
        ({"patches": ()}, r"nets.patches: must be >= 1, got 0"),
        ({"patches": (2, 0)}, r"nets.patches: must be >= 1, got 0"),
        ({"hidden": (8, 0)}, r"nets.hidden: must be >= 1, got 0"),
        ({"vocab_size": 1}, r"nets.vocab_size: must be >= 2 to carry any bit, got 1"),
        ({"heads": 3}, r"nets.heads: must divide nets.width = 8, got 3; change either"),
    ],
)
def test_sizes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


PARALLEL = {"encoder_kind": "parallel"}
CONV = {"decoder_kind": "conv", "decoder_grid": (2, 2)}


@pytest.mark.parametrize(
    ("nets", "changes", "message"),
    [
        (IMAGE, {"patches": (4,)}, r"nets.patches: images want \(rows, columns\), .* got \(4,\) .* shape \[3, 8, 8\]"),
        (SMALL, {"patches": (2, 2)}, r"nets.patches: .* vectors and sequences one number; got \(2, 2\) .* \[12\]"),
        (IMAGE, {"patches": (3, 2)}, r"nets.patches: a 3 x 2 grid does not divide 8 x 8 pixels; choose divisors"),
        (SMALL, {"patches": (13,)}, r"nets.patches: a vector of 12 numbers makes 1 to 12 pieces, got 13; take fewer"),
        (SMALL, {"data_shape": (10, 2)}, r"nets.patches: 4 steps from 10: one must be a multiple of the other"),
        (
            SMALL,
            PARALLEL | {"num_tokens": 3},
            r"nets.patches: a parallel encoder needs one patch per token, got \(4,\)",
        ),
    ],
)
def test_encoders_that_cannot_be(nets: Architecture, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(nets, **changes).encoder()


@pytest.mark.parametrize(
    ("nets", "changes", "message"),
    [
        (SMALL, CONV, r"nets.decoder_kind: conv wants images or sequences and .* got data of shape \[12\]"),
        (IMAGE, CONV | {"hidden": (8, 8)}, r"nets.decoder_kind: conv wants .* nets.hidden = \(8, 8\)"),
        (IMAGE, CONV | {"decoder_grid": (2, 3)}, r"nets.decoder_grid: \(2, 3\) holds 6 tokens, but .* is 4"),
        (IMAGE, CONV | {"data_shape": (3, 6, 6)}, r"nets.decoder_grid: 6 x 6 pixels are not 2 x 2 tokens doubled"),
        (IMAGE, CONV | {"data_shape": (3, 2, 2)}, r"nets.decoder_grid: 2 x 2 pixels are not 2 x 2 tokens doubled"),
        (IMAGE, CONV | {"data_shape": (3, 8, 4)}, r"nets.decoder_grid: 8 x 4 pixels are not 2 x 2 tokens doubled"),
        (IMAGE, CONV | {"hidden": (1,)}, r"nets.hidden: 1 channels cannot be halved 1 times; take more channels"),
        (
            IMAGE,
            {"decoder_kind": "transformer"},
            r"nets.decoder_kind: transformer wants sequences \[F, C\], got .* mlp",
        ),
        (SMALL, {"variance": (1.0, 0.5)}, r"nets.variance: needs 0 < min <= max < inf, got \(1, 0.5\)"),
    ],
)
def test_decoders_that_cannot_be(nets: Architecture, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(nets, **changes).decoder()


def test_a_parallel_encoder_has_no_blocks() -> None:
    with pytest.raises(ValueError, match=r"nets\.block: a parallel encoder emits all tokens at once, got 2"):
        Architecture(encoder_kind="parallel", block=2)
