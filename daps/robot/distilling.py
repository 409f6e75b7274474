"""Trains the policy from codes to torques on what the tracker of frames does (DAgger, Ross et al., 2011).

A round is a window: robots follow pieces of clips as codes retell them, some led by the pupil, some by the teacher. The
teacher, who sees the decoded frames, says at each state what it would do; the pupil, who sees the codes, learns that.
It begins as a copy of the teacher that reads, of decoded frames, what is linear in the codes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from daps.methods.base import Autoencoder
from daps.motion import pose_features
from daps.precision import Scoring, score_precision
from daps.robot.code_tracker import CodeTracker, CodeTrackerConfig, symbol_components
from daps.robot.pilot import anchored
from daps.robot.play import LoopConfig
from daps.robot.reference import Plan
from daps.robot.retelling import Retelling
from daps.robot.simulation import Simulation
from daps.robot.tracker import Tracker
from daps.robot.tracking import lost
from daps.robot.world import State
from daps.schedules import Cosine


@dataclass(frozen=True)
class DistillingConfig:
    """What decides the outcome of a training beside motions, tokenizer and teacher."""

    samples: int = 3_000_000
    """Control steps of robots to simulate."""
    robots: int = 256
    """Simulated at once."""
    led: float = 0.5
    """Share of robots that the teacher leads at first; falls to a tenth of that along half a cosine."""
    windows: int = 8_192
    """Windows of the clips that the pupil's reading of codes is fitted to before the first round."""
    mirror: bool = True
    """Whether it also learns from every clip as a mirror shows it."""
    capacity: int = 40
    """Rounds that are remembered."""
    updates: int = 60
    """A round."""
    batch_size: int = 1_024
    """States of an update."""
    learning_rate: float = 3e-4
    """At the first round."""
    rate_last: float = 0.05
    """At the last, as a share of the first, along half a cosine."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    products: Scoring = "auto"
    """Precision of matrix products in updates, as of daps robot track."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "robots", "windows", "capacity", "updates", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"distilling.{name}: must be >= 1, got {getattr(self, name)}")


