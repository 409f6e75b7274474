"""First-order policy improvement: what the decoder's derivative says about every other symbol.

Around sampled codes, log p(x|z) changes by about  g_t . (e(v) - e(z_t))  when token t becomes v, where g_t is the
derivative with respect to its vector: one backward pass predicts all T V single changes. With straight-through
estimators this shares the derivative of the decoder at discrete codes; it differs in that the derivative
never passes into the encoder: it ranks symbols, and a policy within an exact trust region imitates the ranking.
docs/learning.md, "First-order targets".
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from daps.decoder import Decoder, evaluating

_HALVINGS = 30


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
