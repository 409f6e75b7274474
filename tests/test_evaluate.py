"""Evaluation: every figure recomputed by hand, by scipy and by scikit-image."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from scipy.special import logsumexp
from scipy.stats import entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from daps.architecture import Architecture
from daps.data import Dataset
from daps.encoder import Encoder
from daps.evaluate import Protocol, code_usage, evaluate, ssim_window, subset
from daps.features import Comparison
from daps.methods import Autoencoder, DAPSConfig, FSQConfig
from daps.scaling import Affine, Scaling, Threshold

T, V = 4, 3
PROTOCOL = Protocol(samples=6, batch_size=3, seed=1)  # 7 data: the last batch has one


def images(shape: tuple[int, int, int], count: int = 7) -> Dataset:
    """Smooth bytes, so that SSIM has something to compare."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(shape[1]), np.arange(shape[2])) * 6
    values = (ramp + rng.integers(0, 120, (count, *shape))).astype(np.uint8)
    return Dataset(values, "ramps", "validation", 255.0, "made for this test")


def build(shape: tuple[int, ...], scaling: Scaling, **changes: Any) -> Autoencoder:
    """An untrained model whose codes depend on the datum."""
    torch.manual_seed(0)
    nets = Architecture(
        num_tokens=T, vocab_size=V, width=8, heads=2, patches=(2, 2), hidden=(16,), norm="batch", data_shape=shape
    )
    return DAPSConfig(beta_last=0.25).build(dataclasses.replace(nets, **changes), scaling, steps=1)


@pytest.fixture
def dataset() -> Dataset:
    return images((1, 8, 8))


@pytest.fixture
def model() -> Autoencoder:
    return build((1, 8, 8), Affine(120.0, 50.0, peak=255.0))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    """What each call of an encoder's `sample` was given and gave: data, codes, log q, temperature."""
    calls: list[tuple[Tensor, Tensor, Tensor, float]] = []
    kind = type(build((1, 8, 8), Affine()).encoder)
    original = kind.sample

    def sample(
        self: Encoder, x: Tensor, k: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        codes, log_q = original(self, x, k, temperature, generator)
        calls.append((x, codes, log_q, temperature))
        return codes, log_q

    monkeypatch.setattr(kind, "sample", sample)
    return calls


# -- the figures -----------------------------------------------------------------------------------


def test_likelihoods_are_those_of_the_sampled_codes(
    model: Autoencoder, dataset: Dataset, recorded: list[tuple[Tensor, Tensor, Tensor, float]]
) -> None:
    figures, _ = evaluate(model, dataset, PROTOCOL)
    log_p, kl, bound = [], [], []
    for y, codes, log_q, _ in (call for call in recorded if len(call[1]) == 6):
        with torch.no_grad():
            share = model.encoder.logits(y, codes).softmax(-1).double().numpy()
            rewards = model.decoder(codes).log_prob(y).double().numpy()
        log_p += rewards.mean(0).tolist()
        kl += (math.log(V) - entropy(share, axis=-1)).sum(-1).mean(0).tolist()
        terms = rewards - T * math.log(V) - log_q.double().sum(-1).numpy()
        bound += (logsumexp(terms, axis=0) - math.log(6)).tolist()
    assert len(log_p) == figures["n"] == 7
    near = {"rel": 1e-5}  # float32 networks
    assert figures["log_p"] == pytest.approx(np.mean(log_p), **near)
    assert figures["kl"] == pytest.approx(np.mean(kl), **near)
    assert figures["elbo"] == pytest.approx(np.mean(log_p) - np.mean(kl), **near)
    assert figures["beta"] == 0.25
    assert figures["beta_elbo"] == pytest.approx(np.mean(log_p) - 0.25 * np.mean(kl), **near)
    assert figures["iw_log_likelihood"] == pytest.approx(np.mean(bound), **near)
    assert figures["nominal_bits"] == pytest.approx(T * math.log2(V), rel=1e-12)
    assert figures["entropy_bits"] == pytest.approx(T * math.log2(V) - np.mean(kl) / math.log(2), **near)


@pytest.mark.parametrize(("mode", "temperature"), [("stochastic", 1.0), ("greedy", 0.0)])
def test_reconstructions_are_scored_as_scikit_image_does(
    model: Autoencoder,
    dataset: Dataset,
    recorded: list[tuple[Tensor, Tensor, Tensor, float]],
    mode: str,
    temperature: float,
) -> None:
    figures = evaluate(model, dataset, PROTOCOL)[0][mode]
    batches = [codes[0] for _, codes, _, t in recorded if len(codes) == 1 and t == temperature]
    codes, x = torch.cat(batches), dataset[:]
    distribution = model.eval().decode(codes)
    x_hat = distribution.mean.double().numpy()
    ratios = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(x.astype(float), x_hat, strict=True)]
    similarities = [
        structural_similarity(a[0], b[0], win_size=7, use_sample_covariance=False, data_range=255)
        for a, b in zip(x.astype(float), x_hat, strict=True)
    ]
    assert figures["log_p"] == pytest.approx(distribution.log_prob(torch.from_numpy(x)).mean().item(), rel=1e-5)
    assert figures["psnr"] == pytest.approx(np.mean(ratios), rel=1e-5)
    assert figures["psnr_pooled"] == pytest.approx(20 * math.log10(255) - 10 * math.log10(((x - x_hat) ** 2).mean()))
    assert figures["ssim"] == pytest.approx(np.mean(similarities), abs=1e-4)

    counts = np.stack([np.bincount(codes[:, t].numpy(), minlength=V) for t in range(T)])
    assert figures["usage_per_position"] == pytest.approx(((counts > 0).mean(1)).tolist())
    assert figures["usage_pooled"] == pytest.approx((counts.sum(0) > 0).mean())
    assert figures["perplexity_per_position"] == pytest.approx(np.exp(entropy(counts, axis=1)).tolist())
    assert figures["perplexity_pooled"] == pytest.approx(math.exp(entropy(counts.sum(0))))
    assert figures["code_bits"] == pytest.approx(entropy(counts, base=2, axis=1).sum())


