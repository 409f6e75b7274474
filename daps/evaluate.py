"""One protocol for every method: likelihoods, reconstruction quality and use of the codes on held-out data.

It speaks to a model through its using face and its encoder and decoder, so it knows no method.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from daps.atomic import replacing
from daps.data import MOTION, Dataset, load
from daps.encoder import token_entropy
from daps.features import Comparison, FeatureConfig, Measure, compare_batch, measures, named_file
from daps.kinematics import Kinematics
from daps.methods import Autoencoder
from daps.metrics import bits_per_dim, count_entropy, importance_weighted, psnr, relative_error, symbol_counts
from daps.motion import G1_JOINTS
from daps.motion_metrics import feature_errors
from daps.nn.mode import evaluating
from daps.progress import ProgressLine
from daps.run import Run, environment, pick_device, write_json
from daps.scaling import Threshold

MODES = {"stochastic": 1.0, "greedy": 0.0}  # ways to encode -> temperature


@dataclass(frozen=True)
class Protocol:
    """How to evaluate."""

    samples: int = 8
    """S, code sequences per datum for the likelihoods."""
    batch_size: int = 100
    """Data at a time."""
    limit: int | None = None
    """Only the first so many data; all if None."""
    seed: int = 0
    """Of the samples; with another batch size it gives other ones."""
    ssim: bool = True
    """Whether to compute the SSIM of images, whose library takes seconds to load."""
    robot: str | Path | None = None
    """MJCF file of the robot that motion is of, for the errors of its joints' positions."""
    progress: bool = False
    """Whether to show how far it is."""

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be >= 1, got {value}")


@torch.no_grad()
def likelihoods(
    model: Autoencoder, x: Tensor, samples: int, generator: torch.Generator
) -> tuple[dict[str, Float[Tensor, " B"]], Float[Tensor, "T V"]]:
    """log p, exact KL along sampled prefixes and the importance-weighted bound of each datum, nats.

    Also the mean over data and samples of q(z_t | x, z_<t): the aggregate's distribution at every position.
    """
    y = model.scaling(x)
    codes, log_q = model.encoder.sample(y, samples, generator=generator)
    log_p = _exact(model.decoder(codes).log_prob(y))
    log_policy = model.encoder.logits(y, codes).log_softmax(-1)  # [S or 1, B, T, V]
    entropy = _exact(token_entropy(log_policy)).sum(-1).mean(0)
    figures = {
        "log_p": log_p.mean(0),
        "kl": model.bits * math.log(2) - entropy,
        "iw_log_likelihood": importance_weighted(log_p, _exact(log_q).sum(-1), model.bits),
    }
    return figures, _exact(log_policy.exp().mean((0, 1)))


@torch.no_grad()
def reconstruction(
    model: Autoencoder, x: Tensor, temperature: float, generator: torch.Generator, ssim: bool
) -> tuple[dict[str, Float[Tensor, " B"]], Tensor, Tensor]:
    """Per-datum log p, squared error over squared peak, PSNR and (images) SSIM of one encoding; codes; reconstruction.

    The original is what the likelihood is of: for binarised images, the binarised image.
    """
    peak = model.scaling.peak
    codes = model.encode(x, temperature, generator)
    distribution = model.decode(codes)
    original, mean = model.scaling.inverse(model.scaling(x)), distribution.mean
    figures = {
        "log_p": _exact(distribution.log_prob(x)),
        "relative_error": relative_error(*map(_exact, (original, mean, peak))),
        "psnr": _exact(psnr(original, mean, peak)),
    }
    window = ssim_window(model.data_shape) if ssim else None
    if window:
        figures["ssim"] = _exact(_ssim(original, mean, float(peak), window))
    return figures, codes, mean


def _exact(x: Tensor) -> Tensor:
    """As float64 on the CPU, where every device's figures can be added up without loss."""
    return x.cpu().double()


def ssim_window(shape: tuple[int, ...]) -> int | None:
    """Side of the SSIM window: 11 pixels, Gaussian, as is usual; 7, uniform, for smaller images; None without."""
    if len(shape) != 3 or min(shape[1:]) < 7:
        return None
    return 11 if min(shape[1:]) >= 11 else 7


