"""What the methods share that draw K codes of each datum and learn from log p(x|z) of each: settings and credit."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.credit import Credit, LocalCredit, Reach, SequenceCredit
from daps.decoder import with_vectors
from daps.encoder import Encoder, token_entropy
from daps.methods.base import MethodConfig, Metrics
from daps.metrics import code_bits
from daps.precision import Scoring, score_precision
from daps.schedules import Exponential

CreditKind = Literal["sequence", "local"]


@dataclass(frozen=True)
class SampledConfig(MethodConfig):
    """Settings of a method that draws K codes of each datum."""

    fewest: ClassVar[int] = 2
    samples: int = 16
    """K, code sequences drawn for each datum and step."""
    trained: int = 0
    """Of the K, how many the decoder's gradient is spent on; 0: all. The encoder learns from all K in any case."""
    scoring: Scoring = "float32"
    """Precision of the decoder's products where codes are scored without gradient, that is with trained > 0. "auto":
    bfloat16 where the processor has instructions for it."""
    beta_first: float = 0.5
    """Price of KL(q || uniform) at the first step."""
    beta_last: float = 0.01
    """Price of KL(q || uniform) at the last step; the decay is exponential."""

    def __post_init__(self) -> None:
        if self.samples < self.fewest:
            why = ", to compare samples" if self.fewest > 1 else ""
            raise ValueError(f"method.samples: K must be at least {self.fewest}{why}, got {self.samples}; try 16")
        if not 0 <= self.trained <= self.samples:
            raise ValueError(f"method.trained: must lie in 0..K = {self.samples}, got {self.trained}; 0 trains on all")
        if not (0 < self.beta_first < math.inf and 0 < self.beta_last < math.inf):
            raise ValueError(
                f"method: beta_first and beta_last must be > 0 and finite, got {self.beta_first:g} and "
                f"{self.beta_last:g}; for next to no price take 0.001"
            )

    @property
    def targets(self) -> dict[str, float]:
        """None."""
        return {}

    def beta(self, steps: int) -> Exponential:
        """The price of KL over a training."""
        return Exponential(self.beta_first, self.beta_last, max(steps, 1))

    @contextmanager
    def scored(self, device: torch.device) -> Iterator[None]:
        """The context in which the K codes are scored: without gradient, and fast, where few of them are trained on."""
        precision = score_precision(self.scoring if self.trained else "float32", device)
        with torch.set_grad_enabled(not self.trained), precision:
            yield


def credit_part(kind: CreditKind, reach: int, encoder: Encoder, decoder: nn.Module) -> Credit:
    """How log p(x|z) is divided among tokens; tokens that later ones depend on answer for what these reach, too.

    Raises:
        ValueError: a negative reach, or local credit with a decoder whose tokens lie on no grid.
    """
    if reach < 0:
        raise ValueError(f"method.reach: must be >= 0 tokens, got {reach}; 0 is a token's own cell")
    if kind == "sequence":
        return SequenceCredit()
    grid = with_vectors(decoder, "method.credit").grid
    if grid is None:
        raise ValueError(
            "method.credit: local credit needs a decoder whose tokens have places (nets.decoder_kind = conv, "
            "or transformer for sequences); take credit = sequence"
        )
    return LocalCredit(Reach(encoder.num_tokens, grid, reach), 0.0 if encoder.shared else 1.0)


def per_token(returns: Float[Tensor, "K B"] | Float[Tensor, "K B T"]) -> Float[Tensor, "K B _"]:
    """Returns with a token axis, of length 1 where all tokens share one."""
    return returns.unsqueeze(-1) if returns.ndim == 2 else returns


def figures(
    log_p: Float[Tensor, "K B"],
    codes: Int[Tensor, "K B T"],
    entropy: Float[Tensor, "_ B T"],
    vocab_size: int,
    beta: float,
) -> Metrics:
    """Means over the samples: log p, exact KL(q || uniform) at the prefixes drawn, ELBO, bits in use, and beta."""
    log_p, kl = log_p.detach().mean(), codes.shape[-1] * math.log(vocab_size) - entropy.detach().sum(-1).mean()
    return {"log_p": log_p, "elbo": log_p - kl, "kl": kl, "beta": beta, "bits": code_bits(codes, vocab_size)}


@torch.no_grad()
def entropy_of(logits: Float[Tensor, "_ B T V"]) -> Float[Tensor, "_ B T"]:
    """Entropy of every token given its prefix, nats, for figures."""
    return token_entropy(logits.log_softmax(-1))
