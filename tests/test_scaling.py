"""Scalings, distributions in natural units, and statistics of data."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from daps.scaling import Affine, Scaled, Scaling, Threshold, statistics

IMAGES = torch.randint(256, (5, 3, 4, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def per_channel() -> Affine:
    """Standardises each of 3 channels in its own way."""
    shift = torch.tensor([100.0, 50.0, 10.0]).view(3, 1, 1)
    return Affine(shift, torch.tensor([2.0, 60.0, 0.5]).view(3, 1, 1), peak=255.0)


def test_affine_is_the_formula_per_channel() -> None:
    y = per_channel()(IMAGES)
    numbers = IMAGES.numpy().astype(np.float64)
    for channel, (shift, scale) in enumerate([(100, 2), (50, 60), (10, 0.5)]):
        np.testing.assert_allclose(y[:, channel].numpy(), (numbers[:, channel] - shift) / scale, rtol=1e-6)
    assert y.dtype == torch.float32 and per_channel().double()(IMAGES).dtype == torch.float64


@pytest.mark.parametrize("scaling", [Affine(), Affine(3.0, 0.1), per_channel()])
def test_inverse_undoes_forward(scaling: Scaling) -> None:
    torch.testing.assert_close(scaling.inverse(scaling(IMAGES)), IMAGES.float(), rtol=1e-6, atol=1e-4)
    y = torch.randn(5, 3, 4, 2)
    torch.testing.assert_close(scaling(scaling.inverse(y)), y, rtol=1e-4, atol=1e-4)


def test_the_default_changes_nothing() -> None:
    x = torch.randn(3, 2)
    assert torch.equal(Affine()(x), x) and torch.equal(Affine().inverse(x), x)


@pytest.mark.parametrize(("peak", "dark", "bright"), [(255.0, 127, 128), (16.0, 8, 9)])
def test_threshold_binarises_above_half_the_peak(peak: float, dark: int, bright: int) -> None:
    scaling = Threshold(peak)
    x = torch.tensor([0, dark, bright, int(peak)], dtype=torch.uint8)
    assert scaling(x).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert scaling.inverse(scaling(x)).tolist() == [0.0, 0.0, peak, peak]
    assert torch.equal(scaling(scaling.inverse(scaling(x))), scaling(x))
    assert scaling.scale() == peak


def test_scaled_speaks_natural_units() -> None:
    scaling = per_channel().double()
    mean = torch.randn(2, 5, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    deviation = mean.abs() + 0.5
    distribution = Scaled(Independent(Normal(mean, deviation), 3), scaling)
    unit, shift = scaling.unit, scaling.shift
    assert distribution.batch_shape == (2, 5) and distribution.event_shape == (3, 4, 2)
    torch.testing.assert_close(distribution.mean, mean * unit + shift)
    torch.testing.assert_close(distribution.variance, (deviation * unit) ** 2)
    torch.testing.assert_close(distribution.stddev, deviation * unit)
    # The density of the scaled datum: that of the natural one has the logarithm of the units on top.
    natural = Normal(mean * unit + shift, deviation * unit).log_prob(IMAGES.double())
    expected = (natural + unit.log().expand(3, 4, 2)).sum((-1, -2, -3))
    torch.testing.assert_close(distribution.log_prob(IMAGES), expected)

    torch.manual_seed(0)
    draws = distribution.sample((2000,))
    error = deviation * unit / 2000**0.5
    assert draws.shape == (2000, 2, 5, 3, 4, 2)
    assert bool(((draws.mean(0) - distribution.mean).abs() < 5 * error).all())
    torch.testing.assert_close(draws.std(0), deviation * unit, rtol=0.1, atol=0)
    assert distribution.sample().shape == (2, 5, 3, 4, 2)


@pytest.mark.parametrize(
    ("shape", "axes", "kept"),
    [((50, 3, 4, 2), (0, 2, 3), (3, 1, 1)), ((50, 6, 4), (0, 1), (4,)), ((50, 5), (0,), (5,))],
)
@pytest.mark.parametrize("chunk", [7, 50, 4096])
def test_statistics_are_those_of_numpy(
    shape: tuple[int, ...], axes: tuple[int, ...], kept: tuple[int, ...], chunk: int
) -> None:
    values = np.random.default_rng(0).normal(1000, 3, shape).astype(np.float32)
    mean, deviation = statistics(values, chunk)
    wide = values.astype(np.float64)
    assert mean.shape == deviation.shape == kept and mean.dtype == deviation.dtype == torch.float32
    np.testing.assert_allclose(mean.flatten().numpy(), wide.mean(axes), rtol=1e-7)
    np.testing.assert_allclose(deviation.flatten().numpy(), wide.std(axes), rtol=1e-6)
    scaled = Affine(mean, deviation)(torch.from_numpy(values)).double().numpy()
    np.testing.assert_allclose(scaled.mean(axes), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axes), 1, rtol=1e-4)


def test_statistics_of_bytes_do_not_overflow() -> None:
    values = np.full((300, 1, 8, 8), 255, dtype=np.uint8)
    values[::2] = 253
    mean, deviation = statistics(values, chunk=64)
    assert mean.item() == 254 and deviation.item() == 1


def test_a_constant_feature_is_not_divided_by_noise() -> None:
    values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    values[:, 1] = 7.0
    mean, deviation = statistics(values)
    assert (mean[1].item(), deviation[1].item()) == (7.0, 1.0)
    assert bool((Affine(mean, deviation)(torch.from_numpy(values))[:, 1] == 0).all())
