"""Proposals: where the K code sequences of a training step come from."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.decoder import with_vectors
from daps.encoder import Encoder, sample_tokens, token_log_prob
from daps.search import improve


class Rollout(NamedTuple):
    """Code sequences to learn from; without gradient, but for the logits."""

    codes: Int[Tensor, "K B T"]
    log_q: Float[Tensor, "K B T"]  # of every token, nats
    kl: Float[Tensor, ""]  # estimate of KL(q || uniform) per datum, nats
    logits: Float[Tensor, "1 B T V"] | None = None  # of the encoder, with gradient, where one row serves all samples


class Proposal(ABC):
    """A way to come by code sequences."""

    @abstractmethod
    def __call__(self, encoder: Encoder, decoder: nn.Module, y: Float[Tensor, "B ..."], samples: int) -> Rollout:
        """Sequences for each datum y, in model units."""


class Sampled(Proposal):
    """K samples of q: the paper."""

    def __call__(self, encoder: Encoder, decoder: nn.Module, y: Float[Tensor, "B ..."], samples: int) -> Rollout:
        """See Proposal."""
        if encoder.shared:  # its logits serve the sampling now and the loss later
            logits = encoder.logits(y, torch.empty((0, len(y), encoder.num_tokens), dtype=torch.long, device=y.device))
            codes, log_q = sample_tokens(logits[0], samples)
        else:
            logits, (codes, log_q) = None, encoder.sample(y, samples)
        kl = log_q.sum(-1).mean() + encoder.num_tokens * math.log(encoder.vocab_size)
        return Rollout(codes, log_q, kl, logits)


@dataclass(frozen=True)
class Searched(Proposal):
    """Samples of q, improved by search under the true reward. KL stays that of the samples before."""

    sweeps: int

    def __call__(self, encoder: Encoder, decoder: nn.Module, y: Float[Tensor, "B ..."], samples: int) -> Rollout:
        """See Proposal."""
        drawn = Sampled()(encoder, decoder, y, samples)
        codes = improve(with_vectors(decoder, "method.sweeps"), y, drawn.codes, self.sweeps)
        with torch.no_grad():
            logits = encoder.logits(y, codes) if drawn.logits is None else drawn.logits
            return drawn._replace(codes=codes, log_q=token_log_prob(logits, codes))
