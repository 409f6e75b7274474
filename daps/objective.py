"""The DAPS objective, equation by equation: policy search over code sequences.

For each datum x the encoder q(z|x) draws K code sequences, the decoder scores each by log p(x|z), and the
best encoder within a KL trust region around q is, in closed form,

    q*(z|x)  ∝  q(z|x) exp((A(x, z) - beta log q(z|x)) / (eta + beta)),     A = log p(x|z) - baseline(x).

Its importance weights q*/q, normalised over the K samples, turn "fit q*" into weighted maximum likelihood.
Everything here is a pure function of tensors; the sample axis comes first: [K, B] is K samples of B data. Where
tokens have weights of their own (`daps.credit`), [K, B, T] takes its place: K samples of B T tokens.
Source: DAPS (ICLR 2026), section "the update"; `docs/tour.md` derives each line.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_HALVINGS = 40  # of a bracket 21 decades wide: the multiplier is exact to 1e-10 of its value


def log_weights(
    log_p: Float[Tensor, "K *N"],
    log_q: Float[Tensor, "K *N"],
    eta: float | Float[Tensor, ""],
    beta: float,
) -> Float[Tensor, "K *N"]:
    """Log of the self-normalised weights w^k = softmax_k((A^k - beta log q^k) / (eta + beta)).

    Args:
        log_p: rewards log p(x|z^k) in nats. A baseline that depends on x alone cancels, so none is subtracted.
        log_q: log q(z^k|x) in nats, summed over tokens.
        eta: multiplier of the trust region, >= 0 (inf gives uniform weights).
        beta: price of entropy, >= 0. At eta + beta = 0 the weights are the limit: uniform over the best samples.

    Returns:
        log w with sum_k exp(log w) = 1 and no gradient. A sample with log_p or log_q of -inf weighs
        nothing (-inf); a datum none of whose samples has a finite score gets uniform weights; NaN stays NaN.

    Raises:
        ValueError: a negative eta or beta.
    """
    if beta < 0 or (isinstance(eta, float | int) and eta < 0):
        raise ValueError(f"eta, beta: must be >= 0, got {eta} and {beta}")
    with torch.no_grad():
        scores = _scores(log_p, log_q, beta)
        return torch.log_softmax(_tempered(scores, eta + beta), dim=0)


def effective_sample_size(log_w: Float[Tensor, "K *N"]) -> Float[Tensor, "*N"]:
    """Effective sample size (sum_k w)^2 / sum_k w^2 of each datum, between 1 and K; log_w need not be normalised."""
    log_ess = 2 * torch.logsumexp(log_w, dim=0) - torch.logsumexp(2 * log_w, dim=0)
    return log_ess.exp().clamp(1, log_w.shape[0])


def policy_loss(
    log_w: Float[Tensor, "K B"] | Float[Tensor, "K B T"],
    log_q: Float[Tensor, "K B"] | Float[Tensor, "K B T"],
    baseline: float = 0.0,
) -> Float[Tensor, ""]:
    """Encoder loss -(1/B) sum_b sum_k w_b^k log q(z_b^k|x_b), nats; no gradient flows through the weights.

    Args:
        log_w: log of the weights, normalised over K: per sequence [K, B], or per token [K, B, T].
        log_q: log-probabilities with gradient, per sequence [K, B] or per token [K, B, T] (summed over tokens).
        baseline: taken off every weight. 1 / K leaves the expected gradient alone, since that of log q is zero in
            the mean over q, and lowers its variance.
    """
    weights = log_w.detach().exp() - baseline
    if log_q.ndim == 3 and log_w.ndim == 2:
        log_q = log_q.sum(-1)
    # A sample of weight zero may have log q = -inf, and 0 * -inf is not 0.
    loss = -(weights * log_q.where(weights != 0, 0.0)).sum(0)
    return (loss if loss.ndim == 1 else loss.sum(-1)).mean()


def eta_loss(
    log_p: Float[Tensor, "K *N"],
    log_q: Float[Tensor, "K *N"],
    log_eta: Float[Tensor, ""],
    beta: float,
    target: float,
) -> Float[Tensor, ""]:
    """The paper's loss of the multiplier, (mean_B ESS - target)^2, with gradient to log eta alone.

    Not linear in the batch: under data parallelism the mean ESS must be reduced before it is squared.
    """
    scores = _scores(log_p.detach(), log_q.detach(), beta)
    log_w = torch.log_softmax(_tempered(scores, log_eta.exp() + beta), dim=0)
    return (effective_sample_size(log_w).mean() - target) ** 2


@torch.no_grad()
def solve_eta(
    log_p: Float[Tensor, "K *N"], log_q: Float[Tensor, "K *N"], beta: float, target: float
) -> Float[Tensor, ""]:
    """The multiplier eta >= 0 at which the mean ESS over the batch equals `target`: the exact dual.

    The ESS rises monotonically with eta, so bisection on log(eta + beta) finds the only root.

    Args:
        log_p, log_q, beta: as in `log_weights`.
        target: the effective sample size asked for, in (1, K].

    Returns:
        eta as a scalar: 0 where the constraint is slack (the ESS at eta = 0 reaches the target already);
        where no eta reaches it (samples of zero likelihood), one so large that the others weigh the same.

    Raises:
        ValueError: target outside (1, K]. With K = 1 nothing can be asked for: every weight is 1, eta is 0.
    """
    samples = log_p.shape[0]
    if samples == 1:
        return log_p.new_zeros(())
    if not 1 < target <= samples:
        raise ValueError(f"target: an effective sample size lies in (1, K] = (1, {samples}], got {target:g}; try K / 3")
    scores = _scores(log_p, log_q, beta)
    if scores.device.type != "mps":  # which has no float64
        scores = scores.double()
    widest = (-scores.where(scores.isfinite(), 0.0)).amax().clamp(min=torch.finfo(torch.float32).tiny)
    low = (1e-15 * widest).clamp(min=beta).log()
    high = (1e6 * widest).clamp(min=2 * beta).log()
    slack = _mean_ess(scores, widest.new_tensor(beta)) >= target
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = _mean_ess(scores, middle.exp()) < target
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    eta = (high.exp() - beta).clamp(min=0)
    return torch.where(slack, 0.0, eta).to(log_p.dtype)


def _scores(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """A - beta log q [K, B], shifted so that the best sample of each datum has 0; -inf marks the impossible."""
    impossible = log_p.isneginf() | log_q.isneginf()
    # The large log p is centred before the small entropy term is added, or float32 would round that away.
    scores = (log_p - log_p.amax(0)) - beta * log_q
    scores = scores.masked_fill(impossible, -torch.inf).masked_fill(impossible.all(0), 0.0)
    return scores - scores.amax(0)


def _tempered(scores: Tensor, temperature: float | Tensor) -> Tensor:
    """scores / temperature, for a temperature in [0, inf] and scores in [-inf, 0]."""
    temperature = torch.as_tensor(temperature, dtype=scores.dtype, device=scores.device)
    temperature = temperature.clamp(min=torch.finfo(scores.dtype).tiny)
    impossible = scores.isneginf()
    return (scores.masked_fill(impossible, 0.0) / temperature).masked_fill(impossible, -torch.inf)


def _mean_ess(scores: Tensor, temperature: Tensor) -> Tensor:
    """Mean ESS over the batch of the weights exp(scores / temperature); the best score of each datum is 0."""
    weights = _tempered(scores, temperature).exp()
    return (weights.sum(0) ** 2 / (weights**2).sum(0)).mean()
