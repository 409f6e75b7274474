"""The spectral scaling is orthonormal, decorrelates, deals fairly, and is kept with a run."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from daps.cli import main
from daps.data import load
from daps.run import Run
from daps.scaling import Affine, Scaled
from daps.spectral import Spectral, cosines, deal

FRAMES, FEATURES, TOKENS = 8, 3, 4


def smooth(count: int, seed: int = 0) -> Tensor:
    """Random walks whose features are mixed: correlated over time and over features, [count, F, C]."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(count, FRAMES, FEATURES, generator=generator).cumsum(1)
    return 5 + steps @ torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.3, 0.5], [0.2, 0.0, 2.0]])


@pytest.fixture
def fitted() -> Spectral:
    x = smooth(3_000)
    scaling = Spectral(x.mean((0, 1)), x.std((0, 1)), x.amax((0, 1)) - x.amin((0, 1)), (FRAMES, FEATURES), TOKENS)
    scaling.fit(x.numpy())
    return scaling


def matrix(scaling: Spectral) -> Tensor:
    """Model units -> standardised data as one dense matrix [F C, F C], a column per coefficient."""
    size = FRAMES * FEATURES
    units = torch.eye(size).view(size, TOKENS, -1)
    return ((scaling.inverse(units) - scaling.shift) / scaling.unit).flatten(1).T


def test_the_transform_is_orthonormal_and_comes_back(fitted: Spectral) -> None:
    torch.testing.assert_close(matrix(fitted).T @ matrix(fitted), torch.eye(24), rtol=0, atol=1e-5)
    x = smooth(7, seed=1)
    y = fitted(x)
    assert y.shape == (7, *fitted.model_shape((FRAMES, FEATURES))) == (7, TOKENS, 6)
    torch.testing.assert_close(fitted.inverse(y), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(fitted.inverse(y[None, :, None]), x[None, :, None], rtol=0, atol=1e-5)
    plain = Affine(fitted.shift, fitted.unit)(x)
    torch.testing.assert_close(y.square().flatten(1).sum(-1), plain.square().flatten(1).sum(-1), rtol=1e-5, atol=0)


def test_the_cosines_are_those_of_the_discrete_transform() -> None:
    n = np.arange(FRAMES)
    for k in range(FRAMES):
        wave = [math.cos(math.pi * k * (2 * i + 1) / (2 * FRAMES)) for i in n]
        row = cosines(FRAMES)[k].numpy()
        np.testing.assert_allclose(row, np.array(wave) / np.linalg.norm(wave), atol=1e-6)


def test_coefficients_of_a_frequency_are_uncorrelated_and_dealt_by_variance(fitted: Spectral) -> None:
    y = fitted(smooth(3_000)).double().flatten(1)
    second = (y.T @ y / len(y)).numpy()
    frequency = (fitted.order // FEATURES).numpy()
    same = (frequency[:, None] == frequency) & ~np.eye(24, dtype=bool)
    assert np.abs(second[same]).max() < 1e-3 * second.diagonal().max()
    ranked = second.diagonal()[np.argsort(deal(24, TOKENS).numpy())]
    assert (np.diff(ranked) <= 1e-6).all() and ranked[0] > 20 * ranked[-1]


def test_few_coefficients_hold_what_neighbouring_frames_share(fitted: Spectral) -> None:
    y, plain = fitted(smooth(500, seed=2)).flatten(1), Affine(fitted.shift, fitted.unit)(smooth(500, seed=2)).flatten(1)
    shares = [z.square().mean(0).sort(descending=True).values[:6].sum() / z.square().mean(0).sum() for z in (y, plain)]
    assert shares[0] > 0.85 and shares[1] < 0.5


def test_every_token_has_the_same_share() -> None:
    dealt = deal(24, 4).view(4, 6)
    assert dealt.flatten().sort().values.tolist() == list(range(24))
    assert len(set(dealt.sum(1).tolist())) == 1 and dealt[:, 0].tolist() == [0, 1, 2, 3]
    assert dealt[:, 1].tolist() == [7, 6, 5, 4]


def test_a_fit_of_a_part_takes_evenly_spaced_data() -> None:
    x = smooth(100)
    whole, part = (Spectral(5.0, 1.0, 1.0, (FRAMES, FEATURES), TOKENS) for _ in range(2))
    whole.fit(x[::4].numpy())
    part.fit(x.numpy(), most=25)
    assert torch.equal(whole.components, part.components) and torch.equal(whole.order, part.order)


def test_distributions_speak_natural_units(fitted: Spectral) -> None:
    generator = torch.Generator().manual_seed(3)
    mean, scale = torch.randn(2, 5, TOKENS, 6, generator=generator)
    base = torch.distributions.Independent(torch.distributions.Normal(mean, scale.exp()), 2)
    natural = Scaled(base, fitted)
    assert natural.event_shape == (FRAMES, FEATURES) and natural.batch_shape == (5,)
    rows = matrix(fitted)
    expected = (rows.square() @ base.variance.flatten(1).T).T.view(5, FRAMES, FEATURES) * fitted.unit**2
    torch.testing.assert_close(natural.variance, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(natural.mean, fitted.inverse(mean))
    covariance = rows @ torch.diag_embed(base.variance.flatten(1)) @ rows.T
    x = smooth(5, seed=4)
    whole = torch.distributions.MultivariateNormal(mean.flatten(1) @ rows.T, covariance)
    standardised = Affine(fitted.shift, fitted.unit)(x).flatten(1)
    torch.testing.assert_close(natural.log_prob(x), whole.log_prob(standardised), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("shape", "tokens", "message"),
    [
        ((24,), 4, r"data.scaling: spectral is for sequences \[F, C\], got \[24\]; take standardise"),
        ((8, 3), 5, "deals 8 x 3 = 24 coefficients to the tokens, and nets.num_tokens = 5 does not divide them"),
    ],
)
def test_what_it_refuses(shape: tuple[int, ...], tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spectral(0.0, 1.0, 1.0, shape, tokens)


@pytest.mark.parametrize("method", ["daps", "fsq"])
def test_a_run_keeps_its_transform(method: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny = "--train.steps 2 --train.batch-size 4 --nets.width 8 --nets.heads 2 --nets.hidden 8 --runtime.eval-size 4"
    main(
        ["train", "gait", "--data.scaling", "spectral", "--method", method, "--run", str(run), "--device", "cpu"]
        + tiny.split()
    )
    model = Run(run).load_model()
    x = torch.from_numpy(load("gait", "validation")[:3])
    assert isinstance(model.scaling, Spectral) and model.data_shape == (32, 36)
    assert not torch.equal(model.scaling.components[1], torch.eye(36))
    torch.testing.assert_close(model.scaling.inverse(model.scaling(x)), x, rtol=0, atol=1e-4)
    decoded = model.decode(model.encode(x))
    assert decoded.mean.shape == (3, 32, 36) and decoded.log_prob(x).shape == (3,)
    main(["eval", str(run), "--samples", "1", "--limit", "4", "--device", "cpu"])
