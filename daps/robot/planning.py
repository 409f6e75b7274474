"""Trains the planner on windows of motion: their codes, what came before, how they move and what they are called."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from jaxtyping import Float, Int
from torch import Tensor

from daps.methods.base import Autoencoder
from daps.motion import pose_features
from daps.optim import Kind, optimizers
from daps.precision import Scoring, score_precision
from daps.progress import ProgressLine
from daps.robot.labels import Label, all_captions, label, measured
from daps.robot.mass import centres
from daps.robot.planner import Conditions, Planner, PlannerConfig
from daps.robot.stream import SPEEDS
from daps.schedules import Cosine

PAST = 2  # frames before a window that the planner sees


@dataclass(frozen=True)
class PlanningConfig:
    """What decides the outcome of a training beside motions and tokenizer."""

    steps: int = 10_000
    """Updates."""
    batch_size: int = 32
    """Windows of an update."""
    optimizer: Kind = "muon"
    """AdamW, or Muon for the matrices inside the networks and AdamW for the rest."""
    learning_rate: float = 3e-3
    """At the first step."""
    rate_last: float = 0.05
    """At the last step, as a share of the first, along half a cosine."""
    weight_decay: float = 0.01
    """Decoupled."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    products: Scoring = "auto"
    """Precision of matrix products; "auto": bfloat16 where the processor has instructions for it."""
    stride: int = 2
    """Frames from one window to the next."""
    mirror: bool = True
    """Whether it also learns from every clip as a mirror shows it."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"planning.{name}: must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class PlanningData:
    """Windows, a row each."""

    past: Float[Tensor, "N F C"]
    """Features of the frames before."""
    commands: Float[Tensor, "N 3"]
    """As `daps.robot.labels.Command`, of the window."""
    labels: tuple[Label, ...]
    """What each is called."""
    codes: Int[Tensor, "N T"]
    """Of the tokenizer."""

    def __len__(self) -> int:
        return len(self.codes)


def planning_data(
    tokenizer: Autoencoder,
    clips: Mapping[str, Float[Tensor, "_ P"]],
    stride: int,
    model: mujoco.MjModel | None = None,
    batch: int = 256,
) -> PlanningData:
    """All windows of clips, `stride` frames apart, by a tokenizer of motion; shows its progress.

    Args:
        tokenizer: of windows [F, C].
        clips: name -> poses at 30 frames per second; names say what is done (daps.robot.labels).
        stride: frames from one window to the next.
        model: of the robot, for velocities of its centre of mass; they are of its root if left out.
        batch: windows encoded at a time.

    Raises:
        ValueError: no clip that is long enough.
    """
    window = tokenizer.data_shape[0]
    past, windows, commands, labels = [], [], [], []
    for name, poses in clips.items():
        features, centre = pose_features(poses).float(), None if model is None else centres(model, poses)
        starts = range(PAST, len(poses) - window + 1, stride)
        before = torch.tensor(starts, dtype=torch.long)[:, None] + torch.arange(-PAST, 0)
        past.append(pose_features(poses[before]).float())  # as in use: what comes next is not known
        for start in starts:
            windows.append(features[start : start + window])
            piece = slice(start - 1, start + window)
            command = measured(poses[piece], centre=None if centre is None else centre[piece])
            commands.append((command.forward, command.left, command.turn))
            labels.append(label(name, command))
    if not windows:
        raise ValueError(f"motion: a plan needs clips of at least {window + PAST} frames; give longer ones")
    every = torch.stack(windows)
    codes: list[Tensor] = []
    with ProgressLine(0, len(every), units=("window encoded", "windows encoded")) as line:
        for part in every.split(batch):
            codes.append(tokenizer.encode(part.to(tokenizer.device)).cpu())
            line.update(sum(map(len, codes)), {})
    return PlanningData(torch.cat(past), torch.tensor(commands), tuple(labels), torch.cat(codes))


def standing(data: PlanningData) -> Float[Tensor, "F C"]:
    """Features of a robot that stands still: in the pose, among windows called so, that is nearest to their mean.

    Of all windows where none is called so. Velocities are zero and all frames the same.
    """
    called = [row for row, label in enumerate(data.labels) if label.kind == "stand"]
    poses = data.past[called or slice(None), -1, SPEEDS:]
    nearest = poses[(poses - poses.mean(0)).norm(dim=-1).argmin()]
    return torch.cat((nearest.new_zeros(SPEEDS), nearest)).expand(data.past.shape[1], -1)


class Planning:
    """A training in progress.

    Args:
        data: to learn from.
        vocab_size: of the tokenizer.
        read: sentences -> vectors, as SentenceEncoder.encode; every caption is read once.
        config, planner: settings.
    """

    def __init__(
        self,
        data: PlanningData,
        vocab_size: int,
        read: Callable[[Sequence[str]], Float[Tensor, "M 384"]],
        config: PlanningConfig | None = None,
        planner: PlannerConfig | None = None,
    ) -> None:
        self.config = config = PlanningConfig() if config is None else config
        self.data = data
        torch.manual_seed(config.seed)
        frames, features = data.past.shape[1:]
        self.planner = Planner(data.codes.shape[1], vocab_size, frames, features, planner)
        captions = all_captions(data.labels)
        self.captions = dict(zip(captions, read(captions), strict=True))
        self.planner.fit_scales(self.conditions(torch.arange(len(data)), random.Random(0)))
        self.planner.rest.copy_(standing(data))
        groups = [
            {"params": list(self.planner.parameters()), "lr": config.learning_rate, "weight_decay": config.weight_decay}
        ]
        self.optimizers = optimizers(config.optimizer, self.planner, groups, torch.device("cpu"))
        self.step = 0

    @property
    def done(self) -> int:
        """Steps so far."""
        return self.step

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.config.steps

    def weights(self) -> dict[str, Tensor]:
        """Of the planner, which is what remains."""
        return self.planner.state_dict()

    def conditions(self, rows: Int[Tensor, " N"], chance: random.Random) -> Conditions:
        """Of windows, with one of its captions for each."""
        text = torch.stack([self.captions[self.data.labels[row].caption(chance)] for row in rows.tolist()])
        yes = torch.ones(len(rows), dtype=torch.bool)
        return Conditions(text, self.data.commands[rows], self.data.past[rows], yes, yes)

    def run(self) -> Iterator[dict[str, float]]:
        """Steps until the last, with the figures of each: nats of a window under the planner."""
        share = Cosine(1.0, self.config.rate_last, self.config.steps)
        while self.step < self.config.steps:
            seed = self.config.seed * 1_000_003 + self.step  # batch and captions are functions of seed and step
            generator, chance = torch.Generator().manual_seed(seed), random.Random(seed)
            rows = torch.randint(len(self.data), (self.config.batch_size,), generator=generator)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
                for group in optimizer.param_groups:
                    group["lr"] = self.config.learning_rate * share(self.step)
            with score_precision(self.config.products, torch.device("cpu")):
                loss = self.planner.loss(self.conditions(rows, chance), self.data.codes[rows], generator)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.planner.parameters(), self.config.clip)
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            yield {"step": self.step, "nats": float(loss.detach())}

    def state_dict(self) -> dict[str, Any]:
        """All that continues the training bit for bit."""
        return {
            "step": self.step,
            "planner": self.planner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes up where state_dict left off."""
        self.step = saved["step"]
        self.planner.load_state_dict(saved["planner"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
