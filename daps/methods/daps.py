"""DAPS: discrete autoencoders by policy search.

Draw K code sequences for each datum, score them by the decoder, and fit the encoder to the best policy within
a trust region around it: weighted maximum likelihood, with no gradient through the codes.

What may vary is a part with a file of its own (`Parts`): where sequences come from (proposal), how credit is divided
(credit), what rare symbols earn (codebook), which sequences are trained on (selection), what the decoder's
derivative adds (critic), what sets the price of entropy (schedules, rate). docs/learning.md derives each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.codebook import RareSymbols, Revival
from daps.credit import Credit, LocalCredit, Reach, SequenceCredit
from daps.critic import FirstOrder
from daps.decoder import with_vectors
from daps.encoder import Encoder, token_log_prob
from daps.methods.base import Autoencoder, MethodConfig, Metrics
from daps.metrics import code_bits
from daps.objective import effective_sample_size, eta_loss, log_weights, policy_loss, solve_eta
from daps.precision import Scoring, score_precision
from daps.proposal import Proposal, Sampled, Searched
from daps.rate import RateController
from daps.scaling import Scaling
from daps.schedules import Constant, Exponential
from daps.selection import recombine, resample, take
from daps.symbols import SymbolVectors

REVIVING = 0.6  # share of a training in which dead symbols are revived


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
    trained: int = 0
    """Sequences, resampled from the K by weight, that gradients are spent on; 0: all K, as in the paper."""
    decoder_samples: Literal["resampled", "drawn"] = "resampled"
    """What the decoder learns from where `trained` > 0: as many samples of q*, resampled by weight, or of q, as they
    were drawn, which leaves its gradient that of the ELBO, as in the paper."""
    scoring: Scoring = "float32"
    """Precision of the decoder's products where codes are scored without gradient, that is with trained > 0. "auto":
    bfloat16 where the processor has instructions for it."""
    centred: bool = False
    """Weights w - 1/K: the same expected gradient with less variance."""
    credit: Literal["sequence", "local"] = "sequence"
    """One weight per sequence, or per token by the part of x that it reaches (convolutional decoders)."""
    reach: int = 1
    """Radius, in tokens, of what a token answers for under local credit."""
    tail: float = 0.0
    """Share of what later tokens reach that a token answers for too (local credit); 1 for autoregressive encoders."""
    fullness: float = 0.0
    """Reward, in nats per nat, for symbols that are rare in the aggregate of the codes; 0: none, as in the paper."""
    fullness_first: float = 0.3
    """Share of the training at which this reward begins to rise."""
    fullness_last: float = 0.5
    """Share of the training at which it is fully on."""
    revival: float = 0.0
    """Share of the average use below which a symbol takes after one in much use (structured symbols); 0: none."""
    sweeps: int = 0
    """Sweeps of greedy search that improve the samples before they are learned from."""
    critic: float = 0.0
    """Trust region, in nats per token, of the first-order targets; 0: none."""
    rate: float = 0.0
    """Bits of KL that beta is steered towards, from beta_first on; 0: beta decays to beta_last."""
    rate_gain: float = 0.01
    """Change of log beta per step and relative error of the rate."""

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
        if not 0 <= self.trained <= self.samples:
            raise ValueError(f"method.trained: must lie in 0..K = {self.samples}, got {self.trained}; 0 trains on all")
        least = {
            name: getattr(self, name)
            for name in ("reach", "fullness", "revival", "sweeps", "critic", "rate", "rate_gain")
        }
        for name, value in least.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"method.{name}: must be >= 0 and finite, got {value:g}")
        if self.rate and not 0 < self.rate_gain <= 1:
            raise ValueError(f"method.rate_gain: must lie in (0, 1], got {self.rate_gain:g}; 0.01 is a good beginning")
        if not 0 <= self.tail <= 1:
            raise ValueError(f"method.tail: must lie in [0, 1], got {self.tail:g}; 1 for autoregressive encoders")
        if self.tail and self.credit == "sequence":
            raise ValueError(f"method.tail: belongs to local credit, got {self.tail:g} with credit = sequence; drop it")
        if not 0 <= self.fullness_first <= self.fullness_last <= 1:
            raise ValueError(
                "method: needs 0 <= fullness_first <= fullness_last <= 1, got "
                f"{self.fullness_first:g} and {self.fullness_last:g}; they are shares of the training"
            )
        if self.eta == "gradient" and self.credit == "local":
            raise ValueError("method.eta: local credit solves its multiplier; take eta = solve, or credit = sequence")

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

    def parts(self, encoder: Encoder, decoder: nn.Module, steps: int) -> "Parts":
        """The parts that these settings ask for.

        Raises:
            ValueError: the networks cannot serve them.
        """
        for option in ("sweeps", "critic"):
            if getattr(self, option):
                with_vectors(decoder, f"method.{option}")
        tokens, symbols = encoder.num_tokens, encoder.vocab_size
        nominal = tokens * math.log2(symbols)
        if self.rate > nominal:
            raise ValueError(
                f"method.rate: {tokens} tokens of {symbols} symbols carry {nominal:g} bits, got {self.rate:g}; "
                "ask for less"
            )
        begin, end = self.fullness_first * steps, self.fullness_last * steps
        return Parts(
            beta=self._price_of_entropy(steps),
            proposal=Searched(self.sweeps) if self.sweeps else Sampled(),
            credit=SequenceCredit() if self.credit == "sequence" else self._local_credit(decoder, tokens),
            rarity=RareSymbols(tokens, symbols, self.fullness, begin, end) if self.fullness else None,
            revival=Revival(symbols, self.revival, REVIVING * steps) if self.revival else None,
            critic=FirstOrder(self.critic) if self.critic else None,
        )

    def _price_of_entropy(self, steps: int) -> Callable[[int], float]:
        if self.rate:
            return RateController(self.beta_first, self.rate, self.rate_gain)
        if self.beta_first == self.beta_last:
            return Constant(self.beta_first)
        return Exponential(self.beta_first, self.beta_last, steps)

    def _local_credit(self, decoder: nn.Module, num_tokens: int) -> LocalCredit:
        grid = with_vectors(decoder, "method.credit").grid
        if grid is None:
            raise ValueError(
                "method.credit: local credit needs a decoder whose tokens have places (nets.decoder_kind = conv, "
                "or transformer for sequences); take credit = sequence"
            )
        return LocalCredit(Reach(num_tokens, grid, self.reach), self.tail)


@dataclass(frozen=True)
class Parts:
    """What may vary in a step of DAPS."""

    beta: Callable[[int], float]
    """Price of entropy at a step."""
    proposal: Proposal = field(default_factory=Sampled)
    """Where the code sequences come from."""
    credit: Credit = field(default_factory=SequenceCredit)
    """What each token answers for."""
    rarity: RareSymbols | None = None
    """What rare symbols earn."""
    revival: Revival | None = None
    """What becomes of symbols out of use."""
    critic: FirstOrder | None = None
    """What the decoder's derivative adds."""


