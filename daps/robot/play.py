"""The closed loop: orders -> plans -> motion to follow -> torques, and again before the plan is done.

A plan is a window of 32 frames; the first 21 of them are followed, 0.7 s, then the next plan goes on from there while
there are still frames to look ahead to. Each time the reference is anchored where the robot is (daps.robot.pilot).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import mujoco
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from daps import rotation
from daps.motion import FPS, ROOT, pose_start
from daps.robot.code_tracker import CodeTracker
from daps.robot.pilot import Orders, Pilot, anchored, rising
from daps.robot.reference import Plan, References, advance
from daps.robot.simulation import RATE, Simulation
from daps.robot.tracker import Tracker
from daps.robot.world import State

MEASURED = ("com_velocity", "power", "torque", "foot_force")  # by the simulation in each step
FALLEN_HEIGHT, FALLEN_UP = 0.45, 0.5  # of the root, m; cosine of its tilt


@dataclass(frozen=True)
class LoopConfig:
    """How plans are followed."""

    frames: int = 21
    """Of a window that are followed before the next plan."""
    leash: float = 0.1
    """Metres by which the robot may be away from its reference before a plan anchors the reference nearer."""
    turn: float = 0.2
    """The same for the heading, rad."""
    rise: float = 2.0
    """Seconds over which commands rise from a third to all at the start: who stands cannot run at once."""
    from_robot: bool = False
    """Plans go on from what the robot did, not from its reference."""

    def __post_init__(self) -> None:
        if not 3 <= self.frames <= 30 or self.frames * RATE % FPS:
            raise ValueError(
                f"loop.frames: wants frames that are whole control steps, a multiple of 3 up to 30, got {self.frames}; "
                "21 is 0.7 s"
            )
        for name in ("leash", "turn", "rise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"loop.{name}: must be >= 0, got {getattr(self, name):g}")

    @property
    def steps(self) -> int:
        """Control steps from one plan to the next."""
        return round(self.frames * RATE / FPS)


@dataclass
class Recording:
    """What N robots did, control step by control step."""

    poses: list[Tensor] = field(default_factory=list)
    """[N, P] before the first step and after each."""
    references: list[Tensor] = field(default_factory=list)
    """[N, P] at the same times."""
    com_velocity: list[Tensor] = field(default_factory=list)
    """[N, 3] in each step, m/s."""
    power: list[Tensor] = field(default_factory=list)
    """[N] in each step, W."""
    torque: list[Tensor] = field(default_factory=list)
    """[N, 29] of the motors in each step, N m."""
    foot_force: list[Tensor] = field(default_factory=list)
    """[N, 2] under the left and the right foot in each step, N."""
    plan_seconds: list[float] = field(default_factory=list)
    """Each plan took so long, for all robots at once."""

    def stacked(self) -> dict[str, Tensor]:
        """Name -> [S, N, ...]; one more of poses and references than of the rest."""
        names = ("poses", "references", *MEASURED)
        return {name: torch.stack(getattr(self, name)) for name in names}

    def upright(self) -> Bool[Tensor, "S N"]:
        """Whether robots had not fallen by the end of each step."""
        poses = torch.stack(self.poses[1:])
        up = rotation.up(poses[..., 3:ROOT])[..., 2]
        stands = (poses[..., 2] > FALLEN_HEIGHT) & (up > FALLEN_UP) & torch.isfinite(poses).all(-1)
        return stands.long().cummin(0).values.bool()


class Loop:
    """Robots under orders.

    Args:
        model: of the robot.
        pilot, tracker: high and low level.
        count: of robots, which stand at first.
        config: how plans are followed.
        threads: of the physics.
        seed: of the plans' draws.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        pilot: Pilot,
        tracker: Tracker | CodeTracker,
        count: int = 1,
        config: LoopConfig | None = None,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self.config = LoopConfig() if config is None else config
        self.pilot, self.tracker = pilot, tracker
        self.simulation = Simulation(model, count, threads)
        self.generator = torch.Generator().manual_seed(seed)
        self.past = pilot.rest(count)
        first = self.past[:, -1].numpy()
        self.simulation.reset(np.arange(count), first, np.zeros((count, model.nv)))
        self.recording = Recording([self.state().pose], [self.past[:, -1].float()])

    def state(self) -> State:
        """Of the robots, now."""
        return State(*(torch.from_numpy(x.copy()).float() for x in (self.simulation.qpos, self.simulation.qvel)))

    def plan(self, orders: Orders, moment: float) -> Plan:
        """What comes next, some seconds after the start."""
        if orders.commands:
            commands = tuple(rising(command, moment, self.config.rise) for command in orders.commands)
            orders = Orders(orders.text, commands)
        begun = time.perf_counter()
        state = self.state()
        if self.config.from_robot:
            frames = self.past.shape[1]
            past = [advance(state.pose, state.velocity, -back / FPS) for back in reversed(range(frames))]
            self.past = torch.stack(past, 1).double()
        else:
            self.past = anchored(self.past, state.pose.double(), self.config.leash, self.config.turn)
        anchor = pose_start(self.past[:, -1]).float()
        window, codes = self.pilot.plan(self.past, orders, self.generator)
        every = torch.cat((self.past, window), 1)
        lead, frames = self.past.shape[1] - 1, self.config.frames
        self.past = every[:, frames : frames + lead + 1]
        made = Plan(References.side_by_side(every[:, lead:]), codes, anchor)
        self.recording.plan_seconds.append(time.perf_counter() - begun)
        return made

    def run(self, orders: Callable[[float, State], Orders], seconds: float) -> Iterator[State]:
        """Goes on for some seconds, a control step at a time, under what orders say at each plan.

        Args:
            orders: (seconds since the start, robots) -> what to do next.
            seconds: how long, to a control step; the last plan is cut there.
        """
        clips = torch.arange(self.simulation.count)
        for step in range(round(seconds * RATE)):
            ahead = step % self.config.steps
            if ahead == 0:
                plan = self.plan(orders(step / RATE, self.state()), step / RATE)
            with torch.no_grad():
                targets = self.tracker.act(self.state(), plan, ahead)
            feedback = self.simulation.step(np.nan_to_num(targets.double().numpy()))
            state, ends = self.state(), torch.full_like(clips, ahead + 1)
            self.recording.poses.append(state.pose)
            self.recording.references.append(plan.references.poses[plan.references.rows(clips, ends)])
            for name in MEASURED:
                getattr(self.recording, name).append(torch.from_numpy(getattr(feedback, name).copy()).float())
            yield state

    def close(self) -> None:
        """Ends the physics' threads."""
        self.simulation.close()


def heading_velocity(poses: Float[Tensor, "*N P"], velocity: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 2"]:
    """Planar velocities in the body's heading: forward, left."""
    return rotation.rotate_z(-rotation.heading(poses[..., 3:ROOT]), velocity[..., :2])
