"""LFQ and BSQ: entropies against all codes one by one, gradients by finite differences, the loss by hand."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor

from builders import NETS, gradients, normal
from daps.methods.lfq import (
    BSQConfig,
    LFQConfig,
    SignConfig,
    SignQuantised,
    Signs,
    aggregate_entropy,
    bit_entropy,
    conditional_entropy,
)
from daps.scaling import Affine

N, B, T, V, L = 6, 5, 3, 4, 2  # values, data, tokens, symbols, bits
BOTH = pytest.mark.parametrize("kind", [LFQConfig, BSQConfig])
SPACES = pytest.mark.parametrize("spherical", [False, True])


def build(kind: type[SignConfig], **changes: Any) -> SignQuantised:
    """A small model in float64."""
    torch.manual_seed(0)
    return kind(**changes).build(NETS, Affine(0.5, 2.0), steps=1).double()


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Of each row, nats."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    return -(probabilities * np.log(safe)).sum(-1)


def enumerated(z: Tensor, spherical: bool, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """q(c|z) by distances to all codes [N, V], and the codes [V, L] as they are written down in the papers."""
    dimensions = z.shape[-1]
    codes = np.array([code[::-1] for code in itertools.product((-1.0, 1.0), repeat=dimensions)])
    codes = codes / (math.sqrt(dimensions) if spherical else 1.0)
    squares = ((z.numpy()[:, None] - codes) ** 2).sum(-1)
    return softmax(-squares / temperature, axis=-1), codes


# -- the corners -----------------------------------------------------------------------------------


@SPACES
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_symbols_and_corners_are_a_bijection(spherical: bool, bits: int) -> None:
    signs = Signs(2**bits, spherical).double()
    corners = signs.vectors(torch.arange(2**bits))
    assert torch.equal(signs.symbols(corners), torch.arange(2**bits))
    np.testing.assert_allclose(corners.numpy(), enumerated(normal(1, bits), spherical, 1.0)[1], rtol=1e-7)
    norm = 1.0 if spherical else math.sqrt(bits)
    torch.testing.assert_close(
        corners.norm(dim=-1), torch.full((2**bits,), norm, dtype=torch.float64), rtol=1e-7, atol=0
    )


def test_zero_counts_as_positive() -> None:
    assert Signs(8, False).symbols(torch.tensor([[0.0, -1.0, 0.0], [-0.0, 1e-30, -1e-30]])).tolist() == [5, 3]


@pytest.mark.parametrize("size", [3, 240, 1000])
def test_the_vocabulary_must_be_a_power_of_two(size: int) -> None:
    below = 2 ** (size.bit_length() - 1)
    for kind in (LFQConfig, BSQConfig):
        with pytest.raises(
            ValueError, match=rf"vocab_size: .* a power of two, got {size}; take {below} or {2 * below}"
        ):
            kind().build(dataclasses.replace(NETS, vocab_size=size), Affine(), steps=1)


# -- the entropies ---------------------------------------------------------------------------------


@SPACES
@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("bits", [1, 3, 6])
def test_entropies_are_those_of_all_codes_one_by_one(spherical: bool, temperature: float, bits: int) -> None:
    signs = Signs(2**bits, spherical).double()
    z = signs.place(normal(40, bits) + 0.3)
    logits = signs.bit_logits(z, temperature)
    q, codes = enumerated(z, spherical, temperature)
    assert float(conditional_entropy(logits)) == pytest.approx(entropy(q).mean(), rel=1e-6, abs=1e-12)
    assert float(aggregate_entropy(logits, "codes")) == pytest.approx(entropy(q.mean(0)), rel=1e-6)
    ones = (q.mean(0)[:, None] * (codes > 0)).sum(0)  # marginals of the bits
    expected = entropy(np.stack([ones, 1 - ones], -1)).sum()
    assert float(aggregate_entropy(logits, "bits")) == pytest.approx(expected, rel=1e-6)
    assert expected >= entropy(q.mean(0)) - 1e-9


def test_bits_and_codes_agree_where_bits_are_independent() -> None:
    logits = normal(1, 5)  # one feature: its q factorises
    torch.testing.assert_close(aggregate_entropy(logits, "bits"), aggregate_entropy(logits, "codes"))
    corners = 1e3 * Signs(8, False).double().corners  # all codes alike
    for aggregate in ("bits", "codes"):
        assert float(aggregate_entropy(corners, aggregate)) == pytest.approx(3 * math.log(2), rel=1e-12)
    assert float(conditional_entropy(corners)) == 0
    tied = torch.tensor([[1e3, 1e3], [-1e3, -1e3]], dtype=torch.float64)  # two bits that are always the same
    assert float(aggregate_entropy(tied, "bits")) == pytest.approx(2 * math.log(2))
    assert float(aggregate_entropy(tied, "codes")) == pytest.approx(math.log(2))


def test_gradients_of_the_entropies_are_the_finite_differences() -> None:
    logits = (2 * normal(6, 3)).requires_grad_()
    assert torch.autograd.gradcheck(bit_entropy, (logits,))
    assert torch.autograd.gradcheck(conditional_entropy, (logits,))
    for aggregate in ("codes", "bits"):
        assert torch.autograd.gradcheck(lambda rows, kind=aggregate: aggregate_entropy(rows, kind), (logits,))


@pytest.mark.parametrize("aggregate", ["codes", "bits"])
@pytest.mark.parametrize("logit", [0.0, 50.0, -50.0, 1e4])
def test_certain_features_keep_finite_gradients(aggregate: str, logit: float) -> None:
    logits = torch.full((10, 3), logit, requires_grad=True)  # float32, where 1 - q is exactly 0
    value = aggregate_entropy(logits, aggregate) + conditional_entropy(logits)
    value.backward()
    assert bool(value.isfinite()) and bool(logits.grad.isfinite().all())


@SPACES
def test_entropies_are_those_of_another_library(spherical: bool) -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    other = library.LFQ(codebook_size=16, dim=4, spherical=spherical).train()
    signs, h = Signs(16, spherical), normal(1, 30, 4).float()
    for temperature in (0.25, 2.0):
        _, parts = other(h, inv_temperature=1 / temperature, return_loss_breakdown=True)
        logits = signs.bit_logits(signs.place(h), temperature).flatten(0, 1)
        assert float(parts.per_sample_entropy) == pytest.approx(float(conditional_entropy(logits)), rel=1e-4)
        assert float(parts.batch_entropy) == pytest.approx(float(aggregate_entropy(logits, "codes")), rel=1e-4)


@SPACES
@pytest.mark.parametrize("aggregate", ["codes", "bits"])
def test_the_entropy_loss_fills_the_codebook(spherical: bool, aggregate: str) -> None:
    """Features that begin near one corner spread over all, as far as the aggregate's entropy has a price."""
    signs, used = Signs(8, spherical).double(), []
    for diversity in (0.0, 1.0):
        h = (0.5 + 0.3 * normal(64, 3)).requires_grad_()
        optimizer = torch.optim.Adam([h], 0.03)
        for _ in range(300):
            logits = signs.bit_logits(signs.place(h), 1.0)
            optimizer.zero_grad()
            (conditional_entropy(logits) - diversity * aggregate_entropy(logits, aggregate)).backward()
            optimizer.step()
        counts = np.bincount(signs.symbols(signs.place(h.detach())), minlength=8)
        used.append(entropy(counts / 64) / math.log(8))
    assert used[0] < 0.3 and used[1] > 0.85, used


