"""Figures about codes and reconstructions: pure functions of tensors."""

import math

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def symbol_counts(codes: Int[Tensor, "*N T"], vocab_size: int) -> Int[Tensor, "T V"]:
    """How often each symbol stands at each position."""
    tokens = codes.shape[-1]
    cells = codes + torch.arange(tokens, device=codes.device) * vocab_size
    return torch.bincount(cells.flatten(), minlength=tokens * vocab_size).view(tokens, vocab_size)


def count_entropy(counts: Shaped[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """Entropy of the distribution proportional to counts, nats; 0 where there are none."""
    wide = torch.float32 if counts.device.type == "mps" else torch.float64  # MPS has no float64
    share = counts.to(wide) / counts.sum(-1, keepdim=True).clamp(min=1)
    return -torch.xlogy(share, share).sum(-1)


def code_bits(codes: Int[Tensor, "*N T"], vocab_size: int) -> Float[Tensor, ""]:
    """Bits that the codes' marginals could carry, sum_t H(z_t) / ln 2: T log2 V when every symbol is used alike."""
    return count_entropy(symbol_counts(codes, vocab_size)).sum() / math.log(2)


def psnr(x: Shaped[Tensor, "N ..."], x_hat: Float[Tensor, "N ..."], peak: float | Tensor) -> Float[Tensor, " N"]:
    """Peak signal-to-noise ratio of each datum, -10 log10 of `relative_error`, dB; inf where they are equal."""
    return -10 * torch.log10(relative_error(x, x_hat, peak))


def relative_error(
    x: Shaped[Tensor, "N ..."], x_hat: Float[Tensor, "N ..."], peak: float | Tensor
) -> Float[Tensor, " N"]:
    """Mean of ((x - x_hat) / peak)^2 over the values of each datum.

    Args:
        peak: range of the data, one number or one per feature (the last axis).
    """
    return (((x.to(x_hat.dtype) - x_hat) / peak) ** 2).flatten(1).mean(1)


def importance_weighted(log_p: Float[Tensor, "S B"], log_q: Float[Tensor, "S B"], bits: float) -> Float[Tensor, " B"]:
    """Importance-weighted bound on log p(x) with S samples and a uniform prior over 2**bits codes, nats.

    log (1/S) sum_s p(x|z_s) p(z_s) / q(z_s|x): S = 1 is the ELBO in expectation, more samples are tighter.
    """
    log_prior = -bits * math.log(2)
    return torch.logsumexp(log_p + log_prior - log_q, dim=0) - math.log(len(log_p))


def bits_per_dim(log_likelihood: float, dimensions: int, log_units: float) -> float:
    """Code length of a datum per value of it, -(log p(y) - log |dx/dy|) / (D ln 2), bits.

    Args:
        log_likelihood: log p(y) of the scaled datum y, or a bound on it, nats.
        dimensions: D.
        log_units: log |dx/dy|, the sum over D of the log of a natural unit per model unit; 0 for masses.
    """
    return (log_units - log_likelihood) / (dimensions * math.log(2))


def frechet_distance(
    mean_a: Float[Tensor, " D"],
    covariance_a: Float[Tensor, "D D"],
    mean_b: Float[Tensor, " D"],
    covariance_b: Float[Tensor, "D D"],
) -> Float[Tensor, ""]:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians, |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    The trace of the root is the sum of the singular values of A^(1/2) B^(1/2) (Dowson and Landau, 1982), so singular
    covariances, of fewer data than features, are no special case. Give float64.
    """
    overlap = torch.linalg.svdvals(_root(covariance_a).T @ _root(covariance_b)).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * overlap
    return distance.clamp(min=0)  # below zero by rounding alone


def _root(covariance: Float[Tensor, "D D"]) -> Float[Tensor, "D R"]:
    """F with F F^T = covariance; directions whose variance is rounding are left out."""
    variances, directions = torch.linalg.eigh(covariance)
    real = variances > variances[-1].clamp(min=0) * len(variances) * torch.finfo(variances.dtype).eps
    return directions[:, real] * variances[real].sqrt()
