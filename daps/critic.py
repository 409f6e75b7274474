"""First-order policy improvement: what the decoder's derivative says about every other symbol.

Around sampled codes, log p(x|z) changes by about  g_t . (e(v) - e(z_t))  when token t becomes v, where g_t is the
derivative with respect to its vector: one backward pass predicts all T V single changes. With straight-through
estimators this shares the derivative of the decoder at discrete codes; it differs in that the derivative
never passes into the encoder: it ranks symbols, and a policy within an exact trust region imitates the ranking.
docs/learning.md, "First-order targets".
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.decoder import Decoder, with_vectors
from daps.nn.mode import evaluating

_HALVINGS = 30


@dataclass(frozen=True)
class FirstOrder:
    """Cross-entropy of q to policies that the decoder's derivative improves, a KL of `region` nats per token away."""

    region: float

    def __call__(
        self,
        decoder: nn.Module,
        y: Float[Tensor, "B ..."],
        codes: Int[Tensor, "K B T"],
        logits: Float[Tensor, "_ B T V"],
        log_w: Tensor,
        beta: float,
    ) -> Float[Tensor, ""]:
        """The loss, nats per datum: the true-reward weights say around which codes the derivative counts.

        Args:
            logits: of the encoder along the codes, with gradient; one row where the samples share it.
            log_w: log-weights [K, B] or [K, B, T]; normalised over K, in expectation where they are resampled.
        """
        gain = predicted_change(with_vectors(decoder, "method.critic"), y, codes)
        weights = log_w.exp() if log_w.ndim == 3 else log_w.exp().unsqueeze(-1)
        if len(logits) < len(codes):  # one distribution for all samples of a datum: one target for it
            gain, weights = (weights.unsqueeze(-1) * gain).sum(0, keepdim=True), weights.sum(0, keepdim=True)
        log_policy = logits.log_softmax(-1)
        target = improved(log_policy.detach(), gain, beta, self.region).exp()
        return -(weights * (target * log_policy).sum(-1)).sum((0, 2)).mean()


def predicted_change(
    decoder: Decoder, y: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]
) -> Float[Tensor, "K B T V"]:
    """Change of log p(x|z), nats, to first order, when token t becomes v and all others stay.

    The decoder is in eval mode meanwhile: batch statistics would tie the data together, and be moved.
    """
    with torch.inference_mode(False), torch.enable_grad(), evaluating(decoder):
        vectors = decoder.embedding(codes.clone()).detach().requires_grad_()
        slope = torch.autograd.grad(decoder.from_vectors(vectors).log_prob(y.clone()).sum(), vectors)[0]
    with torch.no_grad():
        gains = slope @ decoder.embedding.table().T
        return gains - gains.gather(-1, codes.unsqueeze(-1))


@torch.no_grad()
def improved(
    log_q: Float[Tensor, "*N T V"], gain: Float[Tensor, "*N T V"], beta: float, kl: float
) -> Float[Tensor, "*N T V"]:
    """log of the policy q_t(v) exp((gain - beta log q_t(v)) / tau), tau such that its mean KL from q is `kl` nats.

    The KL falls monotonically with tau, so bisection finds the exact trust region; where even tau = beta does not
    leave the region, that is the answer.
    """
    advantage = gain - beta * log_q
    low, high = gain.new_tensor(max(beta, 1e-6)).log(), gain.new_tensor(1e8).log()

    def policy(log_tau: Tensor) -> Tensor:
        return torch.log_softmax(log_q + advantage / log_tau.exp(), dim=-1)

    def divergence(log_tau: Tensor) -> Tensor:
        log_target = policy(log_tau)
        return (log_target.exp() * (log_target - log_q)).sum(-1).mean()

    if divergence(low) <= kl:
        return policy(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        outside = divergence(middle) > kl
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    return policy(high)