# -- one step --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("aggregate", ["codes", "bits"])
def test_the_loss_is_the_published_one(kind: type[SignConfig], aggregate: str, x: Tensor) -> None:
    settings = {"commitment": 0.3, "entropy": 0.2, "diversity": 1.5, "temperature": 0.8}
    model = build(kind, aggregate=aggregate, **settings)
    loss, metrics = model(x, 0)
    with torch.no_grad():
        h = model.encoder.head(model.encoder.trunk((x - 0.5) / 2)).flatten(0, 1)
    spherical = kind is BSQConfig
    z = h / h.norm(dim=-1, keepdim=True) if spherical else h
    q, corners = enumerated(z, spherical, 0.8)
    chosen = q.argmax(-1)
    assert np.array_equal(model.encode(x).flatten().numpy(), chosen)
    gap = ((z.numpy() - corners[chosen]) ** 2).mean()
    ones = (q.mean(0)[:, None] * (corners > 0)).sum(0)
    mean = entropy(q.mean(0)) if aggregate == "codes" else entropy(np.stack([ones, 1 - ones], -1)).sum()
    log_p = model.decode(chosen.reshape(B, T)).log_prob(x).mean().item()
    expected = -log_p + N * (0.3 * gap + 0.2 * (entropy(q).mean() - 1.5 * mean))
    assert loss.item() == pytest.approx(expected, rel=1e-6)  # the corners are rounded to float32
    figures = {name: float(metrics[name]) for name in ("gap", "conditional_entropy", "aggregate_entropy")}
    assert figures == pytest.approx(
        {"gap": gap, "conditional_entropy": entropy(q).mean(), "aggregate_entropy": mean}, rel=1e-6
    )
    assert float(metrics["elbo"]) == pytest.approx(log_p - T * math.log(V), rel=1e-6)
    assert model.final_beta == 0.01 and model.config.targets == {}


