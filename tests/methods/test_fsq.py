"""FSQ: the lattice's bijection, its quantiser and its gradient, and the method around it."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from daps.architecture import Architecture
from daps.methods.fsq import FSQ, FSQConfig, Lattice
from daps.quantiser import Quantiser, straight_through
from daps.scaling import Affine

LEVELS = [(2,), (3,), (8,), (2, 2), (5, 4), (8, 6, 5), (3, 5, 7), (8, 5, 5, 5)]
NETS = Architecture(num_tokens=3, vocab_size=20, width=8, heads=2, patches=(3,), hidden=(8,), data_shape=(6,))


@pytest.fixture(params=LEVELS, ids=str)
def lattice(request: pytest.FixtureRequest) -> Lattice:
    return Lattice(request.param)


@pytest.fixture
def model() -> FSQ:
    torch.manual_seed(0)
    return FSQConfig((5, 4)).build(NETS, Affine(), steps=1)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(1))


# -- the lattice -----------------------------------------------------------------------------------


def test_symbols_and_points_are_a_bijection(lattice: Lattice) -> None:
    symbols = torch.arange(lattice.size)
    points = lattice.vectors(symbols)
    assert lattice.size == math.prod(lattice.levels.tolist())
    assert torch.equal(lattice.symbols(points), symbols)
    assert len(points.unique(dim=0)) == lattice.size
    for d, levels in enumerate(lattice.levels.tolist()):
        values = points[:, d].unique()
        assert len(values) == levels and values.min() == -1 and values.max() <= 1
        torch.testing.assert_close(values.diff(), torch.full((levels - 1,), 1 / (levels // 2)))


def test_the_first_coordinate_runs_fastest() -> None:
    points = Lattice((3, 2)).vectors(torch.arange(6))
    assert points.tolist() == [[-1, -1], [0, -1], [1, -1], [-1, 0], [0, 0], [1, 0]]


def squashed(lattice: Lattice, z: Tensor) -> Tensor:
    """Where z lies among the lattice's points before rounding, by FSQ's published formula (Mentzer et al., 2023).

    Two levels go without its shift.
    """
    half = (lattice.levels - 1) * 1.001 / 2
    offset = torch.where(lattice.levels % 2 == 0, 0.5, 0.0)
    shift = torch.where(lattice.levels == 2, 0.0, (offset / half).atanh())
    return ((z + shift).tanh() * half - offset) / (lattice.levels // 2)


def quantise(lattice: Quantiser, h: Tensor) -> Tensor:
    """What the decoder is trained on for free numbers h."""
    z = lattice.place(h)
    return straight_through(z, lattice.vectors(lattice.symbols(z)))


def test_quantise_takes_the_nearest_point(lattice: Lattice) -> None:
    z = 3 * torch.randn(500, lattice.dimensions, generator=torch.Generator().manual_seed(0))
    points = lattice.vectors(torch.arange(lattice.size))
    distances = torch.cdist(squashed(lattice, z), points)
    sure = distances.topk(2, largest=False).values.diff().squeeze(-1) > 1e-3  # not half-way between two
    quantised = quantise(lattice, z)
    torch.testing.assert_close(quantised[sure], points[distances.argmin(-1)][sure], rtol=0, atol=1e-6)
    assert torch.equal(lattice.symbols(quantised)[sure], distances.argmin(-1)[sure])
    assert int(sure.sum()) > 450


def test_zero_is_a_point_and_every_symbol_can_be_reached(lattice: Lattice) -> None:
    zeros = torch.zeros(1, lattice.dimensions)
    torch.testing.assert_close(quantise(lattice, zeros), zeros, rtol=0, atol=1e-6)
    symbols = torch.arange(lattice.size)
    half, even = (lattice.levels - 1) * 1.001 / 2, lattice.levels % 2 == 0
    offset = torch.where(even, 0.5, 0.0)
    steps = lattice.vectors(symbols) * (lattice.levels // 2)
    z = ((steps + offset) / half).atanh() - (offset / half).atanh()  # where the squashing meets the point
    assert torch.equal(lattice.symbols(quantise(lattice, z)), symbols)


@pytest.mark.parametrize("levels", [(8, 6, 5), (3, 5, 7), (4, 4, 4, 4, 4)], ids=str)
def test_codes_and_points_are_those_of_another_library(levels: tuple[int, ...]) -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    ours, theirs = Lattice(levels), library.FSQ(list(levels))
    h = 2 * torch.randn(1, 500, len(levels), generator=torch.Generator().manual_seed(0))
    points, codes = theirs(h)
    assert torch.equal(codes[0].long(), ours.symbols(ours.place(h[0])))
    torch.testing.assert_close(points[0], quantise(ours, h[0]), rtol=0, atol=1e-6)
    everything = torch.arange(ours.size)
    torch.testing.assert_close(theirs.indices_to_codes(everything[None])[0], ours.vectors(everything))


@pytest.mark.parametrize("z", [1e4, -1e4, 50.0, -50.0])
def test_the_ends_of_the_lattice_hold(lattice: Lattice, z: float) -> None:
    symbol = lattice.symbols(quantise(lattice, torch.full((1, lattice.dimensions), z)))
    assert symbol.item() == (lattice.size - 1 if z > 0 else 0)


def test_the_gradient_passes_the_rounding(lattice: Lattice) -> None:
    z = torch.randn(20, lattice.dimensions, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(20, lattice.dimensions, generator=torch.Generator().manual_seed(1))
    gradients = []
    for function in (lambda z: quantise(lattice, z), lambda z: squashed(lattice, z)):
        inputs = z.clone().requires_grad_()
        (weight * function(inputs)).sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    assert bool((gradients[0] != 0).all())


def test_two_levels_learn_as_fast_as_more() -> None:
    """The published shift puts z = 0 where tanh is flat: its gradient there is a five-hundredth of this."""
    z = torch.zeros(1, 1, requires_grad=True)
    quantise(Lattice((2,)), z).sum().backward()
    assert z.grad is not None and float(z.grad) == pytest.approx(0.5, abs=1e-2)


# -- the encoder and the method --------------------------------------------------------------------


def test_the_encoder_is_deterministic_with_log_q_and_entropy_of_zero(model: FSQ, x: Tensor) -> None:
    codes, log_q = model.encoder.sample(x, 4)
    assert codes.shape == log_q.shape == (4, 10, 3)
    assert not log_q.any() and bool((codes == codes[:1]).all())
    assert torch.equal(model.encoder.sample(x, 1, 0.0, torch.Generator().manual_seed(9))[0][0], codes[0])
    assert torch.equal(model.encoder.logits(x, codes).argmax(-1)[0], codes[0])
    assert not model.encoder.log_prob(x, codes).any() and not model.encoder.entropy(x, codes).any()
    torch.testing.assert_close(model.encoder.kl(x, codes), torch.full((4, 10, 3), math.log(20)))
    others = (codes + 1) % 20
    assert bool((model.encoder.log_prob(x, others) == -math.inf).all())


def test_codes_decode_to_what_training_saw(model: FSQ, x: Tensor) -> None:
    codes = model.encode(x)
    with torch.no_grad():
        trained = model.decoder(quantise(model.encoder.quantiser, model.encoder.head(model.encoder.trunk(x)))).mean
    torch.testing.assert_close(model.decode(codes).mean, trained, rtol=1e-5, atol=1e-5)


def test_the_loss_is_that_of_maximum_likelihood(model: FSQ, x: Tensor) -> None:
    loss, metrics = model(x, 0)
    loss.backward()
    log_p = model.decode(model.encode(x)).log_prob(x).mean()
    assert loss.item() == pytest.approx(-log_p.item(), rel=1e-5)
    assert float(metrics["elbo"]) == pytest.approx(log_p.item() - 3 * math.log(20), rel=1e-5)
    assert 0 <= float(metrics["bits"]) <= 3 * math.log2(20)
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in model.encoder.head.parameters())
    assert model.final_beta == 0.01


def test_it_learns_four_data() -> None:
    torch.manual_seed(0)
    model = FSQConfig((5, 4)).build(dataclasses.replace(NETS, variance=(0.01, 0.01)), Affine(), steps=1)
    x = torch.randn(4, 6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(150):
        optimizer.zero_grad()
        model(x, step)[0].backward()
        optimizer.step()
    best = -6 * 0.5 * math.log(2 * math.pi * 0.01)
    assert len(model.encode(x).unique(dim=0)) == 4
    assert model.decode(model.encode(x)).log_prob(x).mean().item() > best - 1


@pytest.mark.parametrize("levels", [(), (1,), (8, 0)])
def test_levels_that_cannot_be(levels: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"method.levels: needs one or more numbers in 2..1000, got .*; the paper takes 8 6"
    ):
        FSQConfig(levels)


def test_levels_must_make_the_vocabulary() -> None:
    with pytest.raises(ValueError, match=r"method.levels: \(5, 5\) make 25 symbols, but nets.vocab_size is 20; change"):
        FSQConfig((5, 5)).build(NETS, Affine(), steps=1)
