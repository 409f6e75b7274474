"""Straight-through Gumbel-softmax (Jang et al., 2017; Maddison et al., 2017) and its Rao-Blackwellised form, GR-MCK.

A symbol z ~ q is the argmax of log q + g, where g are Gumbel numbers. Forward, the decoder reads the one-hot of z;
backward, the one-hot is taken for s = softmax((log q + g) / temperature), so that a gradient a on it becomes

    (s * a - s (s . a)) / temperature                                                                               (1)

on log q. Nothing but z is used forward, so z may be drawn first, by any sampler, and g afterwards from its distribution
given z. `gumbel` draws one such g: straight-through Gumbel-softmax, to the letter. `grmck` averages (1) over several
(Gumbel-Rao Monte-Carlo, Paulus et al., 2021): the same mean, less variance. Both are biased with respect to the
gradient of E_q[log p(x|z)], the more so the less linear log p is in the one-hots.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from daps.architecture import Architecture
from daps.encoder import AutoregressiveEncoder, Encoder, sample_tokens, token_entropy
from daps.methods.base import Autoencoder, MethodConfig, Metrics
from daps.methods.sampled import figures
from daps.proposal import Sampled
from daps.scaling import Scaling
from daps.schedules import Exponential


@dataclass(frozen=True)
class RelaxedConfig(MethodConfig):
    """Settings of a method whose gradient passes through relaxed one-hots."""

    samples: int = 1
    """K, code sequences drawn for each datum and step."""
    temperature_first: float = 1.0
    """Temperature of the relaxed one-hots at the first step. Lower ones have less bias and more variance."""
    temperature_last: float = 1.0
    """That at the last step; the decay is exponential."""
    beta_first: float = 0.5
    """Price of KL(q || uniform) at the first step."""
    beta_last: float = 0.01
    """Price of KL(q || uniform) at the last step; the decay is exponential."""
    through_inputs: bool = True
    """Whether the gradient also passes from later tokens to earlier ones through what the encoder reads of these, as
    in the paper (autoregressive encoders). Without, codes are taken as given there, which adds bias."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"method.samples: K must be at least 1, got {self.samples}; 1 is usual")
        for name, usual in (
            ("temperature_first", 1),
            ("temperature_last", 1),
            ("beta_first", 0.5),
            ("beta_last", 0.01),
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"method.{name}: must be > 0 and finite, got {getattr(self, name):g}; try {usual:g}")

    @property
    def targets(self) -> dict[str, float]:
        """None."""
        return {}

    @abstractmethod
    def one_hots(
        self, log_q: Float[Tensor, "*N V"], codes: Int[Tensor, "*N"], temperature: float
    ) -> Float[Tensor, "*N V"]:
        """One-hots of codes drawn from q, with the method's gradient to log q."""

    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> "Gumbel":
        """The untrained model."""
        return Gumbel(nets.encoder(), nets.decoder(), nets.data_shape, scaling, self, steps=steps)


@dataclass(frozen=True)
class GumbelConfig(RelaxedConfig):
    """Settings of straight-through Gumbel-softmax."""

    def one_hots(
        self, log_q: Float[Tensor, "*N V"], codes: Int[Tensor, "*N"], temperature: float
    ) -> Float[Tensor, "*N V"]:
        """With the gradient of one relaxed one-hot."""
        return relaxed_one_hots(log_q, codes, temperature)


