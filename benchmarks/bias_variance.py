"""Exact bias and variance of every gradient estimator, on a problem small enough to enumerate.

    OMP_NUM_THREADS=1 python benchmarks/bias_variance.py

3 tokens of 3 symbols make 27 codes. One datum; two random decoders, in which a token reaches its own cell of x alone
(reach 0), or those beside it too (reach 1); two policies, a table of logits for every prefix (autoregressive) or for
every token (factorised). The truth is the gradient of the exact target, -sum_z q*(z) grad log q(z). K codes drawn from
q make an estimate of it; all 27^K draws are enumerated, and all outcomes of resampling, so no figure here has an error
of its own.

    bias       |mean - truth| / |truth|
    variance   trace of the covariance / |truth|^2
    cosine     between mean and truth

eta and beta are fixed, eta such that q* has an effective sample size of 0.4 under q. Search, local credit and
first-order targets aim elsewhere on purpose: for them the bias says how far, the cosine how much of the direction is
left. Writes docs/results/bias_variance.json and docs/pictures/bias_variance.png.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor, nn

from daps.credit import LocalCredit, Reach
from daps.critic import improved, predicted_change
from daps.decoder import Decoder
from daps.likelihood import GaussianLikelihood
from daps.nn.linear import mlp
from daps.objective import effective_sample_size, log_weights, policy_loss
from daps.run import environment, write_json
from daps.search import improve
from daps.selection import resample, take
from daps.symbols import TableEmbedding

DOCS = Path(__file__).parents[1] / "docs"
COMMAND = "OMP_NUM_THREADS=1 python benchmarks/bias_variance.py"
T, V = 3, 3
REACHES, POLICIES = (0, 1), ("autoregressive", "factorised")
BETA, ESS, REGION = 0.1, 0.4, 0.1  # price of entropy; of q* under q; nats per token of the first-order targets
CODES = torch.tensor(list(itertools.product(range(V), repeat=T)))  # [27, T]
Outcome = tuple[Tensor, Tensor]  # chances [N], gradients [N, P]: what may come of N draws beside other outcomes


class Cells(nn.Module):
    """Two values of every cell from the vectors of the tokens within `reach` of it."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.layers = mlp(((2 * reach + 1) * width, 8, 2))

    def forward(self, vectors: Tensor) -> Tensor:
        """[N, T, D] -> [N, 2 T]."""
        padded = F.pad(vectors, (0, 0, self.reach, self.reach))
        return self.layers(torch.cat([padded[:, i : i + T] for i in range(2 * self.reach + 1)], -1)).flatten(1)


@dataclass(eq=False)
class Problem:
    """A datum, its decoder, a policy, and all that is exact about them. One row a code where not said otherwise."""

    decoder: Decoder
    y: Tensor
    logits: Callable[[Tensor], Tensor]  # parameters -> [27, T, V]
    parameters: Tensor
    shared: bool  # whether one distribution serves all codes
    reach: int

    def __post_init__(self) -> None:
        with torch.no_grad():
            self.distribution = self.decoder(CODES[:, None])
            self.log_p = self.distribution.log_prob(self.y)[:, 0]
        self.log_policy = self.logits(self.parameters).log_softmax(-1)  # [27, T, V]
        self.log_q = self.log_policy.gather(-1, CODES[..., None])[..., 0]  # [27, T]
        slopes = torch.func.jacrev(lambda p: self.logits(p).log_softmax(-1))(self.parameters).flatten(3)
        self.slopes = slopes  # d log_policy: [27, T, V, P]
        self.scores = slopes.gather(2, CODES[..., None, None].expand(-1, -1, 1, slopes.shape[-1]))[:, :, 0]
        low, high = (math.log(tau) for tau in (BETA, 1e4))
        self.eta = math.exp(brentq(lambda log_tau: self._ess(math.exp(log_tau)) - ESS, low, high)) - BETA
        target = (self.log_q.sum(-1) + self._scores(self.eta + BETA)).softmax(0)
        self.truth = -(target @ self.scores.sum(1))

    def _scores(self, tau: float) -> Tensor:
        return (self.log_p - BETA * self.log_q.sum(-1)) / tau

    def _ess(self, tau: float) -> float:
        """(E_q[u])^2 / E_q[u^2] of u = q* / q."""
        log_q, log_u = self.log_q.sum(-1), self._scores(tau)
        return float((2 * torch.logsumexp(log_q + log_u, 0) - torch.logsumexp(log_q + 2 * log_u, 0)).exp())


