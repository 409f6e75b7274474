"""Trains the tracker by looking ahead through a learned model of the dynamics: no value function, no score function.

A round: the robots follow the motion for a segment, with correlated noise on their targets, and fill a buffer; the
world model is fitted to what the buffer holds, a few steps at a time; the policy and the model are unrolled from states
of the buffer, and the tracking cost is differentiated with respect to the policy through all of it (SuperTrack,
Fussell et al., 2021). Robots that have lost their motion, or come to its end, start again somewhere in the motions, and
now and then others do, so that all motions are seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from daps import rotation
from daps.kinematics import Kinematics
from daps.mirror import mirrored_joints
from daps.motion import ROOT
from daps.precision import Scoring, score_precision
from daps.robot.difficulty import Difficulty
from daps.robot.reference import References
from daps.robot.simulation import Simulation
from daps.robot.tracker import Tracker, TrackerConfig, smooth_norm, tracking_cost
from daps.robot.world import State, World, prediction_loss
from daps.schedules import Cosine

CPU = torch.device("cpu")
MAX_HEIGHT, MAX_TILT, MAX_AWAY = 0.25, 0.8, 1.0  # m, length of the difference of verticals, m
ENDS = ("left_ankle_roll_link", "right_ankle_roll_link", "left_wrist_yaw_link", "right_wrist_yaw_link")
MAX_END_HEIGHT = 0.3  # m


@dataclass(frozen=True)
class TrackingConfig:
    """What decides the outcome of a training beside motions and robot."""

    samples: int = 8_000_000
    """Control steps of robots to simulate."""
    robots: int = 256
    """Simulated at once."""
    light: float = 0.3
    """Share of the samples that come from the light twin; the rest are of the robot with all its shapes, whose hands
    and feet meet the rest of its body."""
    segment: int = 16
    """Control steps that robots go between updates."""
    capacity: int = 4_096
    """Segments that the buffer holds; the oldest go first."""
    noise: float = 0.2
    """Largest deviation of the noise on targets, rad; each robot has its own share of it."""
    memory: float = 0.9
    """Of the noise, from one control step to the next."""
    mirror: bool = True
    """Whether the robot also follows every motion as a mirror shows it, and learns from what it did as mirrored."""
    fresh: float = 0.05
    """Chance that a robot that keeps its motion begins elsewhere all the same, in each round."""
    hard: float = 0.5
    """Share of the starts that are shortly before where robots lose their motion, as often as they do there."""
    ends: float = 1.0
    """Price of a metre by which hands and feet are off, in the mean, beside root and joints."""
    push: float = 0.3
    """Deviation of the blows that a tenth of the robots get at the start of a segment, m/s."""
    world_hidden: tuple[int, ...] = (512, 512, 512)
    """Widths of the world model."""
    foresight: int = 8
    """Control steps that the world model is trained to foretell."""
    horizon: int = 24
    """Control steps that the policy looks ahead."""
    world_updates: int = 8
    """A round."""
    policy_updates: int = 4
    """A round."""
    batch_size: int = 256
    """Segments, or states, of an update."""
    world_rate: float = 1e-3
    """Learning rate of the world model."""
    policy_rate: float = 1e-3
    """Learning rate of the policy."""
    rate_last: float = 0.1
    """Both learning rates at the last round, as a share of the first, along half a cosine."""
    settle: float = 0.04
    """Share of the rounds in which only the world model learns, where a policy comes without one (`start`)."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    products: Scoring = "auto"
    """Precision of matrix products in updates; "auto": bfloat16 where the processor has instructions for it."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "robots", "segment", "capacity", "foresight", "horizon", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"tracking.{name}: must be >= 1, got {getattr(self, name)}")
        for name in ("noise", "push", "ends", "world_updates", "policy_updates", "clip"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"tracking.{name}: must be >= 0, got {getattr(self, name):g}")
        if not 0 <= self.memory < 1:
            raise ValueError(f"tracking.memory: must lie in [0, 1), got {self.memory:g}; 0 makes the noise white")
        for name in ("light", "fresh", "hard", "settle"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"tracking.{name}: a share in [0, 1], got {getattr(self, name):g}")
        if self.capacity < self.robots:
            raise ValueError(
                f"tracking.capacity: must hold a segment of each of {self.robots} robots, got {self.capacity}; raise it"
            )
        if self.foresight > self.segment:
            raise ValueError(
                f"tracking.foresight: a segment holds {self.segment} steps, got {self.foresight}; lengthen segments"
            )

    @property
    def rounds(self) -> int:
        """Of collecting and learning."""
        return -(-self.samples // (self.robots * self.segment))


def lost(state: State, goal: State) -> Bool[Tensor, "*N"]:
    """Whether robots have lost their reference: too high or low, tilted otherwise, or too far away."""
    height = (state.pose[..., 2] - goal.pose[..., 2]).abs() > MAX_HEIGHT
    tilt = (rotation.up(state.pose[..., 3:ROOT]) - rotation.up(goal.pose[..., 3:ROOT])).norm(dim=-1) > MAX_TILT
    away = (state.pose[..., :3] - goal.pose[..., :3]).norm(dim=-1) > MAX_AWAY
    return height | tilt | away


def dropped(bodies: Float[Tensor, "*N E 3"], wanted: Float[Tensor, "*N E 3"]) -> Bool[Tensor, "*N"]:
    """Whether a hand or a foot is too high or low, given where all four are and ought to be."""
    return ((bodies - wanted)[..., 2].abs() > MAX_END_HEIGHT).any(-1)


class Buffer:
    """The latest segments: states, targets, and where in the motions each began."""

    def __init__(self, capacity: int, segment: int, poses: int) -> None:
        self.capacity, self.count, self.next = capacity, 0, 0
        joints = poses - ROOT
        self.pose = torch.zeros(capacity, segment + 1, poses)
        self.velocity = torch.zeros(capacity, segment + 1, joints + 6)
        self.targets = torch.zeros(capacity, segment, joints)
        self.clip, self.frame = torch.zeros(2, capacity, dtype=torch.long)

    def add(self, states: State, targets: Tensor, clip: Tensor, frame: Tensor) -> None:
        """Segments [N, S + 1, ...] in place of the oldest."""
        rows = (self.next + torch.arange(len(clip))) % self.capacity
        self.pose[rows], self.velocity[rows], self.targets[rows] = states.pose, states.velocity, targets
        self.clip[rows], self.frame[rows] = clip, frame
        self.next = int(self.next + len(clip)) % self.capacity
        self.count = min(self.count + len(clip), self.capacity)

    def steps(self, count: int, length: int, generator: torch.Generator) -> tuple[State, Tensor]:
        """Random runs of `length` steps: states [count, length + 1], targets [count, length]."""
        rows, first = self._draw(count, self.targets.shape[1] - length + 1, generator)
        at = first[:, None] + torch.arange(length + 1)
        states = State(self.pose[rows[:, None], at], self.velocity[rows[:, None], at])
        return states, self.targets[rows[:, None], at[:, :-1]]

    def states(self, count: int, generator: torch.Generator) -> tuple[State, Int[Tensor, " N"], Int[Tensor, " N"]]:
        """Random states with their clips and frames."""
        rows, at = self._draw(count, self.targets.shape[1], generator)
        return State(self.pose[rows, at], self.velocity[rows, at]), self.clip[rows], self.frame[rows] + at

    def _draw(self, count: int, places: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(self.count, (count,), generator=generator)
        return rows, torch.randint(places, (count,), generator=generator)


class Tracking:
    """A training in progress: networks, optimizers, robots, buffer.

    Args:
        model: of the robot, light.
        references: to follow.
        config, tracker: settings.
        threads: of the physics.
        full: the robot with all its shapes, for the rest of the training; the light one to the end if None.
        kinematics: of the same robot, by which hands and feet count; if None they do not.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        references: References,
        config: TrackingConfig | None = None,
        tracker: TrackerConfig | None = None,
        threads: int = 1,
        full: mujoco.MjModel | None = None,
        kinematics: Kinematics | None = None,
    ) -> None:
        self.config = config = TrackingConfig() if config is None else config
        self.references = references.with_mirror() if config.mirror else references
        torch.manual_seed(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.full, self.threads, self.kinematics = full, threads, kinematics
        self.simulation = Simulation(model, config.robots, threads)
        self.tracker, self.world = Tracker(model.nu, tracker), World(model.nu, config.world_hidden)
        self.optimizers = {
            "world": torch.optim.AdamW(self.world.net.parameters(), config.world_rate),
            "policy": torch.optim.AdamW(self.tracker.net.parameters(), config.policy_rate),
        }
        self.buffer = Buffer(config.capacity, config.segment, model.nq)
        self.starts = self.references.starting_points(config.segment)
        self.difficulty = Difficulty(references.lengths)  # a motion and its mirror image are as hard as one another
        self.clip, self.frame = torch.zeros(2, config.robots, dtype=torch.long)
        self.noise = torch.zeros(config.robots, model.nu)
        self.round = 0
        self.taken: tuple[str, ...] = ()  # networks of another training
        self.restart(torch.ones(config.robots, dtype=torch.bool))

    @property
    def done(self) -> int:
        """Samples so far."""
        return self.round * self.config.robots * self.config.segment

    @property
    def total(self) -> int:
        """Samples in all: whole rounds."""
        return self.config.rounds * self.config.robots * self.config.segment

    def weights(self) -> dict[str, Tensor]:
        """Of the tracker, which is what remains."""
        return self.tracker.state_dict()

    def run(self) -> Iterator[dict[str, float]]:
        """Rounds until the samples are spent, with the figures of each."""
        while self.round < self.config.rounds:
            self._dress()
            figures = self.collect()
            if self.round == 0:
                self._fit_scales()
            self._set_rates()
            figures |= {"world": self.fit_world(), "cost": self.improve_policy()}
            self.round += 1
            yield {"step": self.done, **figures}

    def restart(self, which: Bool[Tensor, " N"]) -> None:
        """Puts robots on their references somewhere in the motions."""
        rows = which.nonzero().squeeze(-1)
        if not len(rows):
            return
        anywhere = self.starts[torch.randint(len(self.starts), (len(rows),), generator=self.generator)]
        hard = torch.rand(len(rows), 1, generator=self.generator) < self.config.hard
        self.clip[rows], self.frame[rows] = torch.where(hard, self._hard_places(len(rows)), anywhere).unbind(-1)
        at = self.references.rows(self.clip[rows], self.frame[rows])
        self.simulation.reset(
            rows.numpy(), self.references.poses[at].double().numpy(), self.references.velocities[at].double().numpy()
        )
        self.noise[rows] = 0.0

    def _hard_places(self, count: int) -> Int[Tensor, "N 2"]:
        """Motions, or their mirror images, and frames about where robots fell, with a segment to go."""
        clip, frame = self.difficulty.draw(count, self.generator)
        frame = torch.minimum(frame, (self.difficulty.lengths[clip] - self.config.segment - 1).clamp_min(0))
        images = clip + len(self.difficulty.lengths)  # come after all motions
        return torch.stack((torch.where(self._flip(count), images, clip), frame), -1)

    def state(self) -> State:
        """Of the robots, now."""
        simulation = self.simulation
        return State(torch.from_numpy(simulation.qpos.copy()).float(), torch.from_numpy(simulation.qvel.copy()).float())

    @torch.no_grad()
    def collect(self) -> dict[str, float]:
        """A segment of every robot into the buffer; the share of robots that lost their motion in it."""
        config, first = self.config, self.frame.clone()
        self._push()
        share = torch.rand(config.robots, 1, generator=self.generator) * config.noise
        states, given = [self.state()], []
        for _ in range(config.segment):
            fresh = torch.randn(self.noise.shape, generator=self.generator)
            self.noise = config.memory * self.noise + (1 - config.memory**2) ** 0.5 * fresh
            goals = self.tracker.goals(self.references, self.clip, self.frame)
            targets = self.tracker(states[-1], goals) + share * self.noise
            self.simulation.step(targets.double().numpy())
            self.frame += 1
            states.append(self.state())
            given.append(targets)
        self.buffer.add(State.stack(states, 1), torch.stack(given, 1), self.clip, first)
        at = self.references.rows(self.clip, self.frame)
        goal = State(self.references.poses[at], self.references.velocities[at])
        fallen = lost(states[-1], goal)
        if self.kinematics is not None:
            fallen |= dropped(self._ends(states[-1].pose), self._ends(goal.pose))
        ended = self.frame + config.segment >= self.references.lengths[self.clip]
        broken = ~torch.isfinite(states[-1].pose).all(-1)
        self.difficulty.observe(self.clip % len(self.difficulty.lengths), self.frame, fallen | broken)
        fresh = torch.rand(config.robots, generator=self.generator) < config.fresh
        self.restart(fallen | ended | broken | fresh)
        return {"lost": float(fallen.float().mean())}

    def fit_world(self) -> float:
        """Updates of the world model; their mean loss."""
        losses = []
        for _ in range(self.config.world_updates):
            states, targets = self._steps(self.config.batch_size, self.config.foresight)
            with score_precision(self.config.products, CPU):
                loss = prediction_loss(self.world, states, targets)
            losses.append(self._update("world", self.world.net, loss))
        return sum(losses) / max(len(losses), 1)

    def improve_policy(self) -> float:
        """Updates of the policy, none as long as it waits for its model; the mean cost that it foresees."""
        self.world.net.requires_grad_(False)
        waits = self.taken == ("tracker",) and self.round < self.config.settle * self.config.rounds
        losses = []
        for _ in range(self.config.policy_updates):
            state, clip, frame = self._states(self.config.batch_size)
            with score_precision(self.config.products, CPU), torch.set_grad_enabled(not waits):
                loss = self.foreseen_cost(state, clip, frame)
            losses.append(float(loss) if waits else self._update("policy", self.tracker.net, loss))
        self.world.net.requires_grad_(True)
        return sum(losses) / max(len(losses), 1)

    def foreseen_cost(self, state: State, clip: Int[Tensor, " N"], frame: Int[Tensor, " N"]) -> Float[Tensor, ""]:
        """The mean tracking cost over the horizon, in the world model, with gradients to the policy."""
        cost, poses, wanted = state.pose.new_zeros(()), [], []
        for ahead in range(self.config.horizon):
            goals = self.tracker.goals(self.references, clip, frame + ahead)
            targets = self.tracker(state, goals)
            state = self.world(state, targets)
            at = self.references.rows(clip, frame + ahead + 1)
            goal = State(self.references.poses[at], self.references.velocities[at])
            cost = cost + tracking_cost(state, goal, targets).mean()
            poses.append(state.pose)
            wanted.append(goal.pose)
        cost = cost / self.config.horizon
        if self.kinematics is None or not self.config.ends:
            return cost
        off = self._ends(torch.stack(poses)) - self._ends(torch.stack(wanted))  # all at once, for speed
        return cost + self.config.ends * smooth_norm(off).mean()

    def _ends(self, poses: Float[Tensor, "*N P"]) -> Float[Tensor, "*N 4 3"]:
        """Where hands and feet are, m."""
        assert self.kinematics is not None
        rows = [self.kinematics.bodies.index(name) for name in ENDS]
        return self.kinematics.positions(poses)[..., rows, :]

    def take_over(self, saved: dict[str, Any]) -> None:
        """Begins with the networks of another training, given its state_dict, or the policy alone: {"tracker": ...}.

        Raises:
            ValueError: networks of other sizes.
        """
        networks: dict[str, nn.Module] = {"tracker": self.tracker, "world": self.world}
        self.taken = tuple(name for name in networks if name in saved)
        try:
            for name in self.taken:
                networks[name].load_state_dict(saved[name])
        except RuntimeError as error:
            raise ValueError(
                f"start: holds networks of other sizes ({type(error).__name__}); give the same ones"
            ) from None

    def state_dict(self) -> dict[str, Any]:
        """All that continues the training bit for bit."""
        return {
            "round": self.round,
            "taken": self.taken,
            "tracker": self.tracker.state_dict(),
            "world": self.world.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "generator": self.generator.get_state(),
            "buffer": dict(vars(self.buffer)),
            "robots": (torch.from_numpy(self.simulation.state()), self.clip, self.frame, self.noise),
            "difficulty": (self.difficulty.falls, self.difficulty.visits),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes up where state_dict left off."""
        self.round, self.taken = saved["round"], tuple(saved["taken"])
        self.tracker.load_state_dict(saved["tracker"])
        self.world.load_state_dict(saved["world"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.generator.set_state(saved["generator"])
        vars(self.buffer).update(saved["buffer"])
        self.difficulty.falls, self.difficulty.visits = saved["difficulty"]
        robots, self.clip, self.frame, self.noise = saved["robots"]
        self.simulation.restore(robots.numpy())

    def _dress(self) -> None:
        """From its time on, robots have all their shapes; they stay where they are."""
        if self.full is not None and self.round >= self.config.light * self.config.rounds:
            state = self.simulation.state()
            self.simulation.close()
            self.simulation, self.full = Simulation(self.full, self.config.robots, self.threads), None
            self.simulation.restore(state)

    def _push(self) -> None:
        hit = (torch.rand(self.config.robots, generator=self.generator) < 0.1).nonzero().squeeze(-1)
        blow = self.config.push * torch.randn(len(hit), 3, generator=self.generator)
        self.simulation.push(hit.numpy(), (blow * torch.tensor([1.0, 1.0, 0.0])).double().numpy())

    def _steps(self, count: int, length: int) -> tuple[State, Float[Tensor, "N S J"]]:
        """Of the buffer, half of them mirrored: what holds on one side holds on the other."""
        states, targets = self.buffer.steps(count, length, self.generator)
        flip = self._flip(count)[:, None]
        return states.mirrored(flip), torch.where(flip.unsqueeze(-1), mirrored_joints(targets), targets)

    def _states(self, count: int) -> tuple[State, Int[Tensor, " N"], Int[Tensor, " N"]]:
        """The same of single states, with clips and frames."""
        state, clip, frame = self.buffer.states(count, self.generator)
        flip, clips = self._flip(count), len(self.references)
        return state.mirrored(flip), torch.where(flip, (clip + clips // 2) % clips, clip), frame

    def _flip(self, count: int) -> Bool[Tensor, " N"]:
        if not self.config.mirror:
            return torch.zeros(count, dtype=torch.bool)
        return torch.rand(count, generator=self.generator) < 0.5

    @torch.no_grad()
    def _fit_scales(self) -> None:
        """Units of the inputs and outputs of networks that begin here, from the first round."""
        if "world" not in self.taken:
            states, targets = self._steps(min(4_096, 8 * self.buffer.count), 1)
            self.world.fit_scales(states[:, 0], targets[:, 0], states[:, 1])
        if "tracker" not in self.taken:
            state, clip, frame = self._states(4_096)
            self.tracker.inputs.fit(self.tracker.observe(state, self.tracker.goals(self.references, clip, frame)))

    def _update(self, name: str, net: nn.Module, loss: Tensor) -> float:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), self.config.clip)
        if torch.isfinite(norm):
            optimizer.step()
        return float(loss.detach())

    def _set_rates(self) -> None:
        share = Cosine(1.0, self.config.rate_last, self.config.rounds)(self.round)
        for name, first in (("world", self.config.world_rate), ("policy", self.config.policy_rate)):
            for group in self.optimizers[name].param_groups:
                group["lr"] = first * share
