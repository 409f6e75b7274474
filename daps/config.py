"""The settings of a run, and their JSON: `config.json` alone rebuilds the model."""

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from daps.architecture import Architecture
from daps.methods import METHODS, Autoencoder, MethodConfig
from daps.optim import Kind
from daps.scaling import Affine, Scaling, Threshold
from daps.spectral import Spectral

FORMAT = 2  # of a run folder


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how they are scaled for the networks."""

    name: str = "digits"
    """digits, mnist, cifar10, images, array, lafan1 or gait."""
    path: str | None = None
    """Folder of pictures, parquet files or clips, or an .npy/.npz file; mnist and cifar10 come from the hub without."""
    size: int | None = None
    """Height and width that pictures are resized and cropped to."""
    scaling: Literal["standardise", "binarise", "spectral"] = "standardise"
    """Mean 0 and variance 1 per channel or feature; or 1 where a pixel is above half its peak; or, of sequences, the
    standardised features as coefficients over time that have next to no correlation."""
    mirror: bool = False
    """Of motion: every training clip also as a mirror shows it, left and right exchanged."""


@dataclass(frozen=True)
class TrainConfig:
    """What decides the outcome of a training beside data, networks and method."""

    steps: int = 2_000
    """Updates."""
    batch_size: int = 256
    """Data per update, drawn with replacement."""
    optimizer: Kind = "adamw"
    """AdamW, or Muon for the matrices inside the networks and AdamW for the rest."""
    muon_iterations: int = 3
    """Newton-Schulz iterations of a step of Muon; its authors take 5."""
    learning_rate: float = 3e-4
    """At the first step, or after the warm-up."""
    warmup: int = 0
    """Steps over which the learning rate rises from zero."""
    learning_rate_decay: float = 1.0
    """Learning rate at the last step as a fraction of that at the first, along half a cosine; 1 keeps it constant."""
    weight_decay: float = 1e-4
    """Decoupled, on all parameters of the networks."""
    ema: float = 0.0
    """Memory of the weights' moving average, e.g. 0.999: it begins at the first weights, and is what is evaluated and
    saved, with the latest batch statistics; 0: none."""
    clip: float = 1.0
    """Largest ratio of gradient norm to parameter norm, per output unit (adaptive gradient clipping)."""
    seed: int = 0
    """Parameters, batches and samples are functions of it."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "muon_iterations", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"train.{name}: must be > 0 and finite, got {getattr(self, name)}")
        if not 0 < self.learning_rate_decay <= 1:
            raise ValueError(f"train.learning_rate_decay: must lie in (0, 1], got {self.learning_rate_decay:g}")
        if not 0 <= self.warmup < self.steps or not 0 <= self.ema < 1:
            raise ValueError(
                f"train: warmup must lie in 0..steps - 1 = {self.steps - 1} and ema in [0, 1), got {self.warmup} and "
                f"{self.ema:g}"
            )
        if not 0 <= self.weight_decay < math.inf or not 0 <= self.seed < 2**63:
            raise ValueError(
                "train: weight_decay must be >= 0 and finite, seed in 0..2^63 - 1, got "
                f"{self.weight_decay:g} and {self.seed}"
            )


@dataclass(frozen=True)
class RuntimeConfig:
    """How a training is carried out; a resumed run may change these."""

    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""
    log_every: int = 20
    """Steps between rows of metrics.jsonl."""
    eval_every: int = 500
    """Steps between validations and sample pictures."""
    save_every: int = 500
    """Steps between checkpoints."""
    eval_size: int = 1_000
    """Validation data used while training; `daps eval` uses all."""

    def __post_init__(self) -> None:
        for name in ("log_every", "eval_every", "save_every", "eval_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"runtime.{name}: must be >= 1, got {getattr(self, name)}")
        if self.threads < 0:
            raise ValueError(f"runtime.threads: must be >= 0, got {self.threads}; 0 leaves the choice to PyTorch")


@dataclass(frozen=True)
class Config:
    """One experiment: a row of `daps.presets.PRESETS`, with options applied."""

    preset: str
    data: DataConfig
    nets: Architecture
    method: MethodConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        if self.nets.likelihood_kind == "bernoulli" and self.data.scaling != "binarise":
            raise ValueError(
                f"nets.likelihood_kind: bernoulli wants values of 0 and 1, but data.scaling is {self.data.scaling}; "
                "choose data.scaling binarise, or gaussian"
            )

    @property
    def method_name(self) -> str:
        """The method's key in METHODS."""
        return next(name for name, kind in METHODS.items() if isinstance(self.method, kind))

    def scaling(self, statistics: tuple[Any, Any], peak: Any) -> Scaling:
        """The scaling asked for, from (mean, standard deviation) of the training data and its peak; not yet fitted."""
        if self.data.scaling == "binarise":
            return Threshold(float(peak))
        if self.data.scaling == "spectral":
            return Spectral(*statistics, peak, self.nets.data_shape, self.nets.num_tokens)
        return Affine(*statistics, peak)

    def build(self, scaling: Scaling) -> Autoencoder:
        """The untrained model; nets.data_shape must be known."""
        nets = dataclasses.replace(self.nets, data_shape=scaling.model_shape(self.nets.data_shape))
        return self.method.build(nets, scaling, self.train.steps)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        groups = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "preset"}
        settings = {name: dataclasses.asdict(group) for name, group in groups.items()}
        return {"format": FORMAT, "preset": self.preset, "method_name": self.method_name, **settings}

    @staticmethod
    def from_dict(settings: Any) -> "Config":
        """The inverse of to_dict.

        Raises:
            ValueError: another format, an unknown method, or unknown or missing settings.
        """
        found = settings.get("format") if isinstance(settings, dict) else None
        if found != FORMAT:
            raise ValueError(
                f"config.json: this version reads run format {FORMAT}, the folder has {found}; "
                "open it with the version of daps named in its environment.json"
            )
        method = METHODS.get(str(settings.get("method_name")))
        if method is None:
            raise ValueError(
                f"config.json: method_name must be one of {', '.join(METHODS)}, got {settings.get('method_name')!r}"
            )
        kinds = {
            "data": DataConfig,
            "nets": Architecture,
            "method": method,
            "train": TrainConfig,
            "runtime": RuntimeConfig,
        }
        try:
            groups = {name: _from_json(kind, settings[name]) for name, kind in kinds.items()}
            return Config(preset=settings["preset"], **groups)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"config.json: unknown or missing setting ({error}); it was written by another version of daps"
            ) from error


def _from_json(kind: type, values: dict[str, Any]) -> Any:
    """A frozen config from JSON, whose lists stand for tuples.

    A setting that is not there is younger than the file and takes its default, which is what runs did before it: within
    a FORMAT, new settings have such defaults.
    """
    unknown = values.keys() - typing.get_type_hints(kind).keys()
    if unknown:
        raise KeyError(", ".join(sorted(unknown)))
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