def problem(policy: str, reach: int) -> Problem:
    """The same datum and decoder for both policies."""
    torch.manual_seed(1)
    decoder = Decoder(TableEmbedding(V, 2), Cells(2, reach), GaussianLikelihood(0.3, 0.3), (2 * T, 1), (T,)).double()
    y = torch.randn(1, 2 * T, 1, dtype=torch.float64)
    if policy == "factorised":
        parameters = torch.randn(T, V, dtype=torch.float64)
        return Problem(decoder, y, lambda p: p.expand(len(CODES), T, V), parameters, True, reach)
    first = [sum(V**s for s in range(t)) for t in range(T)]  # row of the first prefix of t symbols
    rows = [first[t] + (CODES[:, :t] * V ** torch.arange(t)).sum(-1) for t in range(T)]
    prefix = torch.stack(rows, -1)
    parameters = torch.randn(first[-1] + V ** (T - 1), V, dtype=torch.float64)
    return Problem(decoder, y, lambda p: p[prefix], parameters, False, reach)


def every_draw(k: int) -> Tensor:
    """Indices of the codes of all draws, [K, 27^K]."""
    return torch.cartesian_prod(*[torch.arange(len(CODES))] * k).T


# -- the estimators: draws [K, N], indices of codes -> outcomes ------------------------------------


def gradient(at: Problem, draws: Tensor, log_w: Tensor, baseline: float = 0.0) -> Tensor:
    """That of `policy_loss` for every draw alone, [N, P]."""
    log_q = at.log_q[draws].requires_grad_()  # [K, N, T]
    loss = policy_loss(log_w, log_q, baseline) * draws.shape[1]
    slope = torch.autograd.grad(loss, log_q)[0]
    sites = draws.unsqueeze(-1) * T + torch.arange(T)  # rows of the flattened scores
    mine = torch.zeros(draws.shape[1], len(CODES) * T, dtype=slope.dtype)
    for slopes, rows in zip(slope, sites, strict=True):
        mine.scatter_add_(1, rows, slopes)
    return mine @ at.scores.flatten(0, 1)


def weights(at: Problem, draws: Tensor) -> Tensor:
    """The paper's log-weights [K, N]."""
    return log_weights(at.log_p[draws], at.log_q.sum(-1)[draws], at.eta, BETA)


def paper(at: Problem, draws: Tensor) -> Iterator[Outcome]:
    """Self-normalised weights."""
    yield torch.ones(draws.shape[1]), gradient(at, draws, weights(at, draws))


def centred(at: Problem, draws: Tensor) -> Iterator[Outcome]:
    """Weights w - 1/K."""
    yield torch.ones(draws.shape[1]), gradient(at, draws, weights(at, draws), 1 / len(draws))


def resampled(at: Problem, draws: Tensor, count: int) -> Iterator[Outcome]:
    """`count` of the K, drawn by weight: every outcome of the stratified resampling and its chance."""
    log_w = weights(at, draws)
    upper = log_w.exp().T.cumsum(-1)  # [N, K]
    lower = upper - log_w.exp().T
    strata = torch.arange(count, dtype=torch.float64).view(-1, 1, 1) / count
    low, high = torch.maximum(lower, strata), torch.minimum(upper, strata + 1 / count)  # [count, N, K]
    chances = count * (high - low).clamp(min=0)
    uniforms = (((low + high) / 2 - strata) * count).clamp(0, 1)
    for picks in itertools.product(range(len(draws)), repeat=count):
        middle = torch.stack([uniforms[i, :, k] for i, k in enumerate(picks)], -1)
        with mock.patch.object(torch, "rand", return_value=middle):  # the package's own code, told what to draw
            chosen, log_w_few = resample(log_w, count)
        chance = torch.stack([chances[i, :, k] for i, k in enumerate(picks)]).prod(0)
        yield chance, gradient(at, take(draws, chosen), log_w_few)


def local(at: Problem, draws: Tensor, tail: float, baseline: float = 0.0) -> Iterator[Outcome]:
    """A weight for every token."""
    credit = LocalCredit(Reach(T, (T,), at.reach), tail).double()
    _, returns = credit(at.distribution, at.y, at.log_q[:, None])
    reward, price = (values[:, 0][draws] for values in returns)  # [K, N, T]
    yield torch.ones(draws.shape[1]), gradient(at, draws, log_weights(reward, price, at.eta, BETA), baseline)


def searched(at: Problem, draws: Tensor) -> Iterator[Outcome]:
    """Samples improved by a greedy sweep, then weighed as if drawn from q."""
    found = improve(at.decoder, at.y, CODES[:, None], 1)[:, 0]
    draws = (found @ V ** torch.arange(T - 1, -1, -1))[draws]
    yield torch.ones(draws.shape[1]), gradient(at, draws, weights(at, draws))


@functools.cache
def targets(at: Problem, k: int) -> Tensor:
    """Gradient [27^K, P] of the loss to first-order targets; the order of the draws does not matter to it."""
    gain = predicted_change(at.decoder, at.y, CODES[:, None])[:, 0]  # [27, T, V]
    kinds, which = every_draw(k).sort(0).values.unique(dim=1, return_inverse=True)
    shares = weights(at, kinds).exp()
    rows = []
    for kind, share in zip(kinds.T, shares.T, strict=True):
        if at.shared:  # one target for one distribution, as in daps/methods/daps.py
            mean = (share.view(-1, 1, 1) * gain[kind]).sum(0)
            target = improved(at.log_policy[0], mean, BETA, REGION).exp()
            rows.append(-torch.einsum("tv,tvp->p", target, at.slopes[0]))
        else:
            target = improved(at.log_policy[kind], gain[kind], BETA, REGION).exp()
            rows.append(-torch.einsum("k,ktv,ktvp->p", share, target, at.slopes[kind]))
    return torch.stack(rows)[which]


