"""encode(x, effort): better codes for more time, with every method that has a decoder of ours."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.methods import DAPS, METHODS, Autoencoder, DAPSConfig, FSQConfig
from daps.scaling import Affine, Threshold
from daps.search import improve

VECTORS = Architecture(
    num_tokens=3, vocab_size=12, width=8, heads=2, patches=(3,), hidden=(8,), variance=(0.1, 1.0), data_shape=(6,)
)
IMAGES = dataclasses.replace(
    VECTORS, num_tokens=4, patches=(2, 2), decoder_kind="conv", decoder_grid=(2, 2), data_shape=(1, 8, 8)
)
BINARY = dataclasses.replace(IMAGES, likelihood_kind="bernoulli")
CASES = list(itertools.product(METHODS, (VECTORS, IMAGES, BINARY)))


def build(method: str, nets: Architecture) -> Autoencoder:
    """A small untrained model."""
    torch.manual_seed(0)
    config = FSQConfig(levels=(4, 3)) if method == "fsq" else DAPSConfig()
    scaling = Threshold(1.0) if nets.likelihood_kind == "bernoulli" else Affine(0.5, 0.3)
    return config.build(nets, scaling, 10).eval()


def data(nets: Architecture) -> Tensor:
    """5 data in natural units."""
    return torch.rand(5, *nets.data_shape, generator=torch.Generator().manual_seed(1))


def test_both_kinds_of_encoder_are_here() -> None:
    """Stochastic and deterministic; the search of every other method: test_every_method.py."""
    assert {"daps", "fsq"} <= set(METHODS)


@pytest.mark.parametrize(("method", "nets"), CASES)
def test_log_p_rises_with_effort(method: str, nets: Architecture) -> None:
    model, x = build(method, nets), data(nets)
    codes = [model.encode(x, effort=effort) for effort in range(4)]
    with torch.no_grad():
        reached = [model.decode(z).log_prob(x) for z in codes]
    assert torch.equal(codes[0], model.encode(x))
    for fewer, more in itertools.pairwise(reached):
        assert bool((more >= fewer).all())
    assert bool((reached[1] > reached[0]).all())  # an untrained encoder's codes are easily bettered
    assert all(z.shape == (5, nets.num_tokens) and int(z.max()) < 12 and int(z.min()) >= 0 for z in codes)


@torch.no_grad()
def by_hand(model: Autoencoder, y: Tensor, codes: Tensor, effort: int, generator: torch.Generator) -> Tensor:
    """The best of the codes and 64 draws a unit, datum by datum; then a sweep."""
    for _ in range(effort):
        draws = (
            [] if model.encoder.deterministic else [model.encoder.sample(y, 16, 1.0, generator)[0] for _ in range(4)]
        )
        best = []
        for b in range(len(y)):
            pool = torch.cat([codes[b][None], *(drawn[:, b] for drawn in draws)])
            best.append(pool[model.decoder(pool).log_prob(y[b]).argmax()])
        codes = improve(model.decoder, y, torch.stack(best)[None], 1)[0]
    return codes


@pytest.mark.parametrize("method", METHODS)
def test_it_is_search_from_the_encoders_codes_in_model_units(method: str) -> None:
    model, x = build(method, VECTORS), data(VECTORS)
    expected = by_hand(model, (x - 0.5) / 0.3, model.encode(x), 2, torch.Generator().manual_seed(0))
    assert torch.equal(model.encode(x, effort=2), expected)
    assert torch.equal(model.encode(x.numpy(), effort=2), expected)
    assert all(p.grad is None for p in model.parameters())


def test_it_begins_at_a_stochastic_code_where_one_is_asked_for() -> None:
    model, x = build("daps", VECTORS), data(VECTORS)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    begun = model.encode(x, temperature=1.0, generator=seeds[0])
    found = model.encode(x, temperature=1.0, generator=seeds[1], effort=1)
    assert torch.equal(found, by_hand(model, (x - 0.5) / 0.3, begun, 1, seeds[0]))


@pytest.mark.parametrize("method", METHODS)
def test_effort_cannot_be_negative(method: str) -> None:
    with pytest.raises(ValueError, match="effort: must be >= 0, got -1; 0 takes the encoder's codes as they are"):
        build(method, VECTORS).encode(data(VECTORS), effort=-1)


class Other(nn.Module):
    """A decoder that lends nothing."""

    def forward(self, codes: Tensor) -> torch.distributions.Distribution:
        """A standard normal distribution."""
        return torch.distributions.Independent(torch.distributions.Normal(torch.zeros(*codes.shape[:-1], 6), 1.0), 1)


def test_other_decoders_encode_without_effort_alone() -> None:
    model = DAPS(VECTORS.encoder(), Other(), (6,), steps=10)
    assert model.encode(data(VECTORS)).shape == (5, 3)
    with pytest.raises(ValueError, match=r"effort: needs a daps\.decoder\.Decoder, got Other; build the network into"):
        model.encode(data(VECTORS), effort=1)


def test_batch_statistics_are_not_moved_by_search() -> None:
    nets = Architecture(
        num_tokens=4, vocab_size=4, width=8, heads=2, patches=(2, 2), decoder_kind="conv", decoder_grid=(2, 2),
        hidden=(4,), decoder_layers=1, norm="batch", data_shape=(1, 4, 4), encoder_kind="parallel",
    )  # fmt: skip
    model = build("daps", nets).train()
    before = {name: buffer.clone() for name, buffer in model.decoder.named_buffers()}
    model.encode(data(nets), effort=2)
    assert model.decoder.training and before
    for name, buffer in model.decoder.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)


def test_it_works_in_inference_mode() -> None:
    model = build("daps", VECTORS)
    expected = model.encode(data(VECTORS), effort=1)
    with torch.inference_mode():
        assert torch.equal(model.encode(data(VECTORS), effort=1), expected)


def test_frozen_parts_stay_frozen_and_empty_batches_stay_empty() -> None:
    model = build("daps", VECTORS).train()
    frozen = next(part for part in model.decoder.modules() if isinstance(part, nn.Linear)).eval()
    codes = model.encode(data(VECTORS), effort=1)
    assert not frozen.training and model.decoder.training
    assert model.encode(data(VECTORS)[:0], effort=1).shape == (0, *codes.shape[1:])
    y = model.scaled(data(VECTORS))
    assert torch.equal(improve(model.decoder, y, codes[None].int(), 1), improve(model.decoder, y, codes[None], 1))
