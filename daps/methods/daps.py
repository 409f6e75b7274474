"""DAPS: discrete autoencoders by policy search.

Draw K code sequences for each datum, score them by the decoder, and fit the encoder to the best policy within
a trust region around it: weighted maximum likelihood, with no gradient through the codes.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.encoder import Encoder
from daps.methods.base import Autoencoder, MethodConfig, Metrics
from daps.metrics import code_bits
from daps.objective import effective_sample_size, eta_loss, log_weights, policy_loss, solve_eta
from daps.scaling import Scaling
from daps.schedules import Constant, Exponential


@dataclass(frozen=True)
class DAPSConfig(MethodConfig):
    """Settings of DAPS; the paper's values are rows of `daps.presets`."""

    samples: int = 8
    """K, code sequences drawn for each datum and step."""
    ess_fraction: float = 0.33
    """Effective sample size that the weights shall keep, as a fraction of K."""
    beta_first: float = 0.5
    """Price of entropy at the first step."""
    beta_last: float = 0.01
    """Price of entropy at the last step; the decay is exponential."""
    eta: Literal["solve", "gradient"] = "solve"
    """The trust region's multiplier: solved exactly at each step, or moved by gradient as in the paper."""
    eta_first: float = 100.0
    """eta at the first step, where it is moved by gradient."""
    eta_learning_rate: float = 1e-3
    """Learning rate of log eta, where it is moved by gradient."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"method.samples: K must be at least 2, got {self.samples}; the paper takes 8")
        if not 1 < self.ess_target <= self.samples:
            raise ValueError(
                f"method.ess_fraction: the ESS target, fraction x K, must lie in (1, K] = (1, {self.samples}], "
                f"got {self.ess_fraction:g} x {self.samples} = {self.ess_target:g}; change either"
            )
        positive = all(0 < value < math.inf for value in (self.beta_first, self.beta_last, self.eta_first))
        if not (positive and 0 <= self.eta_learning_rate < math.inf):
            raise ValueError(
                "method: beta_first, beta_last and eta_first must be > 0 and eta_learning_rate >= 0, all finite, got "
                f"{self.beta_first:g}, {self.beta_last:g}, {self.eta_first:g}, {self.eta_learning_rate:g}"
            )

    @property
    def ess_target(self) -> float:
        """The effective sample size asked for, in (1, K]."""
        return self.ess_fraction * self.samples

    @property
    def targets(self) -> dict[str, float]:
        """The effective sample size."""
        return {"ess": self.ess_target}

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "DAPS":
        """The untrained model."""
        return DAPS(nets.encoder(), nets.decoder(), nets.data_shape, scaling, self, steps=steps)


class DAPS(Autoencoder):
    """Policy search over code sequences.

    Args:
        encoder, decoder, data_shape, scaling: as in Autoencoder; any modules with these faces serve.
        config: settings.
        steps: length of training, over which beta decays.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        scaling: Scaling | None = None,
        config: DAPSConfig | None = None,
        *,
        steps: int,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = DAPSConfig() if config is None else config
        first, last = self.config.beta_first, self.config.beta_last
        self.beta = Constant(first) if first == last else Exponential(first, last, max(steps, 1))
        self.log_eta = nn.Parameter(torch.tensor(self.config.eta_first).log())
        self.log_eta.requires_grad_(self.config.eta == "gradient")

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units: policy + reconstruction (+ multiplier)."""
        config, beta = self.config, self.beta(step)
        y = self.scaling(x)
        codes, log_q_tokens = self.encoder.sample(y, config.samples)  # roll out
        log_p = self.decoder(codes).log_prob(y)  # reward, with gradient to the decoder
        reward, log_q = log_p.detach(), log_q_tokens.sum(-1)

        if config.eta == "solve":
            eta = solve_eta(reward, log_q, beta, config.ess_target)
            dual_loss = eta.new_zeros(())
        else:
            eta = self.log_eta.detach().exp()
            dual_loss = eta_loss(reward, log_q, self.log_eta, beta, config.ess_target)
        log_w = log_weights(reward, log_q, eta, beta)

        loss = policy_loss(log_w, self.encoder.log_prob(y, codes)) - log_p.mean() + dual_loss
        kl = log_q.mean() + self.num_tokens * math.log(self.vocab_size)
        return loss, {
            "log_p": reward.mean(),
            "elbo": reward.mean() - kl,
            "kl": kl,
            "ess": effective_sample_size(log_w).mean(),
            "eta": eta,
            "beta": beta,
            "bits": code_bits(codes, self.vocab_size),
        }

    @property
    def final_beta(self) -> float:
        """beta at the last step."""
        return self.config.beta_last

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """log eta moves at its own rate and is not decayed: decay would pull eta towards 1."""
        nets = [p for p in self.parameters() if p is not self.log_eta]
        groups: list[dict[str, Any]] = [{"params": nets, "lr": learning_rate, "weight_decay": weight_decay}]
        if self.log_eta.requires_grad:
            groups.append({"params": [self.log_eta], "lr": self.config.eta_learning_rate, "weight_decay": 0.0})
        return groups
