"""Trials of a tracker: from many places in the motions, for some seconds each, until the motion is lost.

Lost is: `daps.robot.tracking.lost`, or a hand or foot 0.3 m too high or low. Errors are means over the frames before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import mujoco
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest  # type: ignore[import-untyped]
from torch import Tensor

from daps.kinematics import Kinematics
from daps.motion import ROOT, pose_start
from daps.robot.code_tracker import CodeTracker
from daps.robot.mass import centre_velocities
from daps.robot.pilot import anchored
from daps.robot.play import LoopConfig
from daps.robot.reference import Plan, References
from daps.robot.retelling import Retelling
from daps.robot.simulation import RATE, Feedback, Simulation
from daps.robot.tracker import Tracker
from daps.robot.tracking import ENDS, dropped, lost
from daps.robot.world import State


@dataclass(frozen=True)
class Outcome:
    """Of a number of trials; means over trials and their frames before the motion was lost."""

    success: float
    """Share of trials that kept the motion to their end."""
    seconds: float
    """Mean time until the end or until it was lost."""
    mpjpe: float
    """Bodies relative to the root, mm."""
    mpjpe_global: float
    """Bodies in the world, mm."""
    joint_error: float
    """RMS over joints, rad."""
    com_velocity_error: float
    """Of the centre of mass, m/s: against the velocity that the reference's own centre of mass has."""
    power: float
    """Mechanical power of the motors, W."""
    trials: int

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share of successes lies in 19 cases of 20 (Wilson, 1927)."""
        return share_interval(self.success, self.trials)

    def rows(self) -> dict[str, float]:
        """Name -> figure."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` independent trials."""
    found = binomtest(round(share * count), count).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Blows:
    """Pushes in a random direction, now and then."""

    speed: float = 0.0
    """m/s that a push adds to the root."""
    seconds: float = 2.0
    """From one to the next."""


def spread_starts(references: References, count: int, seconds: float, seed: int) -> Int[Tensor, "N 2"]:
    """Clips and frames to start from: drawn once each where there are enough."""
    points = references.starting_points(round(seconds * RATE))
    generator = torch.Generator().manual_seed(seed)
    if len(points) >= count:
        return points[torch.randperm(len(points), generator=generator)[:count]]
    return points[torch.randint(len(points), (count,), generator=generator)]


@torch.no_grad()
def try_out(
    model: mujoco.MjModel,
    kinematics: Kinematics,
    tracker: Tracker,
    references: References,
    starts: Int[Tensor, "N 2"],
    seconds: float = 8.0,
    blows: Blows | None = None,
    threads: int = 1,
    seed: int = 0,
) -> "Tally":
    """Trials of a tracker on the motions given, all at once.

    Args:
        model: of the robot.
        kinematics: of the same robot.
        tracker: to try.
        references: what it follows, and what errors are against: true motions, or decoded ones.
        starts: clip and frame of each trial, as spread_starts draws them. Robots begin on the reference.
        seconds: length of a trial.
        blows: pushes; none if left out.
        threads: of the physics.
        seed: of the pushes.
    """
    clip, first = starts.unbind(-1)
    simulation, generator = Simulation(model, len(starts), threads), np.random.default_rng(seed)
    at = references.rows(clip, first)
    everyone = np.arange(len(starts))
    simulation.reset(everyone, references.poses[at].double().numpy(), references.velocities[at].double().numpy())
    steps = round(seconds * RATE)
    length = torch.minimum(references.lengths[clip] - 1 - first, torch.tensor(steps))
    tally = Tally(kinematics, length)
    com = _centres(model, references, clip, first, steps)
    for step in range(steps):
        if blows and blows.speed and step and step % round(blows.seconds * RATE) == 0:
            angle = generator.uniform(0, 2 * np.pi, len(starts))
            push = blows.speed * np.stack((np.cos(angle), np.sin(angle), 0 * angle), -1)
            simulation.push(everyone, push)
        here = _state(simulation)
        targets = tracker(here, tracker.goals(references, clip, first + step))
        feedback = simulation.step(np.nan_to_num(targets.double().numpy()))
        at = references.rows(clip, first + step + 1)
        tally.count(_state(simulation), State(references.poses[at], references.velocities[at]), feedback, com[:, step])
    simulation.close()
    return tally


