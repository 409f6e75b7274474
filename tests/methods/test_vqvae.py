"""VQ-VAE: its loss and gradients put together by hand, its codebook by plain loops and against another library."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import NETS, gradients, normal
from daps.data import Dataset
from daps.methods.vqvae import VQVAE, AveragedCodebook, Codebook, LearnedCodebook, VQVAEConfig
from daps.presets import preset
from daps.scaling import Affine
from daps.train import Trainer, build_model, resolve

N, B, T, V = 6, 5, 3, 4  # values, data, tokens, symbols
KINDS = pytest.mark.parametrize(
    ("codebook", "distance"),
    [("ema", "euclidean"), ("ema", "cosine"), ("gradient", "euclidean"), ("gradient", "cosine")],
)


def build(**changes: Any) -> VQVAE:
    """A small model in float64 whose codebook is at N(0, 1)."""
    torch.manual_seed(0)
    return VQVAEConfig(**{"from_data": False, **changes}).build(NETS, Affine(0.5, 2.0), steps=1).double()


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# -- one step --------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("dimension", [0, 2])
def test_the_loss_is_the_published_one(codebook: str, distance: str, dimension: int, x: Tensor) -> None:
    model = build(codebook=codebook, distance=distance, dimension=dimension, commitment=0.3)
    loss, metrics = model.eval()(x, 0)
    with torch.no_grad():
        y = (x - 0.5) / 2
        h = model.encoder.head(model.encoder.trunk(y)).numpy()
        rows = model.codebook.rows().numpy()
    squares, codes = 0.0, np.zeros((B, T), dtype=np.int64)
    for b in range(B):
        for t in range(T):
            z, table = h[b, t], rows
            if distance == "cosine":
                z, table = z / np.linalg.norm(z), rows / np.linalg.norm(rows, axis=1, keepdims=True)
            distances = [float(((z - e) ** 2).sum()) for e in table]
            codes[b, t] = int(np.argmin(distances))
            squares += min(distances)
    gap = squares / (B * T * (dimension or 8))
    assert np.array_equal(model.encode(x).numpy(), codes)
    log_p = model.decode(codes).log_prob(x).mean().item()
    weight = 0.3 + (1.0 if codebook == "gradient" else 0.0)
    assert loss.item() == pytest.approx(-log_p + N * weight * gap, rel=1e-10)
    assert float(metrics["gap"]) == pytest.approx(gap, rel=1e-10)
    assert float(metrics["elbo"]) == pytest.approx(log_p - T * math.log(V), rel=1e-10)


@KINDS
def test_the_gradients_are_those_put_together_by_hand(codebook: str, distance: str, x: Tensor) -> None:
    """The decoder's derivative at the code vectors goes to the features as it is; the losses' by their formulas."""
    model = build(codebook=codebook, distance=distance, dimension=2, commitment=0.3).eval()
    model(x, 0)[0].backward()
    found = gradients(model.encoder.trunk) + gradients(model.encoder.head) + gradients(model.decoder.net)
    found += gradients(model.decoder.embedding.project)
    moved = model.codebook.weight.grad
    model.zero_grad()

    y = (x - 0.5) / 2
    z, codes = model.encoder.features(y), model.encode(x)
    vectors = model.codebook.vectors(codes).detach().requires_grad_()
    (-model.decoder(vectors).log_prob(y).mean()).backward()
    share = 2 * N / (B * T * 2)  # N times the derivative of a mean of squares over tokens and dimensions
    slope = vectors.grad + 0.3 * share * (z.detach() - vectors.detach())
    z.backward(slope)
    expected = gradients(model.encoder.trunk) + gradients(model.encoder.head) + gradients(model.decoder.net)
    expected += gradients(model.decoder.embedding.project)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
    assert bool(found[0].any()) and bool(expected[-1].any())

    if codebook == "ema":
        assert moved is None
        return
    pull = torch.zeros(V, 2, dtype=torch.float64)
    rows = model.codebook.rows().detach()
    for b in range(B):
        for t in range(T):
            v = int(codes[b, t])
            change = share * (vectors[b, t] - z[b, t]).detach()
            if distance == "cosine":  # through e = r / |r|: the part across e, over |r|
                e = vectors[b, t].detach()
                change = (change - (change @ e) * e) / rows[v].norm()
            pull[v] += change
    torch.testing.assert_close(moved, pull, rtol=1e-9, atol=1e-12)


@KINDS
def test_codes_decode_to_what_training_saw(codebook: str, distance: str, x: Tensor) -> None:
    model = build(codebook=codebook, distance=distance).float().eval()
    x = x.float()
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    log_p = model(x, 0)[1]["log_p"]
    codes = model.encode(x)
    assert torch.equal(model.codebook.vectors(codes), seen[0])
    assert torch.equal(model.decode(codes).log_prob(x).mean(), log_p)


@KINDS
def test_evaluation_leaves_the_codebook_and_training_moves_it(codebook: str, distance: str, x: Tensor) -> None:
    model = build(codebook=codebook, distance=distance, revival=0.1)
    before = state(model)
    model.eval()(x, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in state(model).items())
    model.train()(x, 0)
    changed = {
        name.rpartition(".")[2] for name, tensor in state(model).items() if not torch.equal(before[name], tensor)
    }
    assert changed == ({"usage", "sums", "weight"} if codebook == "ema" else {"usage"})


# -- the codebook ----------------------------------------------------------------------------------


def features(count: int, dimensions: int, seed: int) -> Tensor:
    """Three clusters, so that some codes die."""
    centres = 3 * normal(3, dimensions, seed=99)
    return centres[torch.arange(count) % 3] + 0.3 * normal(count, dimensions, seed=seed)


def averaged(size: int = 7, **changes: Any) -> AveragedCodebook:
    torch.manual_seed(1)
    return AveragedCodebook(size, 2, VQVAEConfig(**{"from_data": False, "revival": 0.0, **changes})).double()


def test_the_averages_are_those_of_a_loop() -> None:
    codebook = averaged(decay=0.8, smoothing=1e-2)
    rows = codebook.weight.tolist()
    counts, sums = [1.0] * 7, [list(row) for row in rows]
    for step in range(12):
        z = features(20, 2, step)
        chosen = [
            min(range(7), key=lambda v: sum((a - b) ** 2 for a, b in zip(f, rows[v], strict=True))) for f in z.tolist()
        ]
        assert codebook.symbols(z).tolist() == chosen
        codebook.observe(z, codebook.symbols(z))
        for v in range(7):
            members = [f for f, c in zip(z.tolist(), chosen, strict=True) if c == v]
            counts[v] = 0.8 * counts[v] + 0.2 * len(members)
            for d in range(2):
                sums[v][d] = 0.8 * sums[v][d] + 0.2 * sum(f[d] for f in members)
        for v in range(7):
            smoothed = (counts[v] + 1e-2) / (sum(counts) + 7e-2) * sum(counts)
            rows[v] = [total / smoothed for total in sums[v]]
    torch.testing.assert_close(codebook.table(), torch.tensor(rows, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(codebook.usage, torch.tensor(counts, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_averages_are_those_of_another_library(distance: str) -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    codebook = averaged(decay=0.9, smoothing=1e-3, distance=distance).float()
    other = library.VectorQuantize(
        2, 7, decay=0.9, eps=1e-3, commitment_weight=0.25, use_cosine_sim=distance == "cosine", kmeans_init=False,
        threshold_ema_dead_code=0, rotation_trick=False,
    )  # fmt: skip
    with torch.no_grad():
        codebook.weight.copy_(codebook.table())
        codebook.sums.copy_(codebook.weight)
        other._codebook.embed.copy_(codebook.weight[None])
        other._codebook.embed_avg.copy_(codebook.weight[None])
        other._codebook.cluster_size.fill_(1.0)
    other.train()
    for step in range(10):
        z = codebook.place(features(20, 2, step).float())
        symbols = codebook.symbols(z)
        vectors = codebook.vectors(symbols)
        quantised, indices, loss = other(z[None])
        assert torch.equal(indices[0], symbols)
        torch.testing.assert_close(quantised[0], vectors, rtol=1e-5, atol=1e-6)
        if distance == "euclidean":
            assert float(loss.detach()) == pytest.approx(0.25 * float((z - vectors).square().mean()), rel=1e-5)
        codebook.observe(z, symbols)
        torch.testing.assert_close(other._codebook.embed[0], codebook.table(), rtol=1e-4, atol=1e-5)


def learned(size: int = 7, **changes: Any) -> LearnedCodebook:
    torch.manual_seed(1)
    return LearnedCodebook(size, 2, VQVAEConfig(codebook="gradient", from_data=False, **changes)).double()


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_dead_codes_become_features_of_the_batch(kind: str) -> None:
    torch.manual_seed(1)
    codebook: Codebook = averaged(revival=0.2) if kind == "ema" else learned(revival=0.2)
    z = features(20, 2, 0)
    usage = torch.tensor([4.0, 0.01, 3.0, 0.0, 2.0, 1.0, 0.7], dtype=torch.float64)
    expected, twin = [], averaged()  # what a codebook without revival does
    twin.load_state_dict(codebook.state_dict(), strict=False)
    for each in (codebook, twin):
        each.usage.copy_(usage)
    symbols = torch.tensor([0, 2, 4, 5, 6])[torch.arange(20) % 5]
    twin.observe(z, symbols)
    plain = twin.table() if kind == "ema" else codebook.table().detach().clone()
    mean = twin.usage.mean()
    parameter = codebook.weight.clone()
    torch.manual_seed(5)
    codebook.observe(z, symbols)
    for v in range(7):
        row = codebook.table()[v].detach()
        if float(twin.usage[v]) < 0.2 * mean:
            expected.append(v)
            assert bool(torch.isclose(z, row, rtol=1e-12, atol=0).all(-1).any())
            assert codebook.usage[v] == mean
        else:
            assert torch.equal(row, plain[v]) and codebook.usage[v] == twin.usage[v]
    assert expected == [1, 3]
    revived = codebook.table()[expected].detach()
    assert not torch.equal(revived[0], revived[1])
    if isinstance(codebook, AveragedCodebook):
        torch.testing.assert_close(codebook.sums[expected], mean * revived)
    else:
        assert torch.equal(codebook.weight, parameter)  # a parameter would keep the change when a step is skipped


def test_which_features_are_drawn_follows_the_seed() -> None:
    tables = []
    for seed in (3, 3, 4):
        codebook = averaged(revival=0.1)
        codebook.usage[:3] = 0.0
        torch.manual_seed(seed)
        z = features(20, 2, 0)
        codebook.observe(z, codebook.symbols(z))
        tables.append(codebook.table())
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])


@pytest.mark.parametrize("make", [averaged, learned])
def test_revival_brings_dead_codes_to_use(make: Any) -> None:
    shares = []
    for revival in (0.0, 0.2):
        codebook = make(revival=revival, decay=0.9)
        rows = codebook.table().detach()
        codebook.replace(torch.arange(7) > 0, rows + 100.0)  # the first code takes all
        for step in range(60):
            z = features(20, 2, step)
            codebook.observe(z, codebook.symbols(z))
        shares.append(len(codebook.symbols(features(200, 2, 100)).unique()))
    assert shares[0] == 1 and shares[1] == 7


@pytest.mark.parametrize(("make", "count"), [(averaged, 20), (averaged, 5), (learned, 20), (learned, 5)])
def test_code_vectors_begin_as_features_of_the_first_batch(make: Any, count: int) -> None:
    codebook = make()
    codebook.begun.fill_(False)
    z = features(count, 2, 0)
    codebook.begin(z)
    found = [int(torch.isclose(z, row, rtol=1e-12, atol=1e-15).all(-1).nonzero()) for row in codebook.table().detach()]
    assert len(set(found)) == min(count, 7) and bool(codebook.begun)
    before = state(codebook)
    codebook.begin(features(count, 2, 1))
    assert all(torch.equal(before[name], tensor) for name, tensor in state(codebook).items())


@KINDS
def test_the_first_batch_is_quantised_by_itself(codebook: str, distance: str, x: Tensor) -> None:
    model = build(codebook=codebook, distance=distance, from_data=True, revival=0.0).eval()
    with torch.no_grad():
        z = model.encoder.features((x - 0.5) / 2).flatten(0, 1)
    gap = model(x, 0)[1]["gap"]
    torch.manual_seed(2)
    first = model.train()(x, 0)[1]["gap"]
    torch.manual_seed(2)
    chosen = z[torch.randperm(B * T)[:V]]
    assert float(first) == pytest.approx(float(torch.cdist(z, chosen).amin(-1).square().mean() / 8), rel=1e-9)
    assert float(first) < float(gap)


# -- in a training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_data_that_are_not_finite_leave_the_codebook(codebook: str) -> None:
    """The first batch too, from which the code vectors would begin."""
    config = preset("digits", "vqvae")
    config = dataclasses.replace(
        config,
        method=VQVAEConfig(codebook=codebook, revival=0.9),
        nets=dataclasses.replace(config.nets, width=8, hidden=(8,)),
        train=dataclasses.replace(config.train, steps=5, batch_size=4),
    )
    values = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    good = Dataset(values, "digits", "train", 1.0, "random numbers")
    bad = dataclasses.replace(good, values=np.full_like(values, np.nan))
    config = resolve(config, good)
    loop = Trainer(config, build_model(config, good))
    loop.model.train()
    for data in (bad, good, bad, good):
        before = state(loop.model)
        loop.advance(data)
        unchanged = all(torch.equal(before[name], tensor) for name, tensor in state(loop.model).items())
        assert unchanged == (data is bad)
    assert loop.skipped == 2


def test_code_vectors_are_not_decayed() -> None:
    model = build(codebook="gradient")
    nets, vectors = model.parameter_groups(1e-3, 0.1)
    assert vectors["params"] == [model.codebook.weight] and (vectors["lr"], vectors["weight_decay"]) == (1e-3, 0.0)
    assert (nets["lr"], nets["weight_decay"]) == (1e-3, 0.1)
    assert {id(p) for p in model.parameters()} == {id(p) for p in [*nets["params"], *vectors["params"]]}
    averaged = build()
    (alone,) = averaged.parameter_groups(1e-3, 0.1)
    assert {id(p) for p in alone["params"]} == {id(p) for p in averaged.parameters()} and alone["weight_decay"] == 0.1
    decayed = build(codebook="gradient", decayed=True).parameter_groups(1e-3, 0.1)
    assert [group["weight_decay"] for group in decayed] == [0.1, 0.1]


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_code_vectors_begin_as_wide_as_asked_for(codebook: str) -> None:
    nets = dataclasses.replace(NETS, vocab_size=512, width=64)
    model = VQVAEConfig(codebook=codebook, from_data=False, spread=0.125).build(nets, Affine(), steps=1)
    assert float(model.codebook.table().detach().std()) == pytest.approx(0.125, rel=0.02)


def test_encoder_and_decoder_share_the_codebook() -> None:
    for codebook in ("ema", "gradient"):
        model = build(codebook=codebook, dimension=2)
        assert model.encoder.quantiser is model.decoder.embedding.quantiser
        assert model.final_beta == 0.01 and model.codebook.dimensions == 2
    assert build().codebook.dimensions == NETS.width


@KINDS
def test_it_learns_four_data(codebook: str, distance: str) -> None:
    torch.manual_seed(0)
    nets = dataclasses.replace(NETS, variance=(0.01, 0.01))
    model = VQVAEConfig(codebook=codebook, distance=distance, decay=0.9).build(nets, Affine(), steps=1)
    x = torch.randn(4, 6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(400):
        optimizer.zero_grad()
        model(x, step)[0].backward()
        optimizer.step()
    best = -6 * 0.5 * math.log(2 * math.pi * 0.01)
    model.eval()
    assert len(model.encode(x).unique(dim=0)) == 4
    assert model.decode(model.encode(x)).log_prob(x).mean().item() > best - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commitment": -1.0}, r"method.commitment: must be >= 0 and finite, got -1; the paper takes 0.25"),
        ({"commitment": math.inf}, r"method.commitment: must be >= 0 and finite, got inf"),
        ({"decay": 1.0}, r"method.decay: must lie in \[0, 1\), got 1; 0.99 is usual"),
        ({"decay": math.nan}, r"method.decay: must lie in \[0, 1\), got nan"),
        ({"smoothing": 0.0}, r"method.smoothing: must be > 0 and finite, got 0; 1e-5 is usual"),
        ({"spread": 0.0}, r"method.spread: must be > 0 and finite, got 0; 1 is usual"),
        ({"dimension": -1}, r"method.dimension: must be >= 0, got -1; 0 takes the networks' width"),
        ({"revival": 1.0}, r"method.revival: is a share of the average usage in \[0, 1\), got 1; try 0.1"),
        ({"revival": -0.1}, r"method.revival: is a share of the average usage in \[0, 1\), got -0.1"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQVAEConfig(**changes)
