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


def psnr(x: Shaped[Tensor, "N ..."], x_hat: Float[Tensor, "N ..."], peak: float) -> Float[Tensor, " N"]:
    """Peak signal-to-noise ratio of each datum, 10 log10(peak^2 / MSE), dB; inf where they are equal."""
    error = ((x.to(x_hat.dtype) - x_hat) ** 2).flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error)


def importance_weighted(log_p: Float[Tensor, "S B"], log_q: Float[Tensor, "S B"], bits: float) -> Float[Tensor, " B"]:
    """Importance-weighted bound on log p(x) with S samples and a uniform prior over 2**bits codes, nats.

    log (1/S) sum_s p(x|z_s) p(z_s) / q(z_s|x): S = 1 is the ELBO in expectation, more samples are tighter.
    """
    log_prior = -bits * math.log(2)
    return torch.logsumexp(log_p + log_prior - log_q, dim=0) - math.log(len(log_p))
