"""Deterministic encoders: nearest code vectors, the straight-through gradient, one vector for a symbol everywhere."""

import math

import pytest
import torch
from torch import Tensor

from builders import normal
from daps.methods.lfq import Signs
from daps.methods.vqvae import AveragedCodebook, LearnedCodebook, VQVAEConfig
from daps.nn.sequence import VectorPatches
from daps.nn.transformer import Trunk
from daps.quantiser import QuantisedEmbedding, QuantisedEncoder, Quantiser, straight_through

V, L, T = 8, 3, 4
CONFIGS = {distance: VQVAEConfig(distance=distance, from_data=False) for distance in ("euclidean", "cosine")}
KINDS = {
    "averaged": lambda: AveragedCodebook(V, L, CONFIGS["euclidean"]),
    "averaged on the sphere": lambda: AveragedCodebook(V, L, CONFIGS["cosine"]),
    "learned": lambda: LearnedCodebook(V, L, CONFIGS["euclidean"]),
    "learned on the sphere": lambda: LearnedCodebook(V, L, CONFIGS["cosine"]),
    "signs": lambda: Signs(V, False),
    "signs on the sphere": lambda: Signs(V, True),
}


@pytest.fixture(params=KINDS)
def quantiser(request: pytest.FixtureRequest) -> Quantiser:
    torch.manual_seed(0)
    return KINDS[request.param]().double()


@pytest.fixture
def encoder(quantiser: Quantiser) -> QuantisedEncoder:
    return QuantisedEncoder(Trunk(VectorPatches(6, T, 8), T, 8, 1, 2, 2), quantiser).double()


def table(quantiser: Quantiser) -> Tensor:
    return quantiser.vectors(torch.arange(V)).detach()


def test_the_symbol_is_that_of_the_nearest_code_vector(quantiser: Quantiser) -> None:
    z = quantiser.place(2 * normal(50, 5, L))
    nearest = torch.cdist(z, table(quantiser).expand(50, -1, -1)).argmin(-1)
    assert torch.equal(quantiser.symbols(z), nearest)
    assert len(nearest.unique()) > V // 2
    assert torch.equal(quantiser.symbols(table(quantiser)), torch.arange(V))


def test_on_the_sphere_everything_has_norm_one(quantiser: Quantiser, request: pytest.FixtureRequest) -> None:
    z, rows = quantiser.place(normal(50, L)), table(quantiser)
    on_it = [bool(torch.allclose(points.norm(dim=-1), points.new_ones(()))) for points in (z, rows)]
    assert on_it == [request.node.callspec.params["quantiser"].endswith("sphere")] * 2


def test_straight_through_has_the_vectors_value_and_the_features_gradient() -> None:
    z, vectors, weight = (normal(20, L, seed=seed).float() for seed in range(3))
    z.requires_grad_(), vectors.requires_grad_()
    passed = straight_through(1000 * z, vectors)
    assert torch.equal(passed, vectors)  # not z + (e - z), which would round
    (weight * passed).sum().backward()
    torch.testing.assert_close(z.grad, 1000 * weight, rtol=0, atol=0)
    assert vectors.grad is None


def test_the_encoder_is_deterministic_with_log_q_and_entropy_of_zero(encoder: QuantisedEncoder) -> None:
    x = normal(10, 6)
    codes, log_q = encoder.sample(x, 4)
    assert codes.shape == log_q.shape == (4, 10, T) and encoder.deterministic
    assert not log_q.any() and bool((codes == codes[:1]).all())
    assert torch.equal(encoder.sample(x, 1, 0.0, torch.Generator().manual_seed(9))[0][0], codes[0])
    assert torch.equal(encoder.logits(x, codes).argmax(-1)[0], codes[0])
    assert not encoder.log_prob(x, codes).any() and not encoder.entropy(x, codes).any()
    torch.testing.assert_close(encoder.kl(x, codes), torch.full((4, 10, T), math.log(V), dtype=torch.float64))
    assert bool((encoder.log_prob(x, (codes + 1) % V) == -math.inf).all())
    assert torch.equal(encoder.quantiser.symbols(encoder.features(x)), codes[0])


@pytest.mark.parametrize(("width", "own"), [(L, False), (5, False), (5, True), (L, True)])
def test_symbols_and_their_code_vectors_embed_alike(quantiser: Quantiser, width: int, own: bool) -> None:
    embedding = QuantisedEmbedding(quantiser, width, own).double()
    for parameter in embedding.parameters():
        torch.nn.init.normal_(parameter)
    codes = torch.randint(V, (6, 5, T), generator=torch.Generator().manual_seed(0))
    rows, vectors = table(quantiser), quantiser.vectors(codes).detach()
    embedded = embedding(codes)
    assert torch.equal(embedded, embedding(vectors))
    torch.testing.assert_close(embedded, embedding.table()[codes], rtol=1e-12, atol=1e-12)
    expected = rows
    if own or width != L:
        assert isinstance(embedding.project, torch.nn.Linear)
        expected = rows @ embedding.project.weight.T + embedding.project.bias
    else:
        assert torch.equal(embedded, vectors)  # read as they are
    if own:
        expected = expected + embedding.own
    torch.testing.assert_close(embedding.table(), expected, rtol=1e-12, atol=1e-12)


def test_a_symbols_own_vector_begins_at_zero() -> None:
    embedding = QuantisedEmbedding(Signs(V, False), 5, own=True)
    assert embedding.own is not None and embedding.own.shape == (V, 5) and not embedding.own.any()