def _ssim(x: Tensor, x_hat: Tensor, peak: float, window: int) -> Tensor:
    """SSIM over the windows that lie wholly inside the image, as its authors and scikit-image define it."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, everywhere = structural_similarity_index_measure(
        x_hat,
        x,
        gaussian_kernel=window == 11,
        kernel_size=window,
        reduction="none",
        data_range=peak,
        return_full_image=True,
    )
    edge = window // 2
    return everywhere[..., edge:-edge, edge:-edge].flatten(1).mean(1)


def evaluate(
    model: Autoencoder, dataset: Dataset, protocol: Protocol, compared: Sequence[Measure] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All figures of a split, as JSON holds them, and arrays for pictures. docs/evaluation.md says what each is.

    Args:
        model: of any method.
        dataset: the split.
        protocol: how.
        compared: what networks find in the reconstructions of pictures, see `daps.features.measures`.

    Returns:
        figures: `log_p`, `kl`, `elbo` (beta = 1), `beta_elbo` (the method's final beta) and `iw_log_likelihood`
            in nats per datum, means over S samples of q; bits: nominal, entropy of q(z|x), and information, the
            entropies of the aggregate's positions less that of q(z|x), which is I(x; z) but for what positions
            share; and for a "stochastic" (one sample of q) and a "greedy" encoding (the likeliest symbol at each
            token): log p, PSNR (mean over data, and of the pooled error), SSIM, usage and perplexity of the codebook
            per position and pooled.
            Of motion also "motion": the mean over windows of each of `daps.motion_metrics.UNITS`, for both encodings,
            of measures also "features". "protocol" says what all this is of, and how it was encoded.
        arrays: the first 32 `originals` and greedy `reconstructions`, and `counts` [T, V] of greedy symbols.
    """
    with evaluating(model):
        return _evaluate(model, dataset, protocol, [start() for start in compared])


def _evaluate(
    model: Autoencoder, dataset: Dataset, protocol: Protocol, comparisons: list[Comparison]
) -> tuple[dict[str, Any], dict[str, Any]]:
    count = min(len(dataset), protocol.limit or len(dataset))
    peak = model.scaling.peak
    generator = torch.Generator().manual_seed(protocol.seed)
    columns: dict[str, list[Tensor]] = {}
    codes: dict[str, list[Tensor]] = {mode: [] for mode in MODES}
    shown: list[Tensor] = []
    moving, kinematics = dataset.name in MOTION, check_robot(dataset, protocol)
    aggregate = torch.zeros(model.num_tokens, model.vocab_size, dtype=torch.float64)
    for batch in _batches(count, protocol):
        x = torch.as_tensor(dataset[batch], device=model.device)
        bounds, policy = likelihoods(model, x, protocol.samples, generator)
        aggregate += policy * (len(x) / count)
        for name, column in bounds.items():
            columns.setdefault(name, []).append(column)
        decoded: dict[str, Tensor] = {}
        for mode, temperature in MODES.items():
            figures, batch_codes, mean = reconstruction(model, x, temperature, generator, protocol.ssim)
            if moving:
                figures |= {f"motion.{name}": e for name, e in feature_errors(x, mean, kinematics).items()}
            for name, column in figures.items():
                columns.setdefault(f"{mode}.{name}", []).append(column)
            codes[mode].append(batch_codes)
            decoded[mode] = mean
        compare_batch(comparisons, model.scaling.inverse(model.scaling(x)), decoded, float(peak.max()))
        if batch.start < 32:
            shown.append(mean)
    means = {name: float(torch.cat(parts).mean()) for name, parts in columns.items()}
    results = _summary(model, means, aggregate) | {
        "split": dataset.split,
        "n": count,
        "importance_samples": protocol.samples,
        "seed": protocol.seed,
        "ssim_window": ssim_window(dataset.shape),
        "peak": peak.tolist(),
        "protocol": _about(dataset, protocol, count, comparisons),
    }
    for mode in MODES:
        results[mode] = _quality(means, mode) | code_usage(torch.cat(codes[mode]), model.vocab_size)
    if moving:
        results["motion"] = {mode: _below(means, f"{mode}.motion.") for mode in MODES}
    if comparisons:
        results["features"] = {
            mode: {name: value for one in comparisons for name, value in one.figures(mode).items()} for mode in MODES
        }
    arrays = {
        "originals": dataset[: min(32, count)],
        "reconstructions": torch.cat(shown)[:32].cpu().numpy(),
        "counts": symbol_counts(torch.cat(codes["greedy"]), model.vocab_size).cpu().numpy(),
    }
    return results, arrays


