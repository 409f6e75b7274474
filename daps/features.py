"""Reconstructions against originals in the features of networks: Frechet distances, top-1 agreement, LPIPS.

The networks are passed in; `measures` loads the pretrained ones that a user asks for. Figures gather batch by batch.
"""

import hashlib
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from daps.metrics import frechet_distance
from daps.pretrained import LPIPS, FeatureNetwork, load_efficientnet, load_inception, load_lpips

NETWORKS = ("efficientnet", "inception")
FIGURES = {  # name -> (label, format)
    "rfid": ("rFID (Inception)", ",.2f"),
    "fid_to_statistics": ("FID to the given statistics (Inception)", ",.2f"),
    "frechet_efficientnet_lite0": ("Frechet distance, EfficientNet-Lite0 (not FID)", ",.3f"),
    "top1_agreement_efficientnet_lite0": ("same top-1 class, EfficientNet-Lite0", ".1%"),
    "lpips": ("LPIPS (AlexNet)", ".4f"),
}
CHUNK = 32  # pictures that a network sees at once


def rgb_bytes(x: Shaped[Tensor, "N *shape"], peak: float) -> UInt8[Tensor, "N 3 H W"]:
    """Images [N, C, H, W] in natural units as 8-bit RGB: clipped to 0..peak, rounded; grey is repeated.

    Raises:
        ValueError: no images, another number of channels than 1 or 3, or values that are not finite.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"features: pictures must have shape [1 or 3, H, W], got {list(x.shape[1:])}; leave --features out"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError("features: pictures must be finite, got NaN or infinite values; the training has diverged")
    return (x.float() / peak).clamp(0, 1).mul(255).round().byte().expand(-1, 3, -1, -1)


class Statistics(NamedTuple):
    """Mean [D] and covariance [D, D] of features, float64 on the CPU."""

    mean: Tensor
    covariance: Tensor


class Moments:
    """Mean and covariance of vectors that come in batches; memory does not grow with their number.

    Batches are merged about their own means (Chan, Golub and LeVeque, 1979), in float64, so nothing cancels.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "N D"]) -> None:
        """Takes a batch in."""
        x = features.cpu().double()
        count = self.count + len(x)
        mean = x.mean(0)
        shift, centred = mean - self.mean, x - mean
        self.scatter += centred.T @ centred + torch.outer(shift, shift) * (self.count * len(x) / count)
        self.mean = self.mean + shift * (len(x) / count)
        self.count = count

    def statistics(self) -> Statistics:
        """Mean, and covariance with n - 1 below.

        Raises:
            ValueError: fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"features: a Frechet distance needs >= 2 data, got {self.count}; raise --limit")
        return Statistics(self.mean, self.scatter / (self.count - 1))


# -- comparisons -----------------------------------------------------------------------------------


class Comparison(ABC):
    """Figures of reconstructions against originals, gathered batch by batch."""

    about: dict[str, Any]

    @abstractmethod
    def add(self, originals: UInt8[Tensor, "N 3 H W"], reconstructions: Mapping[str, UInt8[Tensor, "N 3 H W"]]) -> None:
        """Takes in a batch, and its reconstructions by each mode of encoding."""

    @abstractmethod
    def figures(self, mode: str) -> dict[str, float]:
        """The figures of all batches."""


Measure = Callable[[], Comparison]


class FrechetComparison(Comparison):
    """Frechet distance of a network's features, and how often its best class stays the same.

    `name` is the figure's, for example "rfid". With `reference`, statistics of features of other pictures, there is
    also `fid_to_statistics`: from the reconstructions to those, as the paper reports.
    """

    def __init__(
        self, network: FeatureNetwork, name: str, about: dict[str, Any], reference: Statistics | None = None
    ) -> None:
        self.network, self.name, self.reference = network, name, reference
        made = [name, "fid_to_statistics"] if reference else [name]
        self.about = {"network": network.title, "features": network.width, "figures": made} | about
        self.originals = Moments(network.width)
        self.modes: dict[str, Moments] = {}
        self.agreed: dict[str, int] = {}

    def add(self, originals: UInt8[Tensor, "N 3 H W"], reconstructions: Mapping[str, UInt8[Tensor, "N 3 H W"]]) -> None:
        """Takes in a batch; the same pictures are seen once."""
        features, classes = self._see(originals)
        self.originals.add(features)
        seen: list[tuple[Tensor, Tensor, Tensor | None]] = [(originals, features, classes)]
        for mode, pictures in reconstructions.items():
            same = next((known for known in seen if torch.equal(known[0], pictures)), None)
            seen.append(same or (pictures, *self._see(pictures)))
            _, features, found = seen[-1]
            self.modes.setdefault(mode, Moments(self.network.width)).add(features)
            if classes is not None and found is not None:
                self.agreed[mode] = self.agreed.get(mode, 0) + int((found == classes).sum())

    @torch.no_grad()
    def _see(self, pictures: UInt8[Tensor, "N 3 H W"]) -> tuple[Float[Tensor, "N D"], Int[Tensor, " N"] | None]:
        """Features, and the best classes."""
        features, scores = zip(*(self.network(part) for part in pictures.split(CHUNK)), strict=True)
        classes = None if scores[0] is None else torch.cat(scores).argmax(-1)
        return torch.cat(features), classes

    def figures(self, mode: str) -> dict[str, float]:
        """The distance, the share of data whose best class stayed, and the distance to the reference."""
        found = self.modes[mode].statistics()
        figures = {self.name: float(frechet_distance(*self.originals.statistics(), *found))}
        if self.agreed:
            figures[f"top1_agreement_{self.network.key}"] = self.agreed[mode] / self.originals.count
        if self.reference:
            figures["fid_to_statistics"] = float(frechet_distance(*self.reference, *found))
        return figures


class LPIPSComparison(Comparison):
    """Mean LPIPS over data."""

    def __init__(self, network: LPIPS, about: dict[str, Any]) -> None:
        self.network = network
        self.about = {"network": "LPIPS 0.1, AlexNet", "figures": ["lpips"]} | about
        self.sums: dict[str, float] = {}
        self.count = 0

    @torch.no_grad()
    def add(self, originals: UInt8[Tensor, "N 3 H W"], reconstructions: Mapping[str, UInt8[Tensor, "N 3 H W"]]) -> None:
        """Takes in a batch."""
        self.count += len(originals)
        for mode, pictures in reconstructions.items():
            for a, b in zip(originals.split(CHUNK), pictures.split(CHUNK), strict=True):
                self.sums[mode] = self.sums.get(mode, 0.0) + float(self.network(a, b).cpu().double().sum())

    def figures(self, mode: str) -> dict[str, float]:
        """The mean."""
        return {"lpips": self.sums[mode] / self.count}


def compare_batch(
    comparisons: Sequence[Comparison], originals: Tensor, reconstructions: Mapping[str, Tensor], peak: float
) -> None:
    """Shows a batch of images in natural units, and its reconstructions by mode, to all comparisons."""
    if comparisons:
        pictures = {mode: rgb_bytes(x, peak) for mode, x in reconstructions.items()}
        seen = rgb_bytes(originals, peak)
        for comparison in comparisons:
            comparison.add(seen, pictures)


# -- what a user asks for --------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureConfig:
    """Which networks compare, and where their weights are; a path asks for its network too."""

    networks: tuple[str, ...] = ()
    """efficientnet, inception."""
    inception: Path | None = None
    """Inception's weights, torch-fidelity's file; that package fetches them if left out."""
    statistics: Path | None = None
    """.npz with mu and sigma of Inception's features of reference pictures, such as ADM's."""
    lpips: Path | None = None
    """AlexNet's ImageNet weights, torchvision's file, for LPIPS."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.networks if name not in NETWORKS]
        if unknown:
            raise ValueError(f"features: must be of {', '.join(NETWORKS)}, got {unknown[0]!r}")
        for name in ("inception", "statistics", "lpips"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name}: must be a file, got {path}; check the path")

    @property
    def wanted(self) -> dict[str, dict[str, Any]]:
        """The distances asked for, as in FIGURES, with what their record says of the files given."""
        inception = named_file("weights", self.inception) | named_file("statistics", self.statistics)
        asked = {
            "rfid": ("inception" in self.networks or self.inception, inception),
            "fid_to_statistics": (self.statistics, inception),
            "frechet_efficientnet_lite0": ("efficientnet" in self.networks, {}),
            "lpips": (self.lpips, named_file("weights", self.lpips)),
        }
        return {name: files for name, (wanted, files) in asked.items() if wanted}


