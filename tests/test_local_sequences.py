"""Convolutional decoders of sequences: how far a token reaches, and the credit that this allows."""

import dataclasses

import pytest
import torch

from builders import normal
from daps.architecture import Architecture
from daps.credit import LocalCredit, Reach, value_log_prob
from daps.decoder import Decoder
from daps.methods import DAPSConfig
from daps.scaling import Affine
from daps.search import improve

NETS = Architecture(
    num_tokens=12,
    vocab_size=4,
    width=8,
    heads=2,
    patches=(12,),
    encoder_kind="parallel",
    decoder_kind="conv",
    hidden=(6,),
    decoder_layers=1,
    variance=(0.1, 1.0),
    data_shape=(24, 3),
)


def decoder(frames: int = 24, layers: int = 1) -> Decoder:
    torch.manual_seed(0)
    return dataclasses.replace(NETS, data_shape=(frames, 3), decoder_layers=layers).decoder().double()


@pytest.mark.parametrize("frames", [6, 12, 24])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_token_reaches_only_what_is_near(frames: int, layers: int) -> None:
    """Each block widens the reach by one token, the last convolution by one more."""
    net = decoder(frames, layers)
    codes = torch.zeros(1, 12, dtype=torch.long)
    before = net(codes).mean
    for token in range(12):
        changed = codes.clone()
        changed[0, token] = 3
        moved = (net(changed).mean != before).any(-1)[0].nonzero().flatten().double()
        place = (moved + 0.5) * 12 / frames - 0.5  # of a frame, in tokens
        assert len(moved) and (place - token).abs().max() <= layers + 1.5
    assert net.grid == (12,)


@pytest.mark.parametrize("frames", [6, 12, 24])
def test_cells_hold_all_of_log_p(frames: int) -> None:
    """A token has its own frames, or an equal share of a frame that several have."""
    values = normal(2, 3, frames, 5)
    cells = Reach(12, (12,), 1).cells(values)
    per_frame = values.sum(-1)
    shares = per_frame.view(2, 3, 12, -1).sum(-1) if frames >= 12 else per_frame.repeat_interleave(2, -1) / 2
    torch.testing.assert_close(cells, shares)
    torch.testing.assert_close(cells.sum(-1), values.sum((2, 3)))


def test_local_credit_leaves_out_only_what_a_token_does_not_change() -> None:
    """With a radius over the whole reach, returns of two codes that differ in one token differ as log p does."""
    net, y = decoder(), normal(1, 24, 3)
    first = torch.zeros(1, 1, 12, dtype=torch.long)
    second = first.clone()
    second[..., 5] = 2
    credit = LocalCredit(Reach(12, net.grid, 3), tail=0.0).double()
    log_q = torch.zeros(2, 1, 12)
    distribution = net(torch.cat((first, second)))
    log_p, returns = credit(distribution, y, log_q)
    difference = returns.reward[1, 0] - returns.reward[0, 0]
    torch.testing.assert_close(difference[5], (log_p[1] - log_p[0])[0].detach())
    far = value_log_prob(distribution, y)[1] - value_log_prob(distribution, y)[0]
    assert far[0, 18:].abs().max() == 0 and difference[11] == 0  # what token 11 answers for did not move


def test_search_finds_better_codes() -> None:
    net, y = decoder(), normal(4, 24, 3)
    codes = torch.zeros(1, 4, 12, dtype=torch.long)
    better = improve(net, y, codes, sweeps=2)
    before, after = (net(c).log_prob(y) for c in (codes, better))
    assert (after >= before).all() and (after > before).any()


@pytest.mark.parametrize("frames", [6, 24])
def test_daps_trains_on_local_sequences(frames: int) -> None:
    torch.manual_seed(0)
    nets = dataclasses.replace(NETS, data_shape=(frames, 3))
    model = DAPSConfig(samples=4, trained=1, credit="local", reach=1).build(nets, Affine(), 10)
    loss, metrics = model(torch.randn(5, frames, 3), 0)
    loss.backward()
    assert loss.isfinite() and {"log_p", "ess"} <= metrics.keys()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
