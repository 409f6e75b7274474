"""Makes the policy from codes to torques: the tracker of frames, behind a linear reading of codes in place of frames.

Nothing is simulated: windows of the clips go through the tokenizer, and the reading is fitted to what comes out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from daps.methods.base import Autoencoder
from daps.motion import ROOT, pose_features
from daps.robot.code_tracker import CodeTracker, symbol_components
from daps.robot.retelling import Retelling
from daps.robot.tracker import Tracker

BATCH = 256  # windows between two rows of figures


@dataclass(frozen=True)
class DistillingConfig:
    """What decides the outcome beside motions, tokenizer and tracker."""

    components: int = 16
    """Numbers that a symbol is told by: the principal components of the vectors that the decoder reads."""
    windows: int = 24_576
    """Of the clips, drawn by chance, that the reading is fitted to."""
    ridge: float = 1e-3
    """Price on the square of the reading's weights, for symbols' numbers of variance 1."""
    mirror: bool = True
    """Whether windows are also of every clip as a mirror shows it."""
    seed: int = 0
    """Of the windows."""

    def __post_init__(self) -> None:
        for name in ("components", "windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"distilling.{name}: must be >= 1, got {getattr(self, name)}")
        if not self.ridge > 0:
            raise ValueError(f"distilling.ridge: must be > 0, got {self.ridge:g}; 0.001 will do")


class Distilling:
    """The work in progress: windows gathered so far, and the policy.

    Args:
        clips: name -> poses at 30 frames per second.
        tokenizer: whose codes are to be read.
        teacher: the tracker that is to follow what is read.
        config: settings.

    Raises:
        ValueError: no clip that is long enough, or a decoder without vectors of symbols.
    """

    def __init__(
        self,
        clips: Mapping[str, Float[Tensor, "F P"]],
        tokenizer: Autoencoder,
        teacher: Tracker,
        config: DistillingConfig | None = None,
    ) -> None:
        self.config = DistillingConfig() if config is None else config
        self.retelling = Retelling(tokenizer, clips)
        beginnings, generator = self.retelling.beginnings, torch.Generator().manual_seed(self.config.seed)
        self.frames = beginnings[torch.randint(len(beginnings), (self.config.windows,), generator=generator)]
        table = symbol_components(tokenizer, self.config.components)
        joints = self.retelling.poses.shape[-1] - ROOT
        self.policy = CodeTracker(tokenizer.num_tokens, self.retelling.window, table, joints, teacher.config)
        self.policy.requires_grad_(False).tracker.load_state_dict(teacher.state_dict())
        self.fit = LinearFit(self.policy.reading.in_features, self.policy.reading.out_features)

    @property
    def done(self) -> int:
        """Windows so far."""
        return self.fit.count

    @property
    def total(self) -> int:
        """Windows in all."""
        return self.config.windows

    def weights(self) -> dict[str, Tensor]:
        """Of the policy."""
        return self.policy.state_dict()

    def run(self) -> Iterator[dict[str, float]]:
        """Gathers what is left; the last row has the error of what is read, RMS over joints, rad."""
        while self.done < self.total:
            frame = self.frames[self.done : self.done + BATCH]
            poses, codes = self.retelling.motion(self.retelling.past(frame), frame)
            self.fit.add(self.policy.vectors(codes.cpu()), pose_features(poses).flatten(1))
            row = {"step": float(self.done)}
            if self.done == self.total:
                weight, bias, error = self.fit.solve(self.config.ridge)
                self.policy.reading.weight.copy_(weight)
                self.policy.reading.bias.copy_(bias)
                row["read"] = float(error.unflatten(0, (self.retelling.window + 1, -1))[:, ROOT:].mean().sqrt())
            yield row

    def state_dict(self) -> dict[str, Any]:
        """All that continues the work bit for bit."""
        return {"fit": self.fit.sums, "policy": self.policy.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes up where state_dict left off."""
        self.fit.sums = saved["fit"]
        self.policy.load_state_dict(saved["policy"])


class LinearFit:
    """Least squares y = W x + b from batches, of which sums are kept.

    Args:
        inputs, outputs: numbers of an x and of a y.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        sizes = {"n": (), "x": (inputs,), "y": (outputs,), "xx": (inputs, inputs), "xy": (inputs, outputs)}
        sizes["yy"] = (outputs,)
        self.sums = {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}

    @property
    def count(self) -> int:
        """Rows so far."""
        return int(self.sums["n"])

    def add(self, x: Float[Tensor, "N I"], y: Float[Tensor, "N O"]) -> None:
        """Takes rows in."""
        x, y = x.double(), y.double()
        parts = {"n": torch.tensor(len(x)), "x": x.sum(0), "y": y.sum(0)}
        parts |= {"xx": x.T @ x, "xy": x.T @ y, "yy": y.square().sum(0)}
        self.sums = {name: total + parts[name] for name, total in self.sums.items()}

    def solve(self, ridge: float) -> tuple[Float[Tensor, "O I"], Float[Tensor, " O"], Float[Tensor, " O"]]:
        """W, b and the mean square of each output's error, for a price on the sum of squares of W (b is free)."""
        n, x, y, xx, xy, yy = (self.sums[name] for name in ("n", "x", "y", "xx", "xy", "yy"))
        x, y = x / n, y / n
        gram, cross = xx / n - torch.outer(x, x), xy / n - torch.outer(x, y)
        weight = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), cross)
        error = yy / n - y.square() - 2 * (weight * cross).sum(0) + (weight * (gram @ weight)).sum(0)
        return weight.T, y - x @ weight, error.clamp_min(0)
