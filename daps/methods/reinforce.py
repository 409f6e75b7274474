"""REINFORCE over K samples, two ways: the encoder learns from log p(x|z) and its own score alone.

`rloo` ascends E_q[log p(x|z)] - beta KL(q || uniform); each sample's baseline is the mean of the others (Kool et al.,
2019). `vimco` ascends the multi-sample bound log 1/K sum_k p(x|z^k) p(z^k) / q(z^k|x) (Mnih and Rezende, 2016), whose
signal is divided among the samples by leaving each of them out. The prior p(z) is uniform.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.encoder import Encoder, token_log_prob
from daps.methods.base import Autoencoder, Metrics
from daps.methods.sampled import CreditKind, SampledConfig, credit_part, entropy_of, figures, per_token
from daps.objective import effective_sample_size
from daps.proposal import Sampled
from daps.scaling import Scaling
from daps.selection import resample, take


@dataclass(frozen=True)
class RLOOConfig(SampledConfig):
    """Settings of REINFORCE with leave-one-out baselines."""

    credit: CreditKind = "sequence"
    """Every token answers for all of log p(x|z), or for the part of x that it reaches (convolutional decoders)."""
    reach: int = 1
    """Radius, in tokens, of what a token answers for under local credit."""

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "RLOO":
        """The untrained model."""
        return RLOO(nets.encoder(), nets.decoder(), nets.data_shape, scaling, self, steps=steps)


@dataclass(frozen=True)
class VIMCOConfig(SampledConfig):
    """Settings of VIMCO; with both betas at 1 it is the published one."""

    beta_first: float = 1.0
    """Price of KL at the first step: the power of p(z) / q(z|x) in the bound."""
    beta_last: float = 1.0
    """Price of KL at the last step; the decay is exponential."""

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "VIMCO":
        """The untrained model."""
        return VIMCO(nets.encoder(), nets.decoder(), nets.data_shape, scaling, self, steps=steps)


def leave_one_out(returns: Float[Tensor, "K *N"]) -> Float[Tensor, "K *N"]:
    """Each sample's return less the mean of the other samples', which does not depend on it."""
    return (returns - returns.mean(0)) * (len(returns) / (len(returns) - 1))


def multi_sample_bound(log_f: Float[Tensor, "K *N"]) -> Float[Tensor, "*N"]:
    """log 1/K sum_k f^k, nats."""
    return torch.logsumexp(log_f, 0) - math.log(len(log_f))


def bound_without(log_f: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """The bound where sample k is replaced by the geometric mean of the others, which does not depend on it."""
    others = log_f - leave_one_out(log_f)
    itself = torch.eye(len(log_f), dtype=torch.bool, device=log_f.device).unsqueeze(-1)
    return multi_sample_bound(torch.where(itself, others, log_f.unsqueeze(1)))


class RLOO(Autoencoder):
    """The score-function gradient of E_q[log p(x|z)] - beta KL(q || uniform), without bias:

        E_q[(R - baseline) grad log q],     R = log p(x|z) - beta log q(z|x),

    as E_q[grad log q] = 0. The baseline of a sample is the mean R of the others, on which it has no influence. The
    centred weights of DAPS tend to multiples of R - baseline as its trust region shrinks. The decoder is fitted by
    plain maximum likelihood on the same samples.

    Args:
        encoder, decoder, data_shape, scaling: as in Autoencoder; local credit asks for a `daps.decoder.Decoder`.
        config: settings.
        steps: length of training, over which beta decays.

    Raises:
        ValueError: local credit with a decoder whose tokens lie on no grid.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        scaling: Scaling | None = None,
        config: RLOOConfig | None = None,
        *,
        steps: int,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = RLOOConfig() if config is None else config
        self.beta = self.config.beta(steps)
        self.credit = credit_part(self.config.credit, self.config.reach, encoder, decoder)

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units: policy + reconstruction."""
        config, beta, y = self.config, self.beta(step), self.scaling(x)
        codes, log_q, _, logits = Sampled()(self.encoder, self.decoder, y, config.samples)
        with config.scored(y.device):
            log_p, (reward, price) = self.credit(self.decoder(codes), y, log_q)
        logits = self.encoder.logits(y, codes) if logits is None else logits
        advantage = per_token(leave_one_out(reward - beta * price))
        policy = (advantage * token_log_prob(logits, codes)).sum(-1).mean()
        metrics = figures(log_p, codes, entropy_of(logits), self.vocab_size, beta)
        if config.trained:
            log_p = self.decoder(codes[: config.trained]).log_prob(y)
        return -policy - log_p.mean(), metrics

    @property
    def final_beta(self) -> float:
        """beta at the last step."""
        return self.config.beta_last


class VIMCO(Autoencoder):
    """The multi-sample bound L = log 1/K sum_k f^k with f = p(x|z) (p(z) / q(z|x))^beta, and its gradient without bias:

        sum_k (L - L_without_k) grad log q^k  +  sum_k (f^k / sum_j f^j) grad log f^k.

    beta = 1 is the published bound on log p(x). Another beta makes it one that for K = 1 is the objective of the other
    methods, E_q[log p] - beta KL(q || uniform). The decoder is fitted by the second sum: maximum likelihood on the same
    samples, weighted.

    Args:
        encoder, decoder, data_shape, scaling: as in Autoencoder.
        config: settings.
        steps: length of training, over which beta decays.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        scaling: Scaling | None = None,
        config: VIMCOConfig | None = None,
        *,
        steps: int,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = VIMCOConfig() if config is None else config
        self.beta = self.config.beta(steps)

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """Minus the bound of a batch in natural units, plus a term whose gradient is that of the first sum."""
        config, beta, y = self.config, self.beta(step), self.scaling(x)
        codes, _, _, logits = Sampled()(self.encoder, self.decoder, y, config.samples)
        with config.scored(y.device):
            log_p = self.decoder(codes).log_prob(y)
        logits = self.encoder.logits(y, codes) if logits is None else logits
        log_q = token_log_prob(logits, codes).sum(-1)
        log_f = log_p - beta * (log_q + self.num_tokens * math.log(self.vocab_size))
        bound = multi_sample_bound(log_f)
        signal = (bound - bound_without(log_f)).detach()
        metrics = figures(log_p, codes, entropy_of(logits), self.vocab_size, beta)
        metrics |= {"bound": bound.detach().mean(), "ess": effective_sample_size(log_f.detach()).mean()}
        loss = -((signal * log_q).sum(0) + bound).mean()
        if config.trained:  # the bound has its gradient to the encoder alone
            few = take(codes, resample(log_f.detach().log_softmax(0), config.trained).chosen)
            loss = loss - self.decoder(few).log_prob(y).mean()
        return loss, metrics

    @property
    def final_beta(self) -> float:
        """beta at the last step."""
        return self.config.beta_last
