"""Decoders: codes and one-hots agree, every head has its shape, and stems cut and heads lay out as they say."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.decoder import Decoder
from daps.likelihood import BernoulliLikelihood
from daps.nn.image import ImageHead, ImagePatches
from daps.nn.sequence import SequenceHead, SequencePatches, VectorPatches, resample
from daps.symbols import TableEmbedding

BASE = Architecture(num_tokens=6, vocab_size=5, width=8, heads=2, hidden=(16,), decoder_layers=1)
SHAPES = {
    "mlp-vector": ("mlp", (7,)),
    "mlp-image": ("mlp", (3, 4, 5)),
    "mlp-sequence": ("mlp", (4, 3)),
    "conv-once": ("conv", (1, 4, 6)),
    "conv-thrice": ("conv", (3, 16, 24)),
    "transformer-same": ("transformer", (6, 2)),
    "transformer-up": ("transformer", (18, 2)),
    "transformer-down": ("transformer", (2, 3)),
}


@pytest.fixture(params=SHAPES)
def nets(request: pytest.FixtureRequest) -> Architecture:
    kind, shape = SHAPES[request.param]
    return dataclasses.replace(BASE, decoder_kind=kind, decoder_grid=(2, 3), data_shape=shape)


def build(nets: Architecture) -> Decoder:
    """A small decoder in float64."""
    torch.manual_seed(0)
    return nets.decoder().double()


@pytest.fixture
def codes() -> Tensor:
    return torch.randint(5, (3, 4, 6), generator=torch.Generator().manual_seed(0))


# -- the decoder's face ----------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_a_decoder_gives_a_distribution_over_data(nets: Architecture, codes: Tensor, likelihood: str) -> None:
    decoder = build(dataclasses.replace(nets, likelihood_kind=likelihood))
    for batch in (codes, codes[0], codes[None]):
        distribution = decoder(batch)
        assert distribution.batch_shape == batch.shape[:-1] and distribution.event_shape == nets.data_shape
        assert distribution.mean.shape == (*batch.shape[:-1], *nets.data_shape)
        assert distribution.log_prob(torch.ones(nets.data_shape).double()).shape == batch.shape[:-1]


def test_one_hots_are_their_codes(nets: Architecture, codes: Tensor) -> None:
    decoder = build(nets)
    hot = F.one_hot(codes, 5).double().requires_grad_()
    x = torch.randn(nets.data_shape, dtype=torch.float64)
    by_hot = decoder(hot)
    assert torch.equal(by_hot.mean, decoder(codes).mean)
    assert torch.equal(by_hot.variance, decoder(codes).variance)
    by_hot.log_prob(x).sum().backward()
    assert bool(hot.grad.isfinite().all()) and bool((hot.grad.abs().sum(-1) > 0).all())


def test_the_gradient_of_features_is_that_of_finite_differences(codes: Tensor) -> None:
    decoder = build(dataclasses.replace(BASE, data_shape=(3,)))
    features = torch.rand(1, 6, 5, dtype=torch.float64, requires_grad=True)
    x = torch.zeros(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: decoder(f).log_prob(x), features)


def test_a_table_mixes_its_rows() -> None:
    torch.manual_seed(0)
    table = TableEmbedding(4, 3)
    shares = torch.tensor([[0.0, 0.25, 0.75, 0.0]])
    torch.testing.assert_close(table(shares)[0], 0.25 * table.weight[1] + 0.75 * table.weight[2])
    assert torch.equal(table(torch.tensor([3, 0])), table.weight[[3, 0]])


def test_a_datum_does_not_see_its_batch(nets: Architecture, codes: Tensor) -> None:
    decoder = build(nets)
    together = decoder(codes).mean
    alone = torch.stack([decoder(codes[:, b]).mean for b in range(4)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


def test_every_token_of_a_code_matters(nets: Architecture, codes: Tensor) -> None:
    decoder = build(nets)
    for t in range(6):
        changed = codes.clone()
        changed[..., t] = (changed[..., t] + 1) % 5
        moved = (decoder(changed).mean - decoder(codes).mean).flatten(2).abs().amax(-1)
        assert bool((moved > 1e-9).all())


def test_any_network_serves(codes: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(6 * 2, 10))
    decoder = Decoder(TableEmbedding(5, 2), net, BernoulliLikelihood(), (2, 5))
    expected = net(decoder.embedding.weight[codes].flatten(0, 1)).sigmoid().view(3, 4, 2, 5)
    torch.testing.assert_close(decoder(codes).mean, expected)


# -- heads -----------------------------------------------------------------------------------------


def influence(module: nn.Module, x: Tensor, output: tuple[int | slice, ...]) -> Tensor:
    """How strongly each input of the first datum moves the chosen outputs."""
    x = x.clone().requires_grad_()
    module(x)[output].sum().backward()
    return x.grad[0].abs()


def test_the_image_head_lays_tokens_out_in_reading_order() -> None:
    torch.manual_seed(0)
    head = ImageHead((3, 4), (1, 12, 16), width=5, hidden=8, blocks=0, norm="batch").eval()
    tokens = torch.randn(1, 12, 5)
    corners = {(0, 0): 0, (0, 15): 3, (11, 0): 8, (11, 15): 11}
    for (row, column), token in corners.items():
        strength = influence(head, tokens, (0, 0, row, column)).sum(-1)
        assert strength[token] > 0
        assert all(strength[other] == 0 for other in corners.values() if other != token)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_image_head_halves_its_channels_but_for_the_last_doubling(norm: str) -> None:
    head = ImageHead((2, 2), (3, 16, 16), width=5, hidden=32, blocks=2, norm=norm)
    up = [m for m in head.layers if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in up] == [(32, 16), (16, 8), (8, 3)]
    assert head(torch.randn(2, 4, 5)).shape == (2, 3, 16, 16)


def test_the_sequence_head_keeps_the_order_of_time_and_of_channels() -> None:
    torch.manual_seed(0)
    head = SequenceHead(4, (8, 3), numbers=2, width=6, layers=0, heads=2, mlp_ratio=2)
    tokens = torch.randn(1, 4, 6)
    assert head(tokens).shape == (1, 2, 8, 3)
    for frame in range(8):
        strength = influence(head, tokens, (0, 0, frame)).sum(-1)
        assert strength[frame // 2] > 0 and bool((strength[frame // 2 + 2 :] == 0).all())
    raw = head.convolution(head.norm(tokens + head.positions).transpose(1, 2))
    for number, channel in itertools.product(range(2), range(3)):
        torch.testing.assert_close(head(tokens)[0, number, :, channel], raw[0, 3 * number + channel])


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("up", [True, False])
def test_resample_keeps_time_in_place(factor: int, up: bool) -> None:
    torch.manual_seed(0)
    short, long = 6, 6 * factor
    length, new_length = (short, long) if up else (long, short)
    module = resample(2, 3, length, new_length)
    x = torch.randn(1, 2, length)
    assert module(x).shape == (1, 3, new_length)
    reach = torch.stack([influence(module, x, (0, slice(None), i)).sum(0) > 0 for i in range(new_length)])
    assert bool(reach.any(0).all())  # no input is lost
    for i in range(new_length):
        own = slice(i // factor, i // factor + 1) if up else slice(i * factor, (i + 1) * factor)
        assert bool(reach[i, own].all())
        near = 1 if up else factor
        assert not bool(reach[i, own.stop + near :].any() or reach[i, : max(own.start - near, 0)].any())


def test_resample_by_no_whole_factor() -> None:
    with pytest.raises(ValueError, match="nets.patches: 6 steps from 4: one must be a multiple of the other"):
        resample(2, 3, 4, 6)


# -- stems -----------------------------------------------------------------------------------------


def exposed(stem: ImagePatches | VectorPatches) -> nn.Module:
    """The stem with the identity for its linear map, so that it gives the patches themselves."""
    with torch.no_grad():
        stem.project.weight.copy_(torch.eye(stem.project.in_features))
    return stem


@pytest.mark.parametrize(("shape", "grid"), [((1, 4, 4), (2, 2)), ((3, 6, 8), (3, 2)), ((2, 5, 6), (1, 6))])
def test_image_patches_are_those_of_unfold(shape: tuple[int, int, int], grid: tuple[int, int]) -> None:
    size = (shape[1] // grid[0], shape[2] // grid[1])
    stem = exposed(ImagePatches(shape, grid, width=shape[0] * size[0] * size[1]))
    x = torch.randn(2, *shape)
    assert torch.equal(stem(x), nn.Unfold(size, stride=size)(x).transpose(1, 2))


def test_vector_patches_are_pieces_with_zeros_at_the_end() -> None:
    stem = exposed(VectorPatches(7, 3, width=3))
    expected = torch.tensor([[[1.0, 2, 3], [4, 5, 6], [7, 0, 0]]])
    assert torch.equal(stem(torch.arange(1.0, 8)[None]), expected)


@pytest.mark.parametrize("frames", [4, 8, 12, 2])
def test_sequence_patches_are_a_convolution_over_time(frames: int) -> None:
    stem = SequencePatches(frames, 3, steps=4, width=5)
    x = torch.randn(2, frames, 3)
    assert stem(x).shape == (2, 4, 5)
    torch.testing.assert_close(stem(x)[1, :, 2], stem.convolution(x[1:].mT)[0, 2])


def test_log_p_of_a_gaussian_head_by_hand() -> None:
    decoder = build(dataclasses.replace(BASE, data_shape=(2, 3), variance=(0.25, 0.25)))
    codes = torch.zeros(1, 6, dtype=torch.long)
    x = torch.ones(2, 3, dtype=torch.float64)
    distance = float(((decoder(codes).mean[0] - x) ** 2).sum().detach())
    expected = -0.5 * distance / 0.25 - 6 * 0.5 * math.log(2 * math.pi * 0.25)
    assert decoder(codes).log_prob(x).item() == pytest.approx(expected, rel=1e-12)