@torch.no_grad()
def try_plans(
    model: mujoco.MjModel,
    kinematics: Kinematics,
    tracker: Tracker | CodeTracker,
    retelling: Retelling,
    trials: int = 64,
    seconds: float = 8.0,
    loop: LoopConfig | None = None,
    threads: int = 1,
    seed: int = 0,
) -> "Tally":
    """Trials of a policy on clips that it gets as plans, as in the closed loop: each goes on from the one before.

    Args:
        model: of the robot.
        kinematics: of the same robot.
        tracker: to try, of frames or of codes.
        retelling: clips as plans.
        trials: places to start from.
        seconds: length of a trial.
        loop: how many frames of a plan are followed, and how each is anchored.
        threads: of the physics.
        seed: of the places.
    """
    loop = LoopConfig() if loop is None else loop
    simulation, steps = Simulation(model, trials, threads), round(seconds * RATE)
    frame = retelling.places(trials, math.ceil(steps / loop.steps) * loop.frames, seed)
    past, tally = retelling.past(frame), Tally(kinematics, torch.full((trials,), steps))
    everyone = torch.arange(trials)
    for step in range(steps):
        ahead = step % loop.steps
        if ahead == 0:
            poses, codes = retelling.motion(past, frame)
            plan = Plan(References.side_by_side(poses), codes, pose_start(past[:, -1]).float())
            references, frame = plan.references, frame + loop.frames
            com = _centres(model, references, everyone, torch.zeros_like(everyone), loop.steps)
            if step == 0:
                first = references.starts
                speeds = references.velocities[first].double()
                simulation.reset(everyone.numpy(), references.poses[first].double().numpy(), speeds.numpy())
        targets = tracker.act(_state(simulation), plan, ahead)
        feedback = simulation.step(np.nan_to_num(targets.double().numpy()))
        at = references.rows(everyone, torch.full_like(everyone, ahead + 1))
        goal = State(references.poses[at], references.velocities[at])
        tally.count(_state(simulation), goal, feedback, com[:, ahead])
        if ahead == loop.steps - 1:  # the next plan goes on from this one
            robots, end = torch.from_numpy(np.nan_to_num(simulation.qpos)), loop.frames + 1
            past = anchored(poses[:, end - past.shape[1] : end], robots, loop.leash, loop.turn)
    simulation.close()
    return tally


class Tally:
    """Sums up trials while they go.

    Args:
        kinematics: of the robot.
        length: control steps of each trial.
    """

    def __init__(self, kinematics: Kinematics, length: Int[Tensor, " N"]) -> None:
        self.kinematics, self.length, self.step = kinematics, length, 0
        self.alive = torch.ones(len(length), dtype=torch.bool)
        self.lived, self.sums = torch.zeros(len(length)), torch.zeros(5, len(length))

    def count(self, here: State, goal: State, feedback: Feedback, com_velocity: Float[Tensor, "N 3"]) -> None:
        """A control step of all."""
        errors, ends = _errors(self.kinematics, here, goal, feedback, com_velocity)
        self.alive &= ~(lost(here, goal) | ends | ~torch.isfinite(here.pose).all(-1))
        counted = self.alive & (self.step < self.length)
        self.sums[:, counted] += errors[:, counted]
        self.lived += counted
        self.step += 1

    def outcome(self, which: Bool[Tensor, " N"] | None = None) -> Outcome:
        """Of the trials so far, or of some of them."""
        rows = slice(None) if which is None else which
        lived, length, sums = self.lived[rows], self.length[rows], self.sums[:, rows]
        means = (sums / lived.clamp_min(1))[:, lived > 0].mean(-1).tolist()
        mpjpe, mpjpe_global, joints, com_velocity, power = means if bool(lived.any()) else [float("nan")] * 5
        share, time = float((lived >= length).float().mean()), float(lived.mean()) / RATE
        return Outcome(share, time, mpjpe, mpjpe_global, joints, com_velocity, power, len(lived))


def _errors(
    kinematics: Kinematics, here: State, goal: State, feedback: Feedback, com_velocity: Tensor
) -> tuple[Float[Tensor, "5 N"], Bool[Tensor, " N"]]:
    """The figures of a step in the order of Outcome, and whose hands or feet are too high or low."""
    bodies, wanted = kinematics.positions(here.pose), kinematics.positions(goal.pose)
    ends = [kinematics.bodies.index(name) for name in ENDS]
    errors = (
        ((bodies - bodies[:, :1]) - (wanted - wanted[:, :1])).norm(dim=-1).mean(-1) * 1e3,
        (bodies - wanted).norm(dim=-1).mean(-1) * 1e3,
        (here.pose - goal.pose)[:, ROOT:].square().mean(-1).sqrt(),
        (torch.from_numpy(feedback.com_velocity).float() - com_velocity).norm(dim=-1),
        torch.from_numpy(feedback.power).float(),
    )
    return torch.stack(errors), dropped(bodies[:, ends], wanted[:, ends])


def _state(simulation: Simulation) -> State:
    return State(torch.from_numpy(simulation.qpos.copy()).float(), torch.from_numpy(simulation.qvel.copy()).float())


def _centres(
    model: mujoco.MjModel, references: References, clip: Tensor, first: Tensor, steps: int
) -> Float[Tensor, "N S 3"]:
    """Velocity of the reference's centre of mass at each step, m/s."""
    rows = references.rows(clip[:, None], first[:, None] + torch.arange(1, steps + 1))
    once, back = rows.unique(return_inverse=True)
    return centre_velocities(model, references.poses[once], references.velocities[once])[back]


def summary(outcomes: Sequence[tuple[str, Outcome]]) -> list[list[str]]:
    """A header and a line per outcome."""
    header = [
        "motions",
        "success",
        "seconds",
        "MPJPE, mm",
        "global, mm",
        "joints, rad",
        "COM velocity, m/s",
        "power, W",
    ]
    return [
        [*header, "trials"],
        *(
            [
                name,
                "{:.0f}% ({:.0f}-{:.0f})".format(*(100 * share for share in (o.success, *o.interval))),
                f"{o.seconds:.1f}",
                f"{o.mpjpe:.0f}",
                f"{o.mpjpe_global:.0f}",
                f"{o.joint_error:.3f}",
                f"{o.com_velocity_error:.2f}",
                f"{o.power:.0f}",
                str(o.trials),
            ]
            for name, o in outcomes
        ),
    ]
