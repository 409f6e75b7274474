"""Trials count what is lost and average what is kept; a perfect robot and one that falls are the oracles."""

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from daps.data.gait import gait
from daps.kinematics import Kinematics
from daps.motion import G1_JOINTS
from daps.robot import trial
from daps.robot.assessment import alike
from daps.robot.model import build
from daps.robot.play import LoopConfig
from daps.robot.reference import Plan, References
from daps.robot.retelling import Retelling
from daps.robot.simulation import Feedback, Simulation
from daps.robot.tracker import Tracker, TrackerConfig
from daps.robot.trial import Blows, Outcome, share_interval, spread_starts, summary, try_out, try_plans
from daps.robot.world import State
from robot.states import Perfect
from robot.stick import write_stick


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stick(Path(tmp_path_factory.mktemp("robot")))


@pytest.fixture(scope="module")
def walk() -> References:
    return References.of({"a": torch.from_numpy(gait(0, 60)), "b": torch.from_numpy(gait(1, 40))})


@pytest.fixture
def tracker() -> Tracker:
    torch.manual_seed(0)
    return Tracker(29, TrackerConfig((8,), (1,)))


class Puppet(Simulation):
    """Robots that are where the motion is, but for an offset of the root and of the joints, a speed, or a joint."""

    references: References
    starts: torch.Tensor
    offset = 0.0
    speed = 0.0
    turned: tuple[str, float] | None = None
    frame = 0

    def step(self, targets: np.ndarray) -> Feedback:
        self.frame += 1
        rows = self.references.rows(self.starts[:, 0], self.starts[:, 1] + self.frame)
        self.qpos[:] = self.references.poses[rows].numpy()
        self.qvel[:] = self.references.velocities[rows].numpy()
        self.qpos[:, 1] += self.offset
        self.qpos[:, 7:] += self.offset
        self.qvel[:, 0] += self.speed
        if self.turned:
            self.qpos[:, 7 + G1_JOINTS.index(self.turned[0])] += self.turned[1]
        data, speed = mujoco.MjData(self.model), np.zeros((self.count, 3))
        for row in range(self.count):
            data.qpos, data.qvel = self.qpos[row], self.qvel[row]
            mujoco.mj_forward(self.model, data)
            mujoco.mj_subtreeVel(self.model, data)
            speed[row] = data.subtree_linvel[0]  # of the world: all that moves
        return Feedback(speed, speed, speed[:, :2], np.zeros((self.count, 29)), np.full(self.count, 7.0))