def first_order(at: Problem, draws: Tensor) -> Iterator[Outcome]:
    """First-order targets alone."""
    yield torch.ones(draws.shape[1]), targets(at, len(draws))


def with_first_order(at: Problem, draws: Tensor) -> Iterator[Outcome]:
    """The paper's weights and first-order targets, as method.critic adds them."""
    yield torch.ones(draws.shape[1]), gradient(at, draws, weights(at, draws)) + targets(at, len(draws))


VARIANTS: dict[str, Callable[[Problem, Tensor], Iterator[Outcome]]] = {
    "weights (the paper)": paper,
    "centred weights": centred,
    "resampled, 1 of K": lambda at, draws: resampled(at, draws, 1),
    "resampled, 2 of K": lambda at, draws: resampled(at, draws, 2),
    "local credit, tail 0": lambda at, draws: local(at, draws, 0.0),
    "local credit, tail 1": lambda at, draws: local(at, draws, 1.0),
    "local, tail 0, centred": lambda at, draws: local(at, draws, 0.0, 1 / len(draws)),
    "local, tail 1, centred": lambda at, draws: local(at, draws, 1.0, 1 / len(draws)),
    "search, one sweep": searched,
    "first-order targets alone": first_order,
    "weights + first-order": with_first_order,
}


def figures(at: Problem, variant: str, k: int) -> dict[str, Any]:
    """Exact bias, variance and cosine."""
    draws = every_draw(k)
    q = at.log_q.sum(-1)[draws].sum(0).exp()
    mean, square, total = torch.zeros_like(at.truth), 0.0, 0.0
    for chance, estimate in VARIANTS[variant](at, draws):
        share = q * chance
        mean = mean + share @ estimate
        square += float(share @ (estimate**2).sum(-1))
        total += float(share.sum())
    if abs(total - 1) > 1e-9:
        raise ValueError(f"{variant}: the chances of all outcomes add up to {total}, not 1")
    size = float(at.truth.norm())
    return {
        "bias": round(float((mean - at.truth).norm()) / size, 6),
        "variance": round(max(square - float(mean @ mean), 0.0) / size**2, 6),
        "cosine": round(float(F.cosine_similarity(mean, at.truth, dim=0)), 6),
        "ess": round(float(q @ effective_sample_size(weights(at, draws))), 4),
    }


def measure() -> list[dict[str, Any]]:
    """A row for every decoder, policy, K and variant."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    commit = environment(torch.device("cpu"))["commit"]
    for reach, policy in itertools.product(REACHES, POLICIES):
        at = problem(policy, reach)
        print(f"\nreach {reach}, {policy} policy, eta {at.eta:.3f}")
        for k, variant in itertools.product((2, 3), VARIANTS):
            found = figures(at, variant, k)
            problem_facts = {"variant": variant, "K": k, "policy": policy, "reach": reach}
            rows.append(
                problem_facts | found | {"eta": round(at.eta, 6), "beta": BETA, "command": COMMAND, "commit": commit}
            )
            shown = "  ".join(f"{name} {found[name]:7.4f}" for name in ("bias", "variance", "cosine"))
            print(f"K = {k}  {variant:26s} {shown}", flush=True)
    return rows


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Bias and standard deviation of every variant; bars for K = 3, ticks for K = 2."""
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex=True, sharey=True)
    for axis, (reach, policy) in zip(grid.flat, itertools.product(REACHES, POLICIES), strict=True):
        for k in (3, 2):
            mine = [row for row in rows if (row["policy"], row["reach"], row["K"]) == (policy, reach, k)]
            biases, deviations = [row["bias"] for row in mine], [math.sqrt(row["variance"]) for row in mine]
            for values, shift, colour, name in (
                (biases, -0.2, "tab:orange", "bias"),
                (deviations, 0.2, "tab:blue", "standard deviation"),
            ):
                places = [place + shift for place in range(len(mine))]
                if k == 3:
                    axis.barh(places, values, 0.36, color=colour, label=f"{name}, K = 3")
                else:
                    axis.plot(values, places, "k|", markersize=9, label="K = 2" if name != "bias" else None)
        axis.set_title(f"{policy} policy, reach {reach}", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    for axis in grid[1]:
        axis.set_xlabel("in units of the exact gradient's length")
    grid[0, 0].set_yticks(range(len(VARIANTS)), list(VARIANTS))
    grid[0, 0].invert_yaxis()
    grid[0, 1].legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    measured = measure()
    write_json(DOCS / "results" / "bias_variance.json", measured)
    picture(measured, DOCS / "pictures" / "bias_variance.png")
