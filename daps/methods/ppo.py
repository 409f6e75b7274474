"""PPO with clipped ratios (Schulman et al., 2017): the policy-gradient baseline of the paper.

Tokens are the actions, log p(x|z) is the reward of the sequence, its baseline the mean over the K samples of a datum. A
frozen copy of the encoder draws the codes while the encoder takes `updates` steps; then the copy is renewed.

So a rollout is `updates` minibatches of data with codes of one frozen policy, each used for one step and drawn when its
turn comes. Drawing them all beforehand would be the same, but for rewards by the decoder of that day. The copy is all
the state there is, so resuming is exact. What is left out is going over the same codes again (several epochs):
that would have to keep data and codes, and fresh codes of the same policy are the better use of a step.

The authors' PPO (`mnist-paper`) has one sample a datum, a learned baseline, one ratio a sequence, a copy that is one
step old, and an adaptive price of KL(copy || encoder) beside the clipping.
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.encoder import Encoder, token_entropy, token_log_prob
from daps.methods.base import Autoencoder, Metrics
from daps.methods.sampled import CreditKind, SampledConfig, credit_part, figures, per_token
from daps.proposal import Sampled
from daps.scaling import Scaling

ROUNDING = 0.01  # nats; rewards that differ by less are equal
KL_PRICES = (1e-3, 1e3)  # within which the price of KL moves


@dataclass(frozen=True)
class PPOConfig(SampledConfig):
    """Settings of PPO."""

    fewest: ClassVar[int] = 1
    updates: int = 4
    """Steps that the encoder takes away from a frozen copy, which draws the codes, until the copy is renewed."""
    lag: bool = False
    """Whether it is renewed by the encoder as it was one step before, not as it is."""
    clip: float = 0.2
    """Largest change of a probability ratio that is rewarded."""
    ratio: Literal["token", "sequence"] = "token"
    """What the clip looks at: each token's ratio, or their product over the sequence."""
    baseline: Literal["samples", "learned"] = "samples"
    """What rewards are compared with: the mean over a datum's K samples, or what an affine map of x predicts."""
    normalised: bool = True
    """Advantages divided by their standard deviation over a datum's K samples (learned baseline: over the batch, where
    they are centred, too); beta is then a price in these units."""
    kl_target: float = 0.0
    """KL(copy || encoder) of a sequence, nats, that a price of it is adapted to; 0: no such price."""
    kl_price: float = 10.0
    """That price at the first step."""
    credit: CreditKind = "sequence"
    """Every token answers for all of log p(x|z), or for the part of x that it reaches (convolutional decoders)."""
    reach: int = 1
    """Radius, in tokens, of what a token answers for under local credit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.updates < 2 - self.lag:
            raise ValueError(
                f"method.updates: must be >= {2 - self.lag}, or no ratio ever leaves 1, got {self.updates}; for one "
                "update take --method.lag, or --method rloo"
            )
        if not 0 < self.clip < 1:
            raise ValueError(f"method.clip: must lie in (0, 1), got {self.clip:g}; 0.2 is usual")
        if self.samples < 2 and self.baseline == "samples":
            raise ValueError(
                f"method.samples: K must be at least 2, to compare samples, got {self.samples}; try 16, or "
                "--method.baseline learned"
            )
        if self.credit == "local" and not (self.ratio == "token" and self.baseline == "samples"):
            raise ValueError(
                f"method.credit: local needs ratio = token and baseline = samples, got {self.ratio} and "
                f"{self.baseline}; take --method.credit sequence"
            )
        if not 0 <= self.kl_target < math.inf:
            raise ValueError(f"method.kl_target: must be >= 0 nats and finite, got {self.kl_target:g}; try 0.05")
        low, high = KL_PRICES
        if not low <= self.kl_price <= high:
            raise ValueError(f"method.kl_price: must lie in {low:g}..{high:g}, got {self.kl_price:g}; 10 is usual")

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "PPO":
        """The untrained model."""
        return PPO(nets.encoder(), nets.decoder(), nets.data_shape, scaling, self, steps=steps)


def clipped_surrogate(
    log_ratio: Float[Tensor, "K B T"], advantage: Float[Tensor, "K B _"], clip: float
) -> Float[Tensor, "K B T"]:
    """min(r A, clamp(r, 1 - clip, 1 + clip) A) with r = exp(log_ratio): Schulman et al., 2017, eq. 7.

    A ratio of a whole sequence is T = 1.

    Its gradient is r A grad log q, and exactly zero where r is past the clip on the side that A favours.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def group_advantage(returns: Float[Tensor, "K B _"], normalised: bool) -> Float[Tensor, "K B _"]:
    """Returns less their mean over the K samples of a datum, over their standard deviation where asked for."""
    centred = returns - returns.mean(0)
    return centred / (centred.square().mean(0).sqrt() + ROUNDING) if normalised else centred


def batch_advantage(
    returns: Float[Tensor, "K B _"], baseline: Float[Tensor, " B"], normalised: bool
) -> Float[Tensor, "K B _"]:
    """Returns less what was predicted of a datum; brought to mean 0 and deviation 1 of the batch where asked for."""
    advantage = returns - baseline.unsqueeze(-1)
    if not normalised:
        return advantage
    centred = advantage - advantage.mean()
    return centred / (centred.square().mean().sqrt() + ROUNDING)