def _batches(count: int, protocol: Protocol) -> Iterator[slice]:
    """The first `count` data in batches, with a line of progress if that is asked for."""
    size = protocol.batch_size
    batches = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    if not protocol.progress:
        yield from batches
        return
    with ProgressLine(0, count, units=("data", "data")) as line:
        for batch in batches:
            yield batch
            line.update(batch.stop, {})


def _about(dataset: Dataset, protocol: Protocol, count: int, comparisons: list[Comparison]) -> dict[str, Any]:
    """What every figure is of and how it was made."""
    return {
        "split": dataset.split,
        "n": count,
        "shape": list(dataset.shape),
        "data": dataset.about,
        "seed": protocol.seed,
        "batch_size": protocol.batch_size,
        "importance_samples": protocol.samples,
        "stochastic": "one sample of q(z|x) per datum",
        "greedy": "the most likely symbol at each token",
        **named_file("robot", protocol.robot),
        "features": [one.about for one in comparisons],
    }


def check_robot(dataset: Dataset, protocol: Protocol) -> Kinematics | None:
    """Kinematics of the robot asked for, or None.

    Raises:
        ValueError: no motion, or a robot with other joints.
    """
    if protocol.robot is None:
        return None
    if dataset.name not in MOTION:
        raise ValueError(f"robot: belongs to motion ({', '.join(MOTION)}), the data are {dataset.name}; leave it out")
    kinematics = Kinematics.from_mjcf(protocol.robot)
    if kinematics.joints != G1_JOINTS:
        raise ValueError(
            f"robot: {protocol.robot} must have the {len(G1_JOINTS)} joints of the Unitree G1 in their order, "
            f"{G1_JOINTS[0]} to {G1_JOINTS[-1]}, got {len(kinematics.joints)}: {', '.join(kinematics.joints) or 'none'}"
        )
    return kinematics


def _below(means: dict[str, float], prefix: str) -> dict[str, float]:
    """The figures whose names begin so, without the beginning."""
    return {name.removeprefix(prefix): value for name, value in means.items() if name.startswith(prefix)}


def _summary(model: Autoencoder, means: dict[str, float], aggregate: Tensor) -> dict[str, Any]:
    log_p, kl = means["log_p"], means["kl"]
    entropy_bits = model.bits - kl / math.log(2)
    return {
        "log_p": log_p,
        "kl": kl,
        "elbo": log_p - kl,
        "beta": model.final_beta,
        "beta_elbo": log_p - model.final_beta * kl,
        "iw_log_likelihood": means["iw_log_likelihood"],
        "num_tokens": model.num_tokens,
        "vocab_size": model.vocab_size,
        "bits_per_dim": bits_per_dim(means["iw_log_likelihood"], math.prod(model.data_shape), _log_units(model)),
        "nominal_bits": model.bits,
        "entropy_bits": entropy_bits,
        "information_bits": float(count_entropy(aggregate).sum()) / math.log(2) - entropy_bits,
    }


def _log_units(model: Autoencoder) -> float:
    """Sum over a datum's values of the log of natural units per model unit, nats; 0 for binarised images, of masses."""
    if isinstance(model.scaling, Threshold):
        return 0.0
    return float(_exact(model.scaling.scale()).log().expand(model.data_shape).sum())


def _quality(means: dict[str, float], mode: str) -> dict[str, Any]:
    error = means[f"{mode}.relative_error"]
    return {
        "log_p": means[f"{mode}.log_p"],
        "psnr": means[f"{mode}.psnr"],
        "psnr_pooled": -10 * math.log10(error) if error > 0 else math.inf,
        "ssim": means.get(f"{mode}.ssim"),
    }


def code_usage(codes: Tensor, vocab_size: int) -> dict[str, Any]:
    """Share of symbols that occur and perplexity exp(entropy), per position and over all positions; bits used."""
    counts = symbol_counts(codes, vocab_size)
    perplexity = count_entropy(counts).exp()
    return {
        "usage_per_position": _exact(counts > 0).mean(-1).tolist(),
        "usage_pooled": float(_exact(counts.sum(0) > 0).mean()),
        "perplexity_per_position": perplexity.tolist(),
        "perplexity_pooled": float(count_entropy(counts.sum(0)).exp()),
        "code_bits": float(perplexity.log2().sum()),
    }


