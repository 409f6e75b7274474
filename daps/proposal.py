"""Proposals: where the K code sequences of a training step come from."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.decoder import with_vectors
from daps.encoder import Encoder
from daps.search import improve


class Rollout(NamedTuple):
    """Code sequences to learn from, without gradient."""

    codes: Int[Tensor, "K B T"]
    log_q: Float[Tensor, "K B T"]  # of every token, nats
    kl: Float[Tensor, ""]  # estimate of KL(q || uniform) per datum, nats


class Proposal(ABC):
    """A way to come by code sequences."""

    @abstractmethod
    def __call__(self, encoder: Encoder, decoder: nn.Module, y: Float[Tensor, "B ..."], samples: int) -> Rollout:
        """Sequences for each datum y, in model units."""


class Sampled(Proposal):
    """K samples of q: the paper."""

    def __call__(self, encoder: Encoder, decoder: nn.Module, y: Float[Tensor, "B ..."], samples: int) -> Rollout:
        """See Proposal."""
        codes, log_q = encoder.sample(y, samples)
        kl = log_q.sum(-1).mean() + encoder.num_tokens * math.log(encoder.vocab_size)
        return Rollout(codes, log_q, kl)


@dataclass(frozen=True)
class Searched(Proposal):
    """Samples of q, improved by search under the true reward. KL stays that of the samples before."""

    sweeps: int

    def __call__(self, encoder: Encoder, decoder: nn.Module, y: Float[Tensor, "B ..."], samples: int) -> Rollout:
        """See Proposal."""
        drawn = Sampled()(encoder, decoder, y, samples)
        codes = improve(with_vectors(decoder, "method.sweeps"), y, drawn.codes, self.sweeps)
        with torch.no_grad():
            return Rollout(codes, encoder.log_prob(y, codes), drawn.kl)