@pytest.mark.parametrize("shape", [(1, 12, 14), (3, 11, 16)])
def test_ssim_of_larger_pictures_is_gaussian(shape: tuple[int, int, int]) -> None:
    model, dataset = build(shape, Affine(120.0, 50.0, peak=255.0), patches=(1, 2)), images(shape)
    figures, arrays = evaluate(model, dataset, PROTOCOL)
    expected = [
        structural_similarity(
            a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        for a, b in zip(dataset[:].astype(float), arrays["reconstructions"].astype(float), strict=True)
    ]
    assert figures["ssim_window"] == 11
    assert figures["greedy"]["ssim"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_binarised_images_are_compared_with_what_the_likelihood_is_of(dataset: Dataset) -> None:
    model = build((1, 8, 8), Threshold(255.0), likelihood_kind="bernoulli")
    figures, arrays = evaluate(model, dataset, PROTOCOL)
    black_and_white = 255.0 * (dataset[:] > 127)
    error = ((black_and_white - arrays["reconstructions"]) ** 2).mean((1, 2, 3))
    assert figures["greedy"]["psnr"] == pytest.approx((10 * np.log10(255**2 / error)).mean(), rel=1e-5)


def test_vectors_have_no_ssim() -> None:
    values = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    dataset = Dataset(values, "noise", "validation", 6.0, "made for this test")
    figures, _ = evaluate(build((10,), Affine(peak=6.0), patches=(4,)), dataset, PROTOCOL)
    assert figures["ssim_window"] is None and figures["greedy"]["ssim"] is None
    assert math.isfinite(figures["greedy"]["psnr"])
    assert [ssim_window(s) for s in [(1, 6, 9), (1, 7, 9), (3, 11, 11), (8, 3)]] == [None, 7, 11, None]


def test_arrays_are_originals_greedy_reconstructions_and_counts(model: Autoencoder) -> None:
    dataset = images((1, 8, 8), count=40)
    figures, arrays = evaluate(model, dataset, dataclasses.replace(PROTOCOL, batch_size=7))
    assert np.array_equal(arrays["originals"], dataset[:32])
    with torch.no_grad():
        codes = model.eval().encode(dataset[:])
        expected = model.decode(codes).mean.numpy()
    np.testing.assert_allclose(arrays["reconstructions"], expected[:32], rtol=1e-4)
    assert arrays["counts"].sum(1).tolist() == [40] * T
    assert arrays["counts"].tolist() == [torch.bincount(codes[:, t], minlength=V).tolist() for t in range(T)]


@pytest.mark.parametrize("binary", [False, True])
def test_bits_per_dim_are_of_natural_units(model: Autoencoder, dataset: Dataset, binary: bool) -> None:
    """Standardised by 50 grey levels per unit, a density per grey level is 50 times lower; masses are as they are."""
    if binary:
        model = build((1, 8, 8), Threshold(255.0), likelihood_kind="bernoulli")
    figures, _ = evaluate(model, dataset, PROTOCOL)
    expected = -figures["iw_log_likelihood"] / math.log(2) / 64 + (0 if binary else math.log2(50))
    assert figures["bits_per_dim"] == pytest.approx(expected, rel=1e-6)  # 50 is a float32


class Recorder(Comparison):
    """Keeps what it is shown; its figure is the mean byte of the reconstructions."""

    about = {"network": "none"}

    def __init__(self) -> None:
        self.seen: dict[str, list[Tensor]] = {}

    def add(self, originals: UInt8[Tensor, "N 3 H W"], reconstructions: Mapping[str, UInt8[Tensor, "N 3 H W"]]) -> None:
        for name, pictures in {"originals": originals, **reconstructions}.items():
            self.seen.setdefault(name, []).append(pictures)

    def figures(self, mode: str) -> dict[str, float]:
        return {"mean_byte": torch.cat(self.seen[mode]).double().mean().item()}


def test_networks_see_originals_and_both_reconstructions_in_batches(model: Autoencoder, dataset: Dataset) -> None:
    recorders: list[Recorder] = []

    def start() -> Recorder:
        recorders.append(Recorder())
        return recorders[-1]

    plain, _ = evaluate(model, dataset, PROTOCOL)
    for _ in range(2):  # the second time from the start, not on top of the first
        figures, arrays = evaluate(model, dataset, PROTOCOL, [start])
        seen = recorders[-1].seen
        assert {name: [len(part) for part in parts] for name, parts in seen.items()} == dict.fromkeys(
            ("originals", "stochastic", "greedy"), [3, 3, 1]
        )
        assert torch.equal(torch.cat(seen["originals"]), torch.from_numpy(dataset[:]).expand(-1, 3, -1, -1))
        greedy = torch.from_numpy(arrays["reconstructions"]).clamp(0, 255).round().byte().expand(-1, 3, -1, -1)
        assert torch.equal(torch.cat(seen["greedy"]), greedy)
        assert not torch.equal(torch.cat(seen["greedy"]), torch.cat(seen["stochastic"]))
        means = {mode: {"mean_byte": torch.cat(seen[mode]).double().mean().item()} for mode in ("stochastic", "greedy")}
        assert figures["features"] == means and figures["protocol"]["features"] == [{"network": "none"}]
    assert "features" not in plain and figures["stochastic"] == plain["stochastic"]  # the other figures do not change


def test_networks_see_the_binarised_image(dataset: Dataset) -> None:
    recorder = Recorder()
    evaluate(build((1, 8, 8), Threshold(255.0), likelihood_kind="bernoulli"), dataset, PROTOCOL, [lambda: recorder])
    assert torch.equal(torch.cat(recorder.seen["originals"])[:, :1], 255 * torch.from_numpy(dataset[:] > 127).byte())


# -- the protocol ----------------------------------------------------------------------------------


def test_the_protocol_says_what_the_figures_are_of(model: Autoencoder, dataset: Dataset) -> None:
    figures, _ = evaluate(model, dataset, dataclasses.replace(PROTOCOL, limit=5))
    assert figures["protocol"] == {
        "split": "validation",
        "n": 5,
        "shape": [1, 8, 8],
        "data": "made for this test",
        "seed": 1,
        "batch_size": 3,
        "importance_samples": 6,
        "stochastic": "one sample of q(z|x) per datum",
        "greedy": "the most likely symbol at each token",
        "features": [],
    }


def test_progress_is_shown_if_asked_for(
    model: Autoencoder, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = evaluate(model, dataset, PROTOCOL)[0]
    assert capsys.readouterr().out == ""
    assert evaluate(model, dataset, dataclasses.replace(PROTOCOL, progress=True))[0] == quiet
    assert "data 7/7" in capsys.readouterr().out


def test_a_seed_fixes_all_figures(model: Autoencoder, dataset: Dataset) -> None:
    first, again, other = (evaluate(model, dataset, dataclasses.replace(PROTOCOL, seed=seed))[0] for seed in (1, 1, 2))
    assert first == again
    assert first["log_p"] != other["log_p"] and first["greedy"] == other["greedy"]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    evaluate(model, dataset, PROTOCOL)
    assert torch.equal(torch.get_rng_state(), state)  # training goes on as if nothing had been


def test_the_batch_size_changes_no_greedy_figure(model: Autoencoder, dataset: Dataset) -> None:
    together = evaluate(model, dataset, dataclasses.replace(PROTOCOL, batch_size=100))[0]["greedy"]
    for size in (1, 2, 3):
        apart = evaluate(model, dataset, dataclasses.replace(PROTOCOL, batch_size=size))[0]["greedy"]
        for name, value in together.items():
            assert apart[name] == pytest.approx(value, rel=1e-5), name


def test_a_limit_takes_the_first_data(model: Autoencoder, dataset: Dataset) -> None:
    first = dataclasses.replace(dataset, values=dataset[:4])
    limited = evaluate(model, dataset, dataclasses.replace(PROTOCOL, limit=4))[0]
    assert limited == evaluate(model, first, PROTOCOL)[0]
    assert (limited["n"], limited["split"], limited["seed"]) == (4, "validation", 1)
    assert evaluate(model, dataset, dataclasses.replace(PROTOCOL, limit=99))[0]["n"] == 7


def test_the_bounds_are_in_order(model: Autoencoder) -> None:
    dataset = images((1, 8, 8), count=60)
    few, many = (evaluate(model, dataset, Protocol(samples=samples, batch_size=60))[0] for samples in (4, 64))
    assert many["elbo"] < few["iw_log_likelihood"] < many["iw_log_likelihood"]


def test_fsq_goes_by_the_same_protocol(dataset: Dataset) -> None:
    nets = dataclasses.replace(build_nets(), vocab_size=6)
    torch.manual_seed(0)
    model = FSQConfig((3, 2)).build(nets, Affine(120.0, 50.0, peak=255.0), steps=1)
    figures, _ = evaluate(model, dataset, PROTOCOL)
    bits = T * math.log2(6)
    assert figures["kl"] == pytest.approx(bits * math.log(2), rel=1e-6)
    assert figures["entropy_bits"] == pytest.approx(0, abs=1e-5)
    assert figures["iw_log_likelihood"] == pytest.approx(figures["elbo"], rel=1e-6)
    assert figures["stochastic"] == figures["greedy"]


def build_nets() -> Architecture:
    """Networks for 8 x 8 images with one patch per token."""
    return Architecture(num_tokens=T, vocab_size=V, width=8, heads=2, patches=(2, 2), data_shape=(1, 8, 8))


@pytest.mark.parametrize("training", [True, False])
def test_it_evaluates_in_evaluation_mode_and_restores_the_mode(dataset: Dataset, training: bool) -> None:
    convolutional = {"decoder_kind": "conv", "decoder_grid": (2, 2)}
    model = build((1, 8, 8), Affine(120.0, 50.0, peak=255.0), **convolutional).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, dataset, PROTOCOL)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    broken = dataclasses.replace(dataset, values=np.full((2, 1, 8, 8), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="x: must be finite"):
        evaluate(model, broken, PROTOCOL)
    assert model.training == training


def test_the_figures_are_plain_json(model: Autoencoder, dataset: Dataset) -> None:
    figures, _ = evaluate(model, dataset, PROTOCOL)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_usage_by_hand() -> None:
    usage = code_usage(torch.tensor([[0, 2], [1, 2], [0, 2], [1, 2]]), 4)
    assert usage["usage_per_position"] == [0.5, 0.25] and usage["usage_pooled"] == 0.75
    assert usage["perplexity_per_position"] == pytest.approx([2.0, 1.0])
    assert usage["perplexity_pooled"] == pytest.approx(2**1.5)
    assert usage["code_bits"] == pytest.approx(1.0)


def test_a_subset_is_spread_evenly(dataset: Dataset) -> None:
    assert np.array_equal(subset(dataset, 4), dataset[np.array([0, 2, 4, 6])])
    assert np.array_equal(subset(dataset, 99), dataset[:])


@pytest.mark.parametrize("name", ["samples", "batch_size", "limit"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: must be >= 1, got 0"):
        Protocol(**{name: 0})