def evaluate_run(
    folder: str | Path,
    protocol: Protocol,
    split: str = "validation",
    data_path: str | None = None,
    device: str = "auto",
    features: FeatureConfig | None = None,
) -> dict[str, Any]:
    """Evaluates a run on its own data; all of the validation split goes into evaluation.json and evaluation.npz.

    The training split goes into evaluation_train.json and .npz; a part of a split (`protocol.limit`) is not stored.

    Args:
        folder: of the run.
        protocol: how.
        split: train or validation.
        data_path: where the data are now, if they have moved since the training.
        device: cpu, cuda, mps, or auto.
        features: pretrained networks that compare pictures.

    Raises:
        ValueError: not a run, no weights yet, data missing or of another shape, or no weights of a network.
    """
    run = Run.open(folder)
    config = run.config()
    model = run.load_model(pick_device(device))
    try:
        data = config.data
        dataset = load(data.name, split, path=data_path or data.path, size=data.size, mirror=data.mirror)
    except ValueError as error:
        raise ValueError(f"{error}; if the data have moved, say where with --data-path") from error
    if dataset.shape != model.data_shape:
        raise ValueError(
            f"data: the run was trained on data of shape {list(model.data_shape)}, but {dataset.name} now has "
            f"{list(dataset.shape)}; give the same data with --data-path"
        )
    figures, arrays = evaluate(
        model, dataset, protocol, measures(features or FeatureConfig(), dataset.shape, model.device)
    )
    figures |= {
        "preset": config.preset,
        "method": config.method_name,
        "step": run.trained_steps(),
        "data": dataset.about,
        "data_path": data_path,
        "environment": environment(model.device),
    }
    if protocol.limit is None or protocol.limit >= len(dataset):
        name = "evaluation" if split == "validation" else f"evaluation_{split}"
        _keep(figures, run, f"{name}.json")
        with replacing(run.path / f"{name}.npz") as file:
            np.savez_compressed(file, **arrays)
        write_json(run.path / f"{name}.json", figures)
    return figures


def is_evaluated(run: Run, protocol: Protocol, features: FeatureConfig) -> bool:
    """Whether all that is asked for is there, made as asked for, of the run's own data and the weights that it has."""
    if not (run.path / "evaluation.json").is_file():
        return False
    old = run.read_json("evaluation.json")
    about = old.get("protocol", {})
    asked = {"seed": protocol.seed, "batch_size": protocol.batch_size, "importance_samples": protocol.samples}
    asked |= named_file("robot", protocol.robot)
    entries = about.get("features", [])
    return (
        old["step"] == run.trained_steps()
        and old.get("data_path") is None
        and asked.items() <= about.items()
        and all(
            any(name in entry.get("figures", ()) and files.items() <= entry.items() for entry in entries)
            for name, files in features.wanted.items()
        )
    )


def _keep(figures: dict[str, Any], run: Run, name: str) -> None:
    """Takes over what an earlier evaluation measured and this one was not asked for, if it was as this one."""
    old = run.read_json(name) if (run.path / name).is_file() else {}
    if not old or any(old.get(key) != figures[key] for key in ("step", "data_path")):
        return
    there, here = old.get("protocol", {}), figures["protocol"]
    extras = ("features", "robot", "robot_sha256")
    if {key: there.get(key) for key in here if key not in extras} != {k: v for k, v in here.items() if k not in extras}:
        return
    for group in ("features", "motion"):
        for mode, found in old.get(group, {}).items():
            figures.setdefault(group, {})[mode] = {**found, **figures.get(group, {}).get(mode, {})}
    if "robot" not in here:
        here |= {key: there[key] for key in extras[1:] if key in there}
    new = {figure for entry in here["features"] for figure in entry["figures"]}
    here["features"] += [entry for entry in there["features"] if not new & set(entry.get("figures", ()))]


def subset(dataset: Dataset, count: int) -> np.ndarray:
    """`count` data spread evenly over a split, the same every time."""
    picks = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(np.int64)
    return dataset[picks]