def adapted_price(price: Float[Tensor, ""], kl: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
    """Half of it where the KL is below target / 1.5, twice above 1.5 target (Schulman et al., 2017, section 4)."""
    factor = torch.ones_like(price).where(kl >= target / 1.5, 0.5).where(kl <= target * 1.5, 2.0)
    return (price * factor).clamp(*KL_PRICES)


class Baseline(nn.Module):
    """The reward expected of x before its codes are known: an affine map, in nats per number of x.

    Args:
        numbers: N, numbers of a datum.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.map = nn.Linear(numbers, 1)

    def forward(self, y: Float[Tensor, "B ..."]) -> Float[Tensor, " B"]:
        """Expected log p(x|z), nats."""
        return self.numbers * self.map(y.flatten(1)).squeeze(-1)

    def loss(self, expected: Float[Tensor, " B"], log_p: Float[Tensor, "K B"]) -> Float[Tensor, ""]:
        """Mean square error in nats per number of x."""
        return ((log_p.detach() - expected) / self.numbers).square().mean()


class PPO(Autoencoder):
    """The loss is the mean over data and samples of

        -sum_t [clipped surrogate of token t + beta H(q(.|x, z_<t))]  -  log p(x|z),

    its last term the decoder's alone: plain maximum likelihood on the same samples. With ratio = sequence the
    surrogate is one of the whole sequence; with a KL target + price sum_t KL(copy || q at z_<t) is added, with a
    learned baseline its square error.

    Args:
        encoder, decoder, data_shape, scaling: as in Autoencoder; local credit asks for a `daps.decoder.Decoder`.
        config: settings.
        steps: length of training, over which beta decays.

    Raises:
        ValueError: local credit with a decoder whose tokens lie on no grid.
    """

    kl_price: Tensor

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        scaling: Scaling | None = None,
        config: PPOConfig | None = None,
        *,
        steps: int,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = PPOConfig() if config is None else config
        self.beta = self.config.beta(steps)
        self.credit = credit_part(self.config.credit, self.config.reach, encoder, decoder)
        self.old_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.baseline = Baseline(math.prod(data_shape)) if self.config.baseline == "learned" else None
        if self.config.kl_target:
            self.register_buffer("kl_price", torch.tensor(self.config.kl_price))

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units: policy + reconstruction, and what the options add."""
        config, beta, y = self.config, self.beta(step), self.scaling(x)
        if not config.lag and step % config.updates == 0:
            self._renew()
        codes, log_q_old, _, _ = Sampled()(self.old_encoder, self.decoder, y, config.samples)
        with config.scored(y.device):
            log_p, (reward, _) = self.credit(self.decoder(codes), y, log_q_old)
        logits = self.encoder.logits(y, codes)
        log_ratio = token_log_prob(logits, codes) - log_q_old
        if config.ratio == "sequence":
            log_ratio = log_ratio.sum(-1, keepdim=True)
        advantage, extra = self._advantage(y, log_p, per_token(reward))
        log_q = logits.log_softmax(-1)
        entropy = token_entropy(log_q)
        surrogate = clipped_surrogate(log_ratio, advantage, config.clip).sum(-1).mean()
        metrics = figures(log_p, codes, entropy, self.vocab_size, beta)
        metrics["clipped"] = ((log_ratio.detach().exp() - 1).abs() > config.clip).float().mean()
        if config.kl_target:
            penalty, kl = self._penalty(y, codes, log_q)
            extra, metrics["kl_copy"], metrics["kl_price"] = extra + penalty, kl, self.kl_price.clone()
        if config.trained:
            log_p = self.decoder(codes[: config.trained]).log_prob(y)
        if config.lag and self.training and (step + 1) % config.updates == 0:
            self._renew()
        return extra - surrogate - beta * entropy.sum(-1).mean() - log_p.mean(), metrics

    @torch.no_grad()
    def _renew(self) -> None:
        self.old_encoder.load_state_dict(self.encoder.state_dict())

    def _advantage(
        self, y: Tensor, log_p: Float[Tensor, "K B"], returns: Float[Tensor, "K B _"]
    ) -> tuple[Float[Tensor, "K B _"], Tensor | float]:
        """Advantages, and the baseline's loss where it is learned."""
        if self.baseline is None:
            return group_advantage(returns, self.config.normalised), 0.0
        expected = self.baseline(y)
        advantage = batch_advantage(returns, expected.detach(), self.config.normalised)
        return advantage, self.baseline.loss(expected, log_p)

    def _penalty(
        self, y: Tensor, codes: Int[Tensor, "K B T"], log_q: Float[Tensor, "_ B T V"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The price of KL(copy || encoder) along the codes, and that KL, nats a sequence; it moves the price."""
        with torch.no_grad():
            log_q_old = self.old_encoder.logits(y, codes).log_softmax(-1)
        kl = (log_q_old.exp() * (log_q_old - log_q)).sum((-1, -2)).mean()
        penalty = self.kl_price.clone() * kl
        if self.training:
            self.kl_price.copy_(adapted_price(self.kl_price, kl.detach(), self.config.kl_target))
        return penalty, kl.detach()

    @property
    def final_beta(self) -> float:
        """beta at the last step."""
        return self.config.beta_last