@pytest.mark.parametrize(("offset", "success"), [(0.0, 1.0), (0.05, 1.0), (1.2, 0.0)])
def test_errors_are_those_of_a_robot_that_is_off_by_a_known_amount(
    offset: float, success: float, stick: Path, walk: References, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = torch.tensor([[0, 10], [1, 0], [0, 95]])  # the last one has only three frames to go
    monkeypatch.setattr(trial, "Simulation", Puppet)
    for name, value in (("references", walk), ("starts", starts), ("offset", offset)):
        monkeypatch.setattr(Puppet, name, value, raising=False)
    outcome = try_out(
        build(stick, light=True), Kinematics.from_mjcf(stick), tracker, walk, starts, seconds=0.2
    ).outcome()
    assert (outcome.success, outcome.trials) == (success, 3)
    if not success:
        assert outcome.seconds == 0 and np.isnan(outcome.mpjpe)
        return
    assert outcome.seconds == pytest.approx((10 + 10 + 3) / 3 / 50, rel=1e-5)
    assert outcome.joint_error == pytest.approx(offset, abs=1e-6) and outcome.power == pytest.approx(7)
    if not offset:
        assert outcome.mpjpe < 1e-3 and outcome.mpjpe_global < 1e-3 and outcome.com_velocity_error < 1e-5
        return
    kinematics = Kinematics.from_mjcf(stick)
    rows = [walk.rows(c, f + 1 + torch.arange(n)) for (c, f), n in zip(starts, (10, 10, 3), strict=True)]
    found = []
    for row in rows:
        moved = walk.poses[row].clone()
        moved[:, 1] += offset
        moved[:, 7:] += offset
        apart = kinematics.positions(moved) - kinematics.positions(walk.poses[row])
        found.append([apart.norm(dim=-1).mean() * 1e3, (apart - apart[:, :1]).norm(dim=-1).mean() * 1e3])
    expected = torch.tensor(found).mean(0)
    assert outcome.mpjpe_global == pytest.approx(float(expected[0]), rel=1e-4)
    assert outcome.mpjpe == pytest.approx(float(expected[1]), rel=1e-4)


def puppets(monkeypatch: pytest.MonkeyPatch, stick: Path, walk: References, tracker: Tracker, **wrong: Any) -> Outcome:
    """A fifth of a second of puppets with something wrong."""
    starts = torch.tensor([[0, 10], [1, 0]])
    monkeypatch.setattr(trial, "Simulation", Puppet)
    for name, value in {"references": walk, "starts": starts, **wrong}.items():
        monkeypatch.setattr(Puppet, name, value, raising=False)
    model, kinematics = build(stick, light=True), Kinematics.from_mjcf(stick)
    return try_out(model, kinematics, tracker, walk, starts, seconds=0.2).outcome()


def test_a_speed_of_the_root_is_an_error_of_the_centre_of_mass(
    stick: Path, walk: References, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = puppets(monkeypatch, stick, walk, tracker, speed=0.3)
    assert outcome.com_velocity_error == pytest.approx(0.3, abs=1e-4) and outcome.success == 1


def test_a_hand_too_high_is_a_motion_lost(
    stick: Path, walk: References, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The angles are on both sides of the one at which the first hand or foot is 0.3 m off, by kinematics."""
    kinematics, joint = Kinematics.from_mjcf(stick), "left_shoulder_pitch_joint"
    rows = [walk.rows(torch.tensor(clip), first + 1 + torch.arange(10)) for clip, first in ((0, 10), (1, 0))]

    def highest(angle: float, row: torch.Tensor) -> float:
        moved = walk.poses[row].clone()
        moved[:, 7 + G1_JOINTS.index(joint)] += angle
        apart = kinematics.positions(moved) - kinematics.positions(walk.poses[row])
        ends = [kinematics.bodies.index(name) for name in trial.ENDS]
        return float(apart[:, ends, 2].abs().max())

    angles = np.arange(0.0, 3.2, 0.05)
    off = np.array([[highest(float(angle), row) for row in rows] for angle in angles])
    kept = float(angles[(off < 0.29).all(1).nonzero()[0].max()])
    assert puppets(monkeypatch, stick, walk, tracker, turned=(joint, kept)).success == 1
    gone = float(angles[(off > 0.31).all(1).nonzero()[0].min()])
    assert gone > kept > 0
    assert puppets(monkeypatch, stick, walk, tracker, turned=(joint, gone)).success == 0


def test_an_untrained_robot_loses_the_walk_in_physics(stick: Path, walk: References, tracker: Tracker) -> None:
    starts = spread_starts(walk, 6, 1.0, seed=0)
    args = build(stick, light=True), Kinematics.from_mjcf(stick), tracker, walk, starts
    outcome = try_out(*args, seconds=1.0).outcome()
    assert outcome.success < 0.5 and 0.1 < outcome.seconds < 1.0 and outcome.power > 1
    assert try_out(*args, seconds=1.0, threads=2).outcome() == outcome
    hit = try_out(*args, seconds=1.0, blows=Blows(2.0, 0.2)).outcome()
    assert hit.seconds < outcome.seconds


def test_starts_leave_time_and_do_not_repeat_while_there_are_enough(walk: References) -> None:
    few = spread_starts(walk, 50, 1.0, seed=0)
    assert len({tuple(row) for row in few.tolist()}) == 50
    assert all(frame + 50 < int(walk.lengths[clip]) for clip, frame in few.tolist())
    assert torch.equal(few, spread_starts(walk, 50, 1.0, seed=0)) and len(spread_starts(walk, 500, 1.0, 0)) == 500
    assert not torch.equal(few, spread_starts(walk, 50, 1.0, seed=1))


def test_the_summary_has_a_line_per_outcome() -> None:
    header, line = summary([("walk", Outcome(0.5, 4.0, 25.4, 80.2, 0.0534, 0.125, 320.4, 64))])
    assert line == ["walk", "50% (38-62)", "4.0", "25", "80", "0.053", "0.12", "320", "64"] and len(header) == len(line)


class Medium(Tracker):
    """Tells a puppet where its plan wants it."""

    wanted: State

    def act(self, state: State, plan: Plan, step: int) -> torch.Tensor:
        rows = plan.references.rows(torch.arange(len(plan.codes)), torch.full((len(plan.codes),), step + 1))
        Medium.wanted = State(plan.references.poses[rows], plan.references.velocities[rows])
        return self.wanted.pose[:, 7:]


class Obedient(Puppet):
    """Robots that are where the plan wants them, but for an offset."""

    def step(self, targets: np.ndarray) -> Feedback:
        self.references = References.of({"a": torch.from_numpy(gait(0, 20))})
        self.starts = torch.zeros(self.count, 2, dtype=torch.long)
        feedback = super().step(targets)
        self.qpos[:], self.qvel[:] = Medium.wanted.pose.numpy(), Medium.wanted.velocity.numpy()
        self.qpos[:, 1] += self.offset
        return feedback


def test_plans_in_a_row_are_followed_by_who_does_what_they_say(stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "Simulation", Obedient)
    clips = {"a": torch.from_numpy(gait(0, 120)), "b": torch.from_numpy(gait(1, 70))}
    model, kinematics = build(stick, light=True), Kinematics.from_mjcf(stick)
    retelling, medium = Retelling(Perfect(), clips), Medium(29, TrackerConfig((8,), (1,)))
    outcome = try_plans(model, kinematics, medium, retelling, trials=3, seconds=1.0).outcome()
    assert outcome.success == 1 and outcome.seconds == 1 and outcome.mpjpe < 0.01 and outcome.joint_error < 1e-6
    monkeypatch.setattr(Obedient, "offset", 0.05)
    outcome = try_plans(model, kinematics, medium, retelling, trials=3, seconds=1.0).outcome()
    assert outcome.mpjpe_global == pytest.approx(50, abs=0.1) and outcome.mpjpe < 0.01
    monkeypatch.setattr(Obedient, "offset", 1.1)
    assert try_plans(model, kinematics, medium, retelling, trials=3, seconds=1.0).outcome().success == 0
    with pytest.raises(ValueError, match="wants a clip of 242 frames"):
        try_plans(model, kinematics, medium, retelling, trials=3, seconds=7.0).outcome()


def test_the_interval_is_wilsons() -> None:
    """(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.96 (Wilson, 1927)."""
    for share, count in ((0.75, 64), (1.0, 20), (0.0, 8)):
        z = 1.959964
        middle, half = share + z**2 / (2 * count), z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
        expected = [(middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1)]
        assert share_interval(share, count) == pytest.approx(expected, abs=1e-6)


def test_sets_side_by_side_are_cut_to_what_all_have() -> None:
    clips = {name: torch.from_numpy(gait(seed, 40 - 8 * seed)) for seed, name in enumerate("abc")}
    cut = alike({"true": clips, "decoded": {"c": clips["c"], "a": clips["a"][:32] + 1.0}})
    lengths = {title: {name: len(poses) for name, poses in some.items()} for title, some in cut.items()}
    assert lengths == {"true": {"a": 32, "c": 24}, "decoded": {"a": 32, "c": 24}}
    assert torch.equal(cut["true"]["a"], clips["a"][:32]) and torch.equal(cut["decoded"]["a"], clips["a"][:32] + 1.0)
    first, second = (spread_starts(References.of(some), 4, 0.1, 0) for some in cut.values())
    assert torch.equal(first, second)


def test_each_plan_is_of_what_comes_next_and_begins_near_the_robots(
    stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Robots that are 0.5 m beside every plan: the next goes on 6 frames later, at the end of their leash of 0.1 m."""
    monkeypatch.setattr(trial, "Simulation", Obedient)
    monkeypatch.setattr(Obedient, "offset", 0.5)
    clips = {"a": torch.from_numpy(gait(0, 80)), "b": torch.from_numpy(gait(1, 70))}
    retelling, medium = Retelling(Perfect(), clips), Medium(29, TrackerConfig((8,), (1,)))
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    robots: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    make = retelling.motion

    def motion(past: torch.Tensor, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((past, frame))
        robots.append(Medium.wanted.pose[:, :2] + torch.tensor([0.0, 0.5]) if robots else past[:, -1, :2].float())
        poses, codes = make(past, frame)
        poses[:, 1:, 7:] += 0.01 * torch.arange(32)[:, None]  # codes tell of another motion than the clip
        given.append(poses)
        return poses, codes

    monkeypatch.setattr(retelling, "motion", motion)
    model, kinematics = build(stick, light=True), Kinematics.from_mjcf(stick)
    try_plans(model, kinematics, medium, retelling, trials=3, seconds=0.5, loop=LoopConfig(frames=6), seed=1)
    assert len(asked) == 3
    first = asked[0][1]
    assert len(first.unique()) > 1
    for number, (past, frame) in enumerate(asked):
        assert torch.equal(frame, first + 6 * number)
        before = given[number - 1][:, 5:7] if number else retelling.past(frame)
        assert torch.equal(past[..., 7:], before[..., 7:])
        away = (past[:, -1, :2] - robots[number]).norm(dim=-1)
        torch.testing.assert_close(away, torch.full((3,), 0.1 if number else 0.0).double(), rtol=0, atol=1e-5)
