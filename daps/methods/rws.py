"""Reweighted wake-sleep (Bornschein and Bengio, 2015): decoder and encoder are both fitted to the posterior.

K samples of q(z|x), weighted by w^k = p(x, z^k) / q(z^k|x) and normalised over k, stand for the posterior p(z|x). The
wake phase raises log p(x, z) (decoder) and log q(z|x) (encoder) on them; a sleep phase fits the encoder to codes drawn
from the prior and data drawn from the decoder. The prior is uniform.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.encoder import Encoder, token_log_prob
from daps.methods.base import Autoencoder, Metrics
from daps.methods.sampled import SampledConfig, entropy_of, figures
from daps.nn.mode import evaluating
from daps.objective import effective_sample_size, log_weights, policy_loss
from daps.proposal import Sampled
from daps.scaling import Scaling
from daps.selection import resample, take


@dataclass(frozen=True)
class RWSConfig(SampledConfig):
    """Settings of reweighted wake-sleep; with both betas at 1 it is the published one."""

    beta_first: float = 1.0
    """Price of KL at the first step: the posterior is that of p(x|z)^(1/beta)."""
    beta_last: float = 1.0
    """Price of KL at the last step; the decay is exponential."""
    sleep: float = 0.0
    """Weight of the sleep phase; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sleep < math.inf:
            raise ValueError(f"method.sleep: must be >= 0 and finite, got {self.sleep:g}; 0 is the wake phase alone")

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "RWS":
        """The untrained model."""
        return RWS(nets.encoder(), nets.decoder(), nets.data_shape, scaling, self, steps=steps)


class RWS(Autoencoder):
    """Wake phase  -(1/B) sum_b sum_k w_b^k (log q(z_b^k|x_b) + log p(x_b|z_b^k)),  and sleep  -log q(z|x~p(.|z)).

    The weights are those of DAPS without a trust region (eta = 0), softmax_k(log p / beta - log q): the optimum of
    E_q[log p] - beta KL(q || uniform) is the posterior of p(x|z)^(1/beta), and beta = 1 is the published method.

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
        config: RWSConfig | None = None,
        *,
        steps: int,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = RWSConfig() if config is None else config
        self.beta = self.config.beta(steps)

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units: wake phase of both nets, and the encoder's sleep phase."""
        config, beta, y = self.config, self.beta(step), self.scaling(x)
        codes, log_q, _, logits = Sampled()(self.encoder, self.decoder, y, config.samples)
        with config.scored(y.device):
            log_p = self.decoder(codes).log_prob(y)
        log_w = log_weights(log_p.detach(), log_q.sum(-1), 0.0, beta)
        logits = self.encoder.logits(y, codes) if logits is None else logits
        loss = policy_loss(log_w, token_log_prob(logits, codes))
        if config.trained:
            few = take(codes, resample(log_w, config.trained).chosen)
            loss = loss - self.decoder(few).log_prob(y).mean()
        else:
            loss = loss - (log_w.exp() * log_p).sum(0).mean()
        metrics = figures(log_p, codes, entropy_of(logits), self.vocab_size, beta)
        metrics["ess"] = effective_sample_size(log_w).mean()
        if config.sleep:
            dreamt = self._sleep(len(y))
            loss, metrics["sleep_log_q"] = loss - config.sleep * dreamt, dreamt.detach()
        return loss, metrics

    def _sleep(self, count: int) -> Float[Tensor, ""]:
        """Mean log q of codes from the prior, given data drawn for them from the decoder."""
        codes = torch.randint(self.vocab_size, (1, count, self.num_tokens), device=self.device)
        with torch.no_grad(), evaluating(self.decoder):  # dreams leave its batch statistics alone
            y = self.decoder(codes).sample()[0]
        return self.encoder.log_prob(y, codes).sum(-1).mean()

    @property
    def final_beta(self) -> float:
        """beta at the last step."""
        return self.config.beta_last
