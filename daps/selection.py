"""Score many, train few: sequences resampled by their weights, so that only these need gradients.

Sampling and scoring need no gradient and are the cheaper part of a step; teacher forcing and the decoder's gradient
are the rest. docs/learning.md, "Score many, train few".
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Selection(NamedTuple):
    """n of K sequences for every datum, and the weights that they carry from then on."""

    chosen: Int[Tensor, "N B"]
    log_w: Tensor  # [N, B] or [N, B, T]


@torch.no_grad()
def resample(log_w: Float[Tensor, "K B"] | Float[Tensor, "K B T"], count: int) -> Selection:
    """Stratified resampling: sequence k is drawn count * p^k times in the mean, p its weight (mean over tokens).

    The new weights w^k / (count p^k) keep every weighted sum over the K sequences right in expectation; for
    weights per sequence they are 1 / count.

    Args:
        log_w: log-weights, normalised over K.
        count: N, sequences to keep, with replacement.
    """
    weights = log_w.exp()
    chances = weights if weights.ndim == 2 else weights.mean(-1)
    cumulative = chances.T.cumsum(-1)  # B K
    strata = torch.arange(count, device=log_w.device) + torch.rand(*cumulative.shape[:1], count, device=log_w.device)
    thresholds = strata / count * cumulative[:, -1:]
    below = torch.nextafter(cumulative[:, -1:], cumulative.new_zeros(()))  # rounding must not pass the last weight
    chosen = torch.searchsorted(cumulative, thresholds.minimum(below), right=True)
    chosen = chosen.clamp(max=len(log_w) - 1).T  # weights that are NaN must reach the loss, whose step is then skipped
    kept = torch.log(count * take(chances, chosen))
    return Selection(chosen, take(log_w, chosen) - (kept if log_w.ndim == 2 else kept.unsqueeze(-1)))


@torch.no_grad()
def recombine(codes: Int[Tensor, "K B T"], log_w: Float[Tensor, "K B T"], count: int) -> Int[Tensor, "N B T"]:
    """Sequences whose every token is drawn from its own weights over the K samples, as if from prod_t q*_t."""
    tokens = resample(log_w.flatten(1), count).chosen
    shuffled = torch.rand_like(tokens, dtype=torch.float32).argsort(0)  # or strata would tie the tokens together
    tokens = tokens.gather(0, shuffled)
    return take(codes.flatten(1), tokens).unflatten(-1, codes.shape[1:])


def take(values: Tensor, chosen: Int[Tensor, "N B"]) -> Tensor:
    """Rows of values [K, B, ...] by their index over K: [N, B, ...]."""
    return values[chosen, torch.arange(chosen.shape[1], device=chosen.device)]