def measures(config: FeatureConfig, shape: tuple[int, ...], device: str | torch.device = "cpu") -> list[Measure]:
    """Loads the networks that are asked for, to compare data of this shape; each call of a measure starts anew.

    Raises:
        ValueError: the data are no pictures, a package is missing, or a file is not what it should be.
    """
    if config != FeatureConfig():
        rgb_bytes(torch.empty(0, *shape), 1.0)  # complains at once
    if config.lpips:
        LPIPS.check(*shape[-2:])
    found: list[Measure] = []
    if "efficientnet" in config.networks:
        network: FeatureNetwork = load_efficientnet()
        about = {"input": "224 x 224, bilinear, antialiased"}
        found.append(partial(FrechetComparison, _frozen(network, device), "frechet_efficientnet_lite0", about))
    if "inception" in config.networks or config.inception or config.statistics:
        reference = read_statistics(config.statistics) if config.statistics else None
        network = load_inception(config.inception)
        if reference and len(reference.mean) != network.width:
            raise ValueError(
                f"statistics: must be of {network.width:,} features, got {len(reference.mean):,} in {config.statistics}"
            )
        about = named_file("weights", config.inception) | named_file("statistics", config.statistics)
        found.append(partial(FrechetComparison, _frozen(network, device), "rfid", about, reference))
    if config.lpips:
        found.append(
            partial(LPIPSComparison, _frozen(load_lpips(config.lpips), device), named_file("weights", config.lpips))
        )
    return found


def _frozen(network: Any, device: str | torch.device) -> Any:
    return network.to(device).eval().requires_grad_(False)


def named_file(key: str, path: str | Path | None) -> dict[str, Any]:
    """A file by name and content, for the record."""
    if path is None:
        return {}
    with Path(path).open("rb") as file:
        return {key: Path(path).name, f"{key}_sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_statistics(path: Path) -> Statistics:
    """mu [D] and sigma [D, D] of an .npz, as the reference files of FID name them.

    Raises:
        ValueError: unreadable, or without these.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (torch.from_numpy(np.asarray(file[key], dtype=np.float64)) for key in ("mu", "sigma"))
    except (ValueError, KeyError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"statistics: {path} must be an .npz with mu and sigma ({error})") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"statistics: needs mu [D] and sigma [D, D], got {list(mean.shape)} and {list(covariance.shape)} in {path}"
        )
    if not bool(covariance.isfinite().all() and mean.isfinite().all() and torch.allclose(covariance, covariance.T)):
        raise ValueError(f"statistics: mu and sigma must be finite and sigma symmetric; {path} is damaged")
    return Statistics(mean, covariance)
