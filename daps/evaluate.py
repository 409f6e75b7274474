"""One protocol for every method: likelihoods, reconstruction quality and use of the codes on held-out data.

It speaks to a model through its using face and its encoder and decoder, so it knows no method.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from daps.atomic import replacing
from daps.data import Dataset, load
from daps.encoder import token_entropy
from daps.methods import Autoencoder
from daps.metrics import count_entropy, importance_weighted, psnr, symbol_counts
from daps.nn.mode import evaluating
from daps.run import Run, environment, pick_device, write_json


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
    """Per-datum log p, squared error, PSNR and (images) SSIM of one encoding; the codes; the reconstruction.

    The original is what the likelihood is of: for binarised images, the binarised image.
    """
    peak = float(model.scaling.peak)
    codes = model.encode(x, temperature, generator)
    distribution = model.decode(codes)
    original, mean = model.scaling.inverse(model.scaling(x)), distribution.mean
    figures = {
        "log_p": _exact(distribution.log_prob(x)),
        "squared_error": (_exact(original - mean) ** 2).flatten(1).mean(1),
        "psnr": _exact(psnr(original, mean, peak)),
    }
    window = ssim_window(model.data_shape) if ssim else None
    if window:
        figures["ssim"] = _exact(_ssim(original, mean, peak, window))
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


def evaluate(model: Autoencoder, dataset: Dataset, protocol: Protocol) -> tuple[dict[str, Any], dict[str, Any]]:
    """All figures of a split, as JSON holds them, and arrays for pictures.

    Returns:
        figures: `log_p`, `kl`, `elbo` (beta = 1), `beta_elbo` (the method's final beta) and `iw_log_likelihood`
            in nats per datum, means over S samples of q; bits: nominal, entropy of q(z|x), and information, the
            entropies of the aggregate's positions less that of q(z|x), which is I(x; z) but for what positions
            share; and for a "stochastic" (one sample of q) and a "greedy" (its mode) encoding: log p, PSNR (mean
            over data, and of the pooled error), SSIM, usage and perplexity of the codebook per position and pooled.
        arrays: the first 32 `originals` and greedy `reconstructions`, and `counts` [T, V] of greedy symbols.
    """
    with evaluating(model):
        return _evaluate(model, dataset, protocol)


def _evaluate(model: Autoencoder, dataset: Dataset, protocol: Protocol) -> tuple[dict[str, Any], dict[str, Any]]:
    count = min(len(dataset), protocol.limit or len(dataset))
    peak = float(model.scaling.peak)
    generator = torch.Generator().manual_seed(protocol.seed)
    modes = {"stochastic": 1.0, "greedy": 0.0}
    columns: dict[str, list[Tensor]] = {}
    codes: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    shown: list[Tensor] = []
    aggregate = torch.zeros(model.num_tokens, model.vocab_size, dtype=torch.float64)
    for start in range(0, count, protocol.batch_size):
        x = torch.as_tensor(dataset[start : min(start + protocol.batch_size, count)], device=model.device)
        bounds, policy = likelihoods(model, x, protocol.samples, generator)
        aggregate += policy * (len(x) / count)
        for name, column in bounds.items():
            columns.setdefault(name, []).append(column)
        for mode, temperature in modes.items():
            figures, batch_codes, mean = reconstruction(model, x, temperature, generator, protocol.ssim)
            for name, column in figures.items():
                columns.setdefault(f"{mode}.{name}", []).append(column)
            codes[mode].append(batch_codes)
        if start < 32:
            shown.append(mean)
    means = {name: float(torch.cat(parts).mean()) for name, parts in columns.items()}
    results = _summary(model, means, aggregate) | {
        "split": dataset.split,
        "n": count,
        "importance_samples": protocol.samples,
        "seed": protocol.seed,
        "ssim_window": ssim_window(dataset.shape),
        "peak": peak,
    }
    for mode in modes:
        results[mode] = _quality(means, mode, peak) | code_usage(torch.cat(codes[mode]), model.vocab_size)
    arrays = {
        "originals": dataset[: min(32, count)],
        "reconstructions": torch.cat(shown)[:32].cpu().numpy(),
        "counts": symbol_counts(torch.cat(codes["greedy"]), model.vocab_size).cpu().numpy(),
    }
    return results, arrays


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
        "nominal_bits": model.bits,
        "entropy_bits": entropy_bits,
        "information_bits": float(count_entropy(aggregate).sum()) / math.log(2) - entropy_bits,
    }


def _quality(means: dict[str, float], mode: str, peak: float) -> dict[str, Any]:
    error = means[f"{mode}.squared_error"]
    return {
        "log_p": means[f"{mode}.log_p"],
        "psnr": means[f"{mode}.psnr"],
        "psnr_pooled": 10 * math.log10(peak**2 / error) if error > 0 else math.inf,
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
) -> dict[str, Any]:
    """Evaluates a run on its own data; all of the validation split goes into evaluation.json and evaluation.npz.

    The training split goes into evaluation_train.json and .npz; a part of a split (`protocol.limit`) is not stored.

    Args:
        folder: of the run.
        protocol: how.
        split: train or validation.
        data_path: where the data are now, if they have moved since the training.
        device: cpu, cuda, mps, or auto.

    Raises:
        ValueError: not a run, no weights yet, or data missing or of another shape.
    """
    run = Run.open(folder)
    config = run.config()
    model = run.load_model(pick_device(device))
    try:
        dataset = load(config.data.name, split, path=data_path or config.data.path, size=config.data.size)
    except ValueError as error:
        raise ValueError(f"{error}; if the data have moved, say where with --data-path") from error
    if dataset.shape != model.data_shape:
        raise ValueError(
            f"data: the run was trained on data of shape {list(model.data_shape)}, but {dataset.name} now has "
            f"{list(dataset.shape)}; give the same data with --data-path"
        )
    figures, arrays = evaluate(model, dataset, protocol)
    figures |= {
        "preset": config.preset,
        "method": config.method_name,
        "step": run.trained_steps(),
        "data": dataset.about,
        "environment": environment(model.device),
    }
    if protocol.limit is None or protocol.limit >= len(dataset):
        name = "evaluation" if split == "validation" else f"evaluation_{split}"
        with replacing(run.path / f"{name}.npz") as file:
            np.savez_compressed(file, **arrays)
        write_json(run.path / f"{name}.json", figures)
    return figures


def subset(dataset: Dataset, count: int) -> np.ndarray:
    """`count` data spread evenly over a split, the same every time."""
    picks = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(np.int64)
    return dataset[picks]
