"""The idea in one picture: the target q* tightens from q towards the best codes as eta falls.

64 codes on a line, few enough to enumerate. q is broad, the reward has two peaks. Run it to redraw
docs/pictures/trust_region.png; `daps.objective` computes every curve and weight in it.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from daps.objective import effective_sample_size, log_weights, solve_eta

CODES = torch.arange(64, dtype=torch.float64)
BETA = 0.5


def problem() -> tuple[Tensor, Tensor]:
    """log q and log p(x|z) of every code."""
    log_q = torch.log_softmax(-((CODES - 24) ** 2) / (2 * 12**2), dim=0)
    reward = torch.logaddexp(-((CODES - 40) ** 2) / 18, -((CODES - 14) ** 2) / 32 - 1.0) * 3
    return log_q, reward


def target(log_q: Tensor, reward: Tensor, eta: float) -> Tensor:
    """q* over all codes, from its definition: q exp((A - beta log q) / (eta + beta)), normalised."""
    return torch.softmax(log_q + (reward - BETA * log_q) / (eta + BETA), dim=0)


def draw(path: Path) -> None:
    """The picture: exact targets on the left, weights of 16 samples at the solved eta on the right."""
    log_q, reward = problem()
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    exact, sampled = figure.subplots(1, 2)
    exact.fill_between(CODES, log_q.exp(), color="0.85", label="q(z|x)")
    for eta, shade in ((30.0, 0.25), (5.0, 0.45), (1.0, 0.7), (0.0, 0.95)):
        exact.plot(CODES, target(log_q, reward, eta), color=(0.1, 0.3, 0.75, shade), label=f"q*, eta = {eta:g}")
    exact.plot(CODES, (reward.exp() / reward.exp().max()) * 0.05, color="tab:orange", ls=":", label="p(x|z), scaled")
    exact.set(xlabel="code z", ylabel="probability", title=f"The best policy within a trust region (beta = {BETA})")
    exact.legend(frameon=False, fontsize=8)

    codes = torch.multinomial(log_q.exp(), 16, True, generator=torch.Generator().manual_seed(0))
    log_p, log_q_of_codes = reward[codes, None], log_q[codes, None]
    for share, marker in ((0.75, "o"), (0.5, "s"), (0.25, "^")):
        eta = solve_eta(log_p, log_q_of_codes, BETA, share * 16)
        log_w = log_weights(log_p, log_q_of_codes, eta, BETA)
        ess = float(effective_sample_size(log_w))
        sampled.plot(codes, log_w[:, 0].exp(), marker, ms=5, label=f"ESS {ess:.0f} of 16: eta = {float(eta):.2f}")
    sampled.set(xlim=(-3, 66), xlabel="code z", ylabel="weight", title="Weights of 16 samples at the solved eta")
    sampled.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    picture = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures/trust_region.png")
    draw(picture)
    print(picture)