class DAPS(Autoencoder):
    """Policy search over code sequences.

    Args:
        encoder, decoder, data_shape, scaling: as in Autoencoder; any modules with these faces serve. Local credit,
            search and first-order targets ask for a `daps.decoder.Decoder`.
        config: settings.
        steps: length of training, over which beta decays.
        parts: your own parts, in place of those that the settings name.

    Raises:
        ValueError: settings that these networks cannot serve.
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
        parts: Parts | None = None,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, scaling)
        self.config = DAPSConfig() if config is None else config
        self.steps = max(steps, 1)
        parts = self.config.parts(encoder, decoder, self.steps) if parts is None else parts
        few = self.config.trained and not encoder.shared
        if self.config.centred and (few or not isinstance(parts.proposal, Sampled)):
            raise ValueError(
                "method.centred: holds for all K samples of the encoder as they were drawn; leave it off with sweeps, "
                "and with trained where the encoder is autoregressive"
            )
        self.beta, self.proposal, self.credit = parts.beta, parts.proposal, parts.credit
        self.rarity, self.revival, self.critic = parts.rarity, parts.revival, parts.critic
        if self.revival is not None and not any(isinstance(part, SymbolVectors) for part in self.modules()):
            raise ValueError(
                "method.revival: symbols take after others where they share features; set nets.structure = lattice, or "
                "method.revival = 0"
            )
        self.log_eta = nn.Parameter(torch.tensor(self.config.eta_first).log())
        self.log_eta.requires_grad_(self.config.eta == "gradient")

    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """The loss of a batch in natural units: policy + reconstruction (+ multiplier)."""
        config, beta, y = self.config, self.beta(step), self.scaling(x)
        if self.revival is not None:
            self.revival(self, step)
        codes, log_q_tokens, kl, logits = self.proposal(self.encoder, self.decoder, y, config.samples)  # roll out
        with torch.set_grad_enabled(not config.trained), self._precision(y.device):
            log_p, (reward, log_q) = self.credit(self.decoder(codes), y, log_q_tokens)  # log p trains the decoder
        if self.rarity is not None:
            reward = reward + self.credit.share(self.rarity(codes, step))
            self.rarity.observe(codes)
        if self.revival is not None:
            self.revival.observe(codes)
        eta, dual_loss = self._multiplier(reward, log_q, beta)
        log_w = log_weights(reward, log_q, eta, beta)
        if isinstance(self.beta, RateController):
            self.beta.observe(kl)

        metrics: Metrics = {
            "log_p": log_p.detach().mean(),
            "elbo": log_p.detach().mean() - kl,
            "kl": kl,
            "ess": effective_sample_size(log_w).mean(),
            "eta": eta,
            "beta": beta,
            "bits": code_bits(codes, self.vocab_size),
        }
        if config.trained:
            few, shared = codes[: config.trained], self.encoder.shared
            if config.decoder_samples == "resampled" or not shared:
                chosen, log_w_chosen = self._few(codes, log_w)
                few = chosen if config.decoder_samples == "resampled" else few
                codes, log_w = (codes, log_w) if shared else (chosen, log_w_chosen)  # shared: all K cost no more
            log_p = self.decoder(few).log_prob(y)
        if logits is None:
            logits = self.encoder.logits(y, codes)
        return self._policy_loss(y, codes, logits, log_w, beta) - log_p.mean() + dual_loss, metrics

    def _precision(self, device: torch.device) -> torch.autocast:
        return score_precision(self.config.scoring if self.config.trained else "float32", device)

    def _multiplier(self, reward: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """eta, and the loss that moves it."""
        target = self.config.ess_target
        if self.config.eta == "solve":
            eta = solve_eta(reward, log_q, beta, target)
            return eta, eta.new_zeros(())
        return self.log_eta.detach().exp(), eta_loss(reward, log_q, self.log_eta, beta, target)

    def _few(self, codes: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """The sequences that gradients are spent on, and their log-weights."""
        if self.encoder.shared and log_w.ndim == 3:  # tokens are independent, and so are their weights
            return recombine(codes, log_w, self.config.trained), log_w
        chosen, log_w_few = resample(log_w, self.config.trained)
        return take(codes, chosen), log_w_few

    def _policy_loss(self, y: Tensor, codes: Tensor, logits: Tensor, log_w: Tensor, beta: float) -> Tensor:
        """Weighted maximum likelihood of the codes, and of the first-order targets where they are asked for."""
        baseline = 1 / len(codes) if self.config.centred else 0.0
        loss = policy_loss(log_w, token_log_prob(logits, codes), baseline)
        return loss if self.critic is None else loss + self.critic(self.decoder, y, codes, logits, log_w, beta)

    @property
    def final_beta(self) -> float:
        """beta at the last step; where a rate steers it, beta now."""
        return self.beta(self.steps)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """log eta moves at its own rate and is not decayed: decay would pull eta towards 1."""
        nets = [p for p in self.parameters() if p is not self.log_eta]
        groups: list[dict[str, Any]] = [{"params": nets, "lr": learning_rate, "weight_decay": weight_decay}]
        if self.log_eta.requires_grad:
            groups.append({"params": [self.log_eta], "lr": self.config.eta_learning_rate, "weight_decay": 0.0})
        return groups
