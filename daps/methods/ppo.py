"""PPO with clipped ratios (Schulman et al., 2017): the policy-gradient baseline of the paper.

Tokens are the actions, log p(x|z) is the reward of the sequence, its baseline the mean over the K samples of a datum. A
frozen copy of the encoder draws the codes while the encoder takes `updates` steps; then the copy is renewed.

So a rollout is `updates` minibatches of data with codes of one frozen policy, each used for one step and drawn when its
turn comes. Drawing them all beforehand would be the same, but for rewards by the decoder of that day. The copy is all
the state there is, so resuming is exact. What is left out is going over the same codes again (several epochs):
that would have to keep data and codes, and fresh codes of the same policy are the better use of a step.

The authors' PPO has one sample a datum, a learned baseline, one ratio a sequence, a copy that is one step old, and an
adaptive price of KL(copy || encoder) beside the clipping.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.encoder import Encoder, token_entropy, token_log_prob
from daps.methods.base import Autoencoder, Metrics
from daps.methods.sampled import CreditKind, SampledConfig, credit_part, figures, per_token
from daps.proposal import Sampled
from daps.scaling import Scaling

ROUNDING = 0.01  # nats; rewards that differ by less are equal


@dataclass(frozen=True)
class PPOConfig(SampledConfig):
    """Settings of PPO."""

    updates: int = 4
    """Steps that the encoder takes away from a frozen copy, which draws the codes, until the copy is renewed."""
    clip: float = 0.2
    """Largest change of a token's probability ratio that is rewarded."""
    normalised: bool = True
    """Rewards divided by their standard deviation over a datum's K samples; beta is then a price in these units."""
    credit: CreditKind = "sequence"
    """Every token answers for all of log p(x|z), or for the part of x that it reaches (convolutional decoders)."""
    reach: int = 1
    """Radius, in tokens, of what a token answers for under local credit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.updates < 2:
            raise ValueError(
                f"method.updates: must be >= 2, or no ratio ever leaves 1, got {self.updates}; for one update take "
                "--method rloo"
            )
        if not 0 < self.clip < 1:
            raise ValueError(f"method.clip: must lie in (0, 1), got {self.clip:g}; 0.2 is usual")

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "PPO":
        """The untrained model."""
        return PPO(nets.encoder(), nets.decoder(), nets.data_shape, scaling, self, steps=steps)


def clipped_surrogate(
    log_ratio: Float[Tensor, "K B T"], advantage: Float[Tensor, "K B _"], clip: float
) -> Float[Tensor, "K B T"]:
    """min(r A, clamp(r, 1 - clip, 1 + clip) A) with r = exp(log_ratio): Schulman et al., 2017, eq. 7.

    Its gradient is r A grad log q, and exactly zero where r is past the clip on the side that A favours.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def group_advantage(returns: Float[Tensor, "K B _"], normalised: bool) -> Float[Tensor, "K B _"]:
    """Returns less their mean over the K samples of a datum, over their standard deviation where asked for."""
    centred = returns - returns.mean(0)
    return centred / (centred.square().mean(0).sqrt() + ROUNDING) if normalised else centred


class PPO(Autoencoder):
    """The loss is the mean over data and samples of

        -sum_t [clipped surrogate of token t + beta H(q(.|x, z_<t))]  -  log p(x|z),

    its last term the decoder's alone: plain maximum likelihood on the same samples.

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
        config: PPOConfig | None = None,
        *,
        steps: int,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = PPOConfig() if config is None else config
        self.beta = self.config.beta(steps)
        self.credit = credit_part(self.config.credit, self.config.reach, encoder, decoder)
        self.old_encoder = copy.deepcopy(encoder).requires_grad_(False)

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units: policy + reconstruction."""
        config, beta, y = self.config, self.beta(step), self.scaling(x)
        if step % config.updates == 0:
            self.old_encoder.load_state_dict(self.encoder.state_dict())
        codes, log_q_old, _, _ = Sampled()(self.old_encoder, self.decoder, y, config.samples)
        with config.scored(y.device):
            log_p, (reward, _) = self.credit(self.decoder(codes), y, log_q_old)
        logits = self.encoder.logits(y, codes)
        log_ratio = token_log_prob(logits, codes) - log_q_old
        advantage = group_advantage(per_token(reward), config.normalised)
        entropy = token_entropy(logits.log_softmax(-1))
        policy = (clipped_surrogate(log_ratio, advantage, config.clip) + beta * entropy).sum(-1).mean()
        metrics = figures(log_p, codes, entropy, self.vocab_size, beta)
        metrics["clipped"] = ((log_ratio.detach().exp() - 1).abs() > config.clip).float().mean()
        if config.trained:
            log_p = self.decoder(codes[: config.trained]).log_prob(y)
        return -policy - log_p.mean(), metrics

    @property
    def final_beta(self) -> float:
        """beta at the last step."""
        return self.config.beta_last
