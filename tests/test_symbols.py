"""Vectors of symbols: features by their definitions, sharing by exact gradient steps, tables against lookups."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from builders import normal
from daps.methods.fsq import Lattice
from daps.quantiser import QuantisedEmbedding
from daps.symbols import (
    CodeEmbedding,
    Structure,
    StructuredEmbedding,
    StructuredHead,
    StructuredInput,
    SymbolVectors,
    TableEmbedding,
    code_embedding,
    factors,
    features,
    symbol_head,
    token_input,
)

STRUCTURES: tuple[Structure, ...] = ("bits", "digits", "lattice")
SIZES = (2, 5, 22, 60, 256)  # a prime; a large prime factor, 22 = 2 x 11; digits of several sizes; powers of two
NEAR = {"rtol": 1e-12, "atol": 1e-12}  # float64, some dozen roundings
vocabularies = st.integers(2, 2000)


def digits(symbol: int, sizes: tuple[int, ...]) -> list[int]:
    """Of a symbol in the mixed radix, the first fastest."""
    found = []
    for size in sizes:
        symbol, digit = divmod(symbol, size)
        found.append(digit)
    return found


# -- features --------------------------------------------------------------------------------------


@given(vocabularies)
def test_factors_make_the_vocabulary(vocab_size: int) -> None:
    sizes = factors(vocab_size)
    assert math.prod(sizes) == vocab_size and min(sizes) >= 2
    left = vocab_size
    for size in sizes:
        small = [d for d in range(2, 9) if left % d == 0]
        assert size == max(small) if small else all(size % d for d in range(2, math.isqrt(size) + 1))
        left //= size


@given(vocabularies)
def test_bits_are_the_binary_expansion(vocab_size: int) -> None:
    rows = features("bits", vocab_size)
    assert set(rows.unique().tolist()) == {-1.0, 1.0}
    assert len(rows.unique(dim=0)) == vocab_size
    places = len(f"{vocab_size - 1:b}")
    for symbol in {0, 1, vocab_size // 2, vocab_size - 1}:
        assert rows[symbol].tolist() == [2.0 * int(bit) - 1 for bit in reversed(f"{symbol:0{places}b}")]


@given(vocabularies)
def test_digits_are_one_hots_in_mixed_radix(vocab_size: int) -> None:
    sizes = factors(vocab_size)
    groups = features("digits", vocab_size).split(sizes, dim=-1)
    for group in groups:
        assert set(group.unique().tolist()) == {0.0, 1.0} and bool((group.sum(-1) == 1).all())
    radix, symbols = 1, torch.zeros(vocab_size, dtype=torch.long)
    for size, group in zip(sizes, groups, strict=True):
        symbols += radix * group.argmax(-1)
        radix *= size
    assert torch.equal(symbols, torch.arange(vocab_size))


@pytest.mark.parametrize("vocab_size", SIZES)
def test_the_lattice_has_a_place_and_its_centred_square_for_every_digit(vocab_size: int) -> None:
    sizes = factors(vocab_size)
    columns = [2 if size > 2 else 1 for size in sizes]  # of two places the square is constant
    groups = features("lattice", vocab_size).split(columns, dim=-1)
    for which, (size, group) in enumerate(zip(sizes, groups, strict=True)):
        ladder = torch.linspace(-1, 1, size)
        place = torch.stack([ladder[digits(v, sizes)[which]] for v in range(vocab_size)])
        torch.testing.assert_close(group[:, 0], place, rtol=0, atol=1e-6)
        if size > 2:
            torch.testing.assert_close(group[:, 1], place**2 - (ladder**2).mean(), rtol=0, atol=1e-6)
            assert float(group[:, 1].sum().abs()) < 1e-6 * vocab_size


@pytest.mark.parametrize("vocab_size", SIZES)
def test_neighbours_on_the_lattice_differ_in_one_coordinate(vocab_size: int) -> None:
    sizes, rows = factors(vocab_size), features("lattice", vocab_size)
    owner = [which for which, size in enumerate(sizes) for _ in range(2 if size > 2 else 1)]
    radix = 1
    for which, size in enumerate(sizes):
        pairs = [(v, v + radix) for v in range(vocab_size) if digits(v, sizes)[which] < size - 1]
        for one, other in pairs:
            moved = {owner[column] for column in (rows[one] != rows[other]).nonzero().flatten().tolist()}
            assert moved == {which}
        radix *= size


def test_a_linear_head_on_the_lattice_is_a_discretised_gaussian() -> None:
    means, scales = (0.3, -0.5), (0.4, 0.8)
    head = StructuredHead("lattice", 30, 1).double()  # 6 x 5 places
    slopes = [number for m, s in zip(means, scales, strict=True) for number in (m / s**2, -0.5 / s**2)]
    with torch.no_grad():
        head.vectors.shared.copy_(torch.tensor(slopes)[:, None])
        q = head(torch.ones(1, 1, dtype=torch.float64)).softmax(-1)[0].numpy()
    rows, columns = (
        norm.pdf(torch.linspace(-1, 1, size), m, s) for size, m, s in zip((6, 5), means, scales, strict=True)
    )
    expected = [rows[v % 6] * columns[v // 6] for v in range(30)]
    assert q.tolist() == pytest.approx([p / sum(expected) for p in expected], rel=1e-5)  # places are made in float32


def test_free_symbols_have_no_features() -> None:
    assert features("free", 7).shape == (7, 0)


# -- shared vectors --------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(("vocab_size", "variance"), [(5, 1.0), (60, 0.02), (256, 1.0)])
def test_vectors_begin_with_the_variance_asked_for(structure: Structure, vocab_size: int, variance: float) -> None:
    torch.manual_seed(0)
    width = 20_000
    vectors = SymbolVectors(structure, vocab_size, width, variance)
    assert not vectors.own.any()
    matrix = vectors().detach()
    bound = 5 * (2 / width) ** 0.5  # five standard errors of a variance, were all rows the same
    assert float((matrix**2).mean()) == pytest.approx(variance, rel=bound)
    assert float(matrix.mean(1).abs().max()) < 10 * (variance / width) ** 0.5
    if structure != "lattice":  # where symbols in the corners are longer
        assert (matrix**2).mean(1).tolist() == pytest.approx([variance] * vocab_size, rel=bound)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_step_on_one_symbol_moves_the_others_by_what_they_share(structure: Structure) -> None:
    vectors = SymbolVectors(structure, 60, 3, 1.0).double()
    before, direction, symbol = vectors().detach(), normal(3), 7
    (vectors()[symbol] @ direction).backward()
    torch.optim.SGD(vectors.parameters(), lr=0.1).step()
    shared = features(structure, 60).double() @ features(structure, 60)[symbol].double()
    shared[symbol] += 1  # its own vector
    torch.testing.assert_close(vectors().detach() - before, -0.1 * shared[:, None] * direction, **NEAR)
    assert int((shared != 0).sum()) > 20 and vectors.own.grad is not None
    assert vectors.own.grad.any(-1).nonzero().flatten().tolist() == [symbol]


def test_a_step_on_one_row_of_a_free_table_moves_no_other() -> None:
    table = TableEmbedding(60, 3)
    before = table.table().detach().clone()
    table(torch.tensor([[7]])).sum().backward()
    torch.optim.SGD(table.parameters(), lr=0.1).step()
    moved = (table.table() != before).any(-1)
    assert moved.nonzero().flatten().tolist() == [7]


# -- what reads and writes symbols -----------------------------------------------------------------


def learned(module: nn.Module) -> nn.Module:
    """The module in float64, every parameter at a random place, as after some training."""
    module = module.double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return module


@pytest.mark.parametrize("structure", ["free", *STRUCTURES])
def test_integers_are_one_hots_and_mixtures_are_means(structure: Structure) -> None:
    embedding = learned(code_embedding(structure, 22, 4))
    assert isinstance(embedding, TableEmbedding if structure == "free" else StructuredEmbedding)
    codes = torch.randint(22, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    one_hots = F.one_hot(codes, 22).double()
    torch.testing.assert_close(embedding(codes), embedding(one_hots), **NEAR)
    other = F.one_hot((codes + 1) % 22, 22).double()
    mixed = embedding(0.25 * one_hots + 0.75 * other)
    torch.testing.assert_close(mixed, 0.25 * embedding(codes) + 0.75 * embedding((codes + 1) % 22), **NEAR)
    rows = [[[embedding.table()[int(v)] for v in row] for row in block] for block in codes]
    stacked = torch.stack([torch.stack([torch.stack(row) for row in block]) for block in rows])
    torch.testing.assert_close(embedding(codes), stacked, **NEAR)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_input_has_a_start_symbol_of_its_own(structure: Structure) -> None:
    inputs = learned(token_input(structure, 22, 4))
    assert isinstance(inputs, StructuredInput)
    rows = inputs(torch.arange(23))
    torch.testing.assert_close(rows[:22], inputs.vectors(), **NEAR)
    assert torch.equal(rows[22], inputs.start[0])
    rows[22].sum().backward()
    assert bool((inputs.start.grad == 1).all())
    assert not any(p.grad.any() for p in inputs.vectors.parameters())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_head_scores_by_the_vectors(structure: Structure) -> None:
    head = learned(symbol_head(structure, 22, 4))
    assert isinstance(head, StructuredHead)
    h = normal(2, 3, 4, seed=9)
    logits, matrix = head(h), head.vectors()
    for n, m, v in ((0, 0, 0), (1, 2, 21), (1, 0, 7)):
        expected = sum(h[n, m, d] * matrix[v, d] for d in range(4)) + head.bias[v]
        assert logits[n, m, v].item() == pytest.approx(expected.item(), rel=1e-12)
    assert logits.shape == (2, 3, 22)


@pytest.mark.parametrize("structure", ["free", *STRUCTURES])
def test_logits_begin_with_variance_one(structure: Structure) -> None:
    torch.manual_seed(0)
    head, h = symbol_head(structure, 64, 400), torch.randn(2000, 400)
    assert float(head(h).detach().var()) == pytest.approx(
        1, abs=0.25
    )  # at most 6 x 400 weights: 5 errors of a variance


def test_free_symbols_are_read_from_tables() -> None:
    table = token_input("free", 22, 4)
    assert isinstance(table, nn.Embedding) and table.weight.shape == (23, 4)
    assert isinstance(symbol_head("free", 22, 4), nn.Linear)


# -- the lattice of FSQ ----------------------------------------------------------------------------

LEVELS = (5, 4, 2)


def lattice_embedding(own: bool) -> QuantisedEmbedding:
    """The same projection with and without vectors of their own."""
    torch.manual_seed(0)
    return QuantisedEmbedding(Lattice(LEVELS), 6, own=own).double()


def test_own_vectors_change_nothing_at_the_start() -> None:
    symbols = torch.arange(40).view(8, 5)
    bare, owning = lattice_embedding(False), lattice_embedding(True)
    assert bare.own is None and owning.own is not None and not owning.own.any()
    assert torch.equal(bare(symbols), owning(symbols))


@pytest.mark.parametrize("own", [False, True])
def test_points_symbols_and_table_of_the_lattice_agree(own: bool) -> None:
    embedding = learned(lattice_embedding(own))
    assert isinstance(embedding, CodeEmbedding)
    symbols = torch.randint(40, (2, 6, 5), generator=torch.Generator().manual_seed(0))
    points = embedding.quantiser.vectors(symbols).double()
    torch.testing.assert_close(embedding(points), embedding(symbols), rtol=1e-6, atol=1e-6)  # points are float32
    assert embedding.table().shape == (40, 6)
    torch.testing.assert_close(embedding.table()[symbols], embedding(symbols), **NEAR)


def test_own_vectors_are_a_table_on_top_of_the_linear_map() -> None:
    embedding = learned(lattice_embedding(True))
    weight, bias, points = (
        embedding.project.weight,
        embedding.project.bias,
        embedding.quantiser.vectors(torch.arange(40)),
    )
    for symbol in (0, 17, 39):
        expected = weight @ points[symbol].double() + bias + embedding.own[symbol]
        torch.testing.assert_close(embedding(torch.tensor([[symbol]]))[0, 0], expected, **NEAR)


@pytest.mark.parametrize("floating", [False, True])
def test_the_gradient_reaches_own_vectors_of_used_symbols_alone(floating: bool) -> None:
    embedding = lattice_embedding(True)
    symbols = torch.tensor([[3, 17, 3], [8, 39, 17]])
    points = embedding.quantiser.vectors(symbols).double().requires_grad_()
    embedding(points if floating else symbols).sum().backward()
    counts = torch.bincount(symbols.flatten(), minlength=40).double()
    assert torch.equal(embedding.own.grad, counts[:, None].expand(-1, 6))
    if floating:  # and the points' gradient is that of the linear map
        torch.testing.assert_close(points.grad, embedding.project.weight.sum(0).expand(2, 3, 3), **NEAR)