class Distilling:
    """A training in progress: teacher, pupil, robots and what they remember."""

    def __init__(
        self,
        model: mujoco.MjModel,
        clips: Mapping[str, Float[Tensor, "F P"]],
        tokenizer: Autoencoder,
        teacher: Tracker,
        config: DistillingConfig | None = None,
        pupil: CodeTrackerConfig | None = None,
        loop: LoopConfig | None = None,
        threads: int = 1,
    ) -> None:
        self.config = config = DistillingConfig() if config is None else config
        self.loop = LoopConfig() if loop is None else loop
        torch.manual_seed(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.retelling, self.teacher = Retelling(tokenizer, clips), teacher
        pupil = CodeTrackerConfig() if pupil is None else pupil
        table = symbol_components(tokenizer, pupil.components)
        self.pupil = CodeTracker(tokenizer.num_tokens, self.retelling.window, table, model.nu, teacher.config)
        self.pupil.tracker.load_state_dict(teacher.state_dict())
        self.optimizer = torch.optim.AdamW(self.pupil.parameters(), config.learning_rate)
        self.simulation = Simulation(model, config.robots, threads)
        self.frame = torch.zeros(config.robots, dtype=torch.long)
        self.fresh = torch.ones(config.robots, dtype=torch.bool)
        self.memory: list[dict[str, Tensor]] = []
        self.round = 0

    @property
    def rounds(self) -> int:
        """In all."""
        return -(-self.config.samples // (self.config.robots * self.loop.steps))

    @property
    def done(self) -> int:
        """Samples so far."""
        return self.round * self.config.robots * self.loop.steps

    @property
    def total(self) -> int:
        """Samples in all: whole rounds."""
        return self.rounds * self.config.robots * self.loop.steps

    def weights(self) -> dict[str, Tensor]:
        """Of the pupil, which is what remains."""
        return self.pupil.state_dict()

    def run(self) -> Iterator[dict[str, float]]:
        """Rounds until the samples are spent, with the figures of each."""
        if self.round == 0:
            self._fit_reading()
        while self.round < self.rounds:
            figures = self.collect()
            figures["cost"] = self.learn()
            self.round += 1
            yield {"step": self.done, **figures}

    @torch.no_grad()
    def collect(self) -> dict[str, float]:
        """A window of every robot into the memory; the share of robots that lost their motion in it."""
        plan = self._plan()
        share = Cosine(self.config.led, self.config.led / 10, self.rounds)(self.round)
        led = torch.rand(self.config.robots, 1, generator=self.generator) < share
        alive, parts = torch.ones(self.config.robots, dtype=torch.bool), []
        robots, read = torch.arange(self.config.robots), self.pupil.eval().read(plan.codes, plan.anchor)
        for step in range(self.loop.steps):
            state = self._state()
            targets = self.teacher.act(state, plan, step)
            alive &= self._on_track(state, plan, step)  # what the teacher says of who lies on the floor is no lesson
            parts.append((state.pose[alive], state.velocity[alive], targets[alive], robots[alive],
                          torch.full((int(alive.sum()),), step)))  # fmt: skip
            given = torch.where(led, targets, self.pupil(state, read, robots, torch.full_like(robots, step)))
            self.simulation.step(torch.nan_to_num(given).double().numpy())
        names = ("pose", "velocity", "targets", "robot", "step")
        row = {name: torch.cat(part) for name, part in zip(names, zip(*parts, strict=True), strict=True)}
        row |= {"codes": plan.codes, "anchor": plan.anchor}
        self.memory = [*self.memory, row][-self.config.capacity :]
        alive &= self._on_track(self._state(), plan, self.loop.steps)
        self.frame = self.frame + self.loop.frames
        self.fresh = ~alive | ~self.retelling.fits(self.frame)
        mine = ~led.squeeze(-1)
        return {"led": share, "lost": float((~alive)[mine].float().mean()) if bool(mine.any()) else 0.0}

    def _on_track(self, state: State, plan: Plan, step: int) -> Bool[Tensor, " N"]:
        rows = plan.references.rows(torch.arange(len(plan.codes)), torch.full((len(plan.codes),), step))
        goal = State(plan.references.poses[rows], plan.references.velocities[rows])
        return ~lost(state, goal) & torch.isfinite(state.pose).all(-1) & torch.isfinite(state.velocity).all(-1)

    def learn(self) -> float:
        """Updates of the pupil; their mean loss, smooth absolute error in units of a tracker's corrections."""
        for group in self.optimizer.param_groups:
            share = Cosine(1.0, self.config.rate_last, self.rounds)(self.round)
            group["lr"] = self.config.learning_rate * share
        self.pupil.train()
        unit, losses = self.teacher.config.residual, []
        for _ in range(self.config.updates):
            state, targets, codes, anchor, robot, step = self._draw(self.config.batch_size)
            self.optimizer.zero_grad()
            read = self.pupil.read(codes, anchor)  # places and angles need all of their digits
            with score_precision(self.config.products, torch.device("cpu")):
                found = self.pupil(state, read, robot, step)
            loss = nn.functional.smooth_l1_loss(found / unit, targets / unit)  # wild corrections are no better lessons
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.pupil.parameters(), self.config.clip)
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return sum(losses) / len(losses)

    def state_dict(self) -> dict[str, Any]:
        """All that continues the training bit for bit."""
        return {
            "round": self.round,
            "pupil": self.pupil.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "memory": self.memory,
            "robots": (torch.from_numpy(self.simulation.state()), self.frame, self.fresh),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes up where state_dict left off."""
        self.round, self.memory = saved["round"], saved["memory"]
        self.pupil.load_state_dict(saved["pupil"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        robots, self.frame, self.fresh = saved["robots"]
        self.simulation.restore(robots.numpy())

    def _state(self) -> State:
        return State(*(torch.from_numpy(x.copy()).float() for x in (self.simulation.qpos, self.simulation.qvel)))

    def _plan(self) -> Plan:
        """The next windows; robots that are lost, or at the end of a clip, are put at the beginning of one."""
        fresh, retelling = self.fresh.nonzero().squeeze(-1), self.retelling
        drawn = torch.randint(len(retelling.beginnings), (len(fresh),), generator=self.generator)
        self.frame[fresh] = retelling.beginnings[drawn]
        past = retelling.past(self.frame)
        robots = torch.from_numpy(self.simulation.qpos.copy())
        robots[fresh] = past[fresh, -1]
        plan = retelling.plan(anchored(past, robots, self.loop.leash, self.loop.turn), self.frame)
        rows = plan.references.rows(fresh, torch.zeros_like(fresh))
        first = (plan.references.poses[rows], plan.references.velocities[rows])
        self.simulation.reset(fresh.numpy(), *(x.double().numpy() for x in first))
        return plan

    def _draw(self, count: int) -> tuple[State, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Random states of a round: states, what the teacher did; the round's codes and anchors; robots and steps."""
        pick = torch.randint(len(self.memory), (1,), generator=self.generator)
        round_ = self.memory[int(pick)]  # one a batch: its windows are read once
        rows = torch.randint(len(round_["step"]), (count,), generator=self.generator)
        state = State(round_["pose"][rows], round_["velocity"][rows])
        said, windows = round_["targets"][rows], (round_["codes"], round_["anchor"])
        return state, said, *windows, round_["robot"][rows], round_["step"][rows]

    @torch.no_grad()
    def _fit_reading(self) -> None:
        """The best linear reading of random windows, from the frame before on."""
        retelling, count = self.retelling, self.config.windows
        drawn = torch.randint(len(retelling.beginnings), (count,), generator=self.generator)
        parts: list[tuple[Tensor, Tensor]] = []
        for frame in retelling.beginnings[drawn].split(256):
            poses, codes = retelling.motion(retelling.past(frame), frame)
            parts.append((codes, pose_features(poses)))
        codes, motion = (torch.cat(part) for part in zip(*parts, strict=True))
        self.pupil.fit_reading(codes, motion)