@dataclass(frozen=True)
class GRMCKConfig(RelaxedConfig):
    """Settings of Gumbel-Rao Monte-Carlo."""

    inner_samples: int = 10
    """Relaxed one-hots that the gradient of each code is averaged over; time grows in proportion, memory does not."""
    through_noise: bool = False
    """Whether the gradient also passes through the Gumbel noise, which depends on q and z where z is given. It must
    not: the mean gradient is then several times smaller and not that of Gumbel-softmax. The paper's code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_samples < 1:
            raise ValueError(f"method.inner_samples: must be >= 1, got {self.inner_samples}; the paper takes 100 or 10")

    def one_hots(
        self, log_q: Float[Tensor, "*N V"], codes: Int[Tensor, "*N"], temperature: float
    ) -> Float[Tensor, "*N V"]:
        """With the mean gradient of several relaxed one-hots."""
        return relaxed_one_hots(log_q, codes, temperature, self.inner_samples, self.through_noise)


def conditional_weights(
    q: Float[Tensor, "*N V"], codes: Int[Tensor, "*N"], noise: Float[Tensor, "*N V"]
) -> Float[Tensor, "*N V"]:
    """exp(u_v - u_z) of the perturbed logits u = log q + g, given that u_z is the largest: 1 at z, less elsewhere.

    Without the condition exp(-u_v) are exponential numbers of rates q_v. Given z, exp(-u_z) is the least of them, of
    rate 1, and by their lack of memory each of the others exceeds it by an exponential number of its own rate:

        exp(-u_z) = e_z,     exp(-u_v) = e_z + e_v / q_v.

    Args:
        q: probabilities.
        codes: z.
        noise: e, independent exponential numbers of rate 1, above 0.
    """
    chosen = codes.unsqueeze(-1)
    least = q * noise.gather(-1, chosen)
    return (least / (least + noise)).scatter(-1, chosen, 1.0)


def softmax_gradient(
    weights: Float[Tensor, "*N V"], gradient: Float[Tensor, "*N V"], temperature: float
) -> Float[Tensor, "*N V"]:
    """A gradient on s = softmax(u / temperature), as one on u: (s * a - s (s . a)) / temperature.

    Args:
        weights: exp(u), but for a factor.
        gradient: a.
        temperature: > 0.
    """
    s = weights if temperature == 1 else weights ** (1 / temperature)
    s = s / s.sum(-1, keepdim=True)
    return s * (gradient - (s * gradient).sum(-1, keepdim=True)) / temperature


class _RelaxedOneHots(torch.autograd.Function):
    """One-hots whose backward pass draws its noise then: nothing of it is kept, however many samples are averaged."""

    @staticmethod
    def forward(ctx: Any, log_q: Tensor, codes: Tensor, temperature: float, inner: int, through_noise: bool) -> Tensor:
        ctx.save_for_backward(log_q, codes)
        ctx.settings = temperature, inner, through_noise
        ctx.seed = int(torch.randint(2**63 - 1, ()))  # so that noise is a function of torch's seed, as all else
        return F.one_hot(codes, log_q.shape[-1]).to(log_q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,), (log_q, codes), (temperature, inner, through_noise) = gradients, ctx.saved_tensors, ctx.settings
        generator = torch.Generator(log_q.device).manual_seed(ctx.seed)
        q, total = log_q.exp(), torch.zeros_like(gradient)
        noise, least = torch.empty_like(q, memory_format=torch.contiguous_format), torch.finfo(q.dtype).tiny
        for _ in range(inner):
            weights = conditional_weights(q, codes, noise.exponential_(generator=generator).clamp_(min=least))
            part = softmax_gradient(weights, gradient, temperature)
            # d u_v / d log q_v = (e_v / q_v) / (e_z + e_v / q_v) where noise is not held: 0 at z.
            total += part * (1 - weights) if through_noise else part
        return total / inner, None, None, None, None


def relaxed_one_hots(
    log_q: Float[Tensor, "*N V"],
    codes: Int[Tensor, "*N"],
    temperature: float,
    inner: int = 1,
    through_noise: bool = False,
) -> Float[Tensor, "*N V"]:
    """One-hots of codes drawn from q, with the mean gradient of relaxed ones, softmax((log q + g) / temperature).

    Args:
        log_q: log-probabilities, normalised.
        codes: drawn from them.
        temperature: > 0.
        inner: draws of the Gumbel numbers g given the codes that the gradient is averaged over.
        through_noise: as in GRMCKConfig.
    """
    one_hots: Tensor = _RelaxedOneHots.apply(log_q, codes, temperature, inner, through_noise)
    return one_hots


class Gumbel(Autoencoder):
    """Descends -log p(x|z) + beta KL(q || uniform) by gradients through relaxed one-hots, on the decoder's input.

    KL is exact for every token given the prefix drawn. An autoregressive encoder draws its tokens one by one and reads
    their one-hots itself, so that a one-hot's gradient is that of all it leads to: log p by way of the decoder, and
    later tokens with their log p and KL (`through_inputs`).

    Args:
        encoder, decoder, data_shape, scaling: as in Autoencoder; the decoder must read one-hots [*N, T, V], too.
        config: settings, GumbelConfig or GRMCKConfig.
        steps: length of training, over which beta and the temperature decay.

    Raises:
        ValueError: an encoder that is neither parallel nor a `daps.encoder.AutoregressiveEncoder`, with through_inputs.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        scaling: Scaling | None = None,
        config: RelaxedConfig | None = None,
        *,
        steps: int,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = config = GumbelConfig() if config is None else config
        if config.through_inputs and not (encoder.shared or isinstance(encoder, AutoregressiveEncoder)):
            raise ValueError(
                f"method.through_inputs: needs a daps.encoder.AutoregressiveEncoder, got {type(encoder).__name__}; "
                "switch it off to take the codes as given there"
            )
        self.steps = max(steps, 1)
        self.beta = Exponential(config.beta_first, config.beta_last, self.steps)
        self.temperature = Exponential(config.temperature_first, config.temperature_last, self.steps)

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units: reconstruction + price of KL."""
        beta, temperature, y = self.beta(step), self.temperature(step), self.scaling(x)
        codes, one_hots, log_q = self._drawn(y, temperature)
        log_p, entropy = self.decoder(one_hots).log_prob(y), token_entropy(log_q)
        metrics = figures(log_p, codes, entropy, self.vocab_size, beta) | {"temperature": temperature}
        kl = self.num_tokens * math.log(self.vocab_size) - entropy.sum(-1).mean()
        return beta * kl - log_p.mean(), metrics

    def _drawn(self, y: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Codes [K B T], their one-hots [K B T V], and log q(v) [K B T V], or [1 B T V] where samples share it."""
        encoder, config = self.encoder, self.config
        if config.through_inputs and isinstance(encoder, AutoregressiveEncoder):

            def choose(logits: Tensor) -> Tensor:
                symbols = sample_tokens(logits, 1)[0][0]
                return config.one_hots(logits.log_softmax(-1), symbols, temperature)

            one_hots, logits = encoder.unroll(y, config.samples, choose)
            return one_hots.argmax(-1), one_hots, logits.log_softmax(-1)
        codes, _, _, drawn_logits = Sampled()(encoder, self.decoder, y, config.samples)
        logits = encoder.logits(y, codes) if drawn_logits is None else drawn_logits
        log_q = logits.log_softmax(-1)
        return codes, config.one_hots(log_q.expand(*codes.shape, -1), codes, temperature), log_q

    @property
    def final_beta(self) -> float:
        """beta at the last step."""
        return self.config.beta_last