@BOTH
def test_the_gradient_passes_the_signs(kind: type[SignConfig], x: Tensor) -> None:
    """The decoder's slope at the corners and the auxiliary losses' slope at the features, by central differences."""
    settings = {"commitment": 0.3, "entropy": 0.2, "diversity": 1.5, "temperature": 0.8, "aggregate": "codes"}
    model = build(kind, **settings)
    model(x, 0)[0].backward()
    found = gradients(model.encoder.trunk) + gradients(model.encoder.head)
    model.zero_grad()

    y = (x - 0.5) / 2
    z = model.encoder.features(y)
    corners = model.signs.vectors(model.encode(x))

    @torch.no_grad()
    def decoded(points: Tensor) -> float:
        return -model.decoder(points).log_prob(y).mean().item()

    def auxiliary(points: Tensor) -> float:
        q, _ = enumerated(points.flatten(0, 1), kind is BSQConfig, 0.8)
        gap = float((points - corners).square().mean())
        return N * (0.3 * gap + 0.2 * (entropy(q).mean() - 1.5 * entropy(q.mean(0))))

    def slope(function: Any, at: Tensor) -> Tensor:
        differences = torch.zeros_like(at)
        for place in itertools.product(*map(range, at.shape)):
            nudge = torch.zeros_like(at)
            nudge[place] = 1e-5
            differences[place] = (function(at + nudge) - function(at - nudge)) / 2e-5
        return differences

    z.backward(slope(decoded, corners) + slope(auxiliary, z.detach()))
    for mine, other in zip(found, gradients(model.encoder.trunk) + gradients(model.encoder.head), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert bool(found[0].any())


@BOTH
@pytest.mark.parametrize("structure", ["free", "lattice"])
def test_codes_decode_to_what_training_saw(kind: type[SignConfig], structure: str, x: Tensor) -> None:
    torch.manual_seed(0)
    model = kind().build(dataclasses.replace(NETS, structure=structure), Affine(), steps=1)
    own = model.decoder.embedding.own
    assert (own is None) == (structure == "free")
    if own is not None:
        torch.nn.init.normal_(own)
    log_p = model(x.float(), 0)[1]["log_p"]
    assert torch.equal(model.decode(model.encode(x.float())).log_prob(x.float()).mean(), log_p)
    assert model.encoder.quantiser is model.decoder.embedding.quantiser


@BOTH
def test_it_learns_four_data(kind: type[SignConfig]) -> None:
    torch.manual_seed(0)
    model = kind().build(dataclasses.replace(NETS, variance=(0.01, 0.01)), Affine(), steps=1)
    x = torch.randn(4, 6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(200):
        optimizer.zero_grad()
        model(x, step)[0].backward()
        optimizer.step()
    best = -6 * 0.5 * math.log(2 * math.pi * 0.01)
    assert len(model.encode(x).unique(dim=0)) == 4
    assert model.decode(model.encode(x)).log_prob(x).mean().item() > best - 1


@BOTH
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commitment": -1.0}, r"method.commitment: must be >= 0 and finite, got -1; 0 leaves the term out"),
        ({"entropy": math.inf}, r"method.entropy: must be >= 0 and finite, got inf"),
        ({"diversity": math.nan}, r"method.diversity: must be >= 0 and finite, got nan"),
        ({"temperature": 0.0}, r"method.temperature: must be > 0 and finite, got 0; try 1"),
        ({"temperature": math.inf}, r"method.temperature: must be > 0 and finite, got inf"),
    ],
)
def test_settings_that_cannot_be(kind: type[SignConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**changes)
