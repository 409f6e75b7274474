"""Trials count what is lost and average what is kept; a perfect robot and one that falls are the oracles."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from daps.data.gait import gait
from daps.kinematics import Kinematics
from daps.robot import trial
from daps.robot.model import build
from daps.robot.reference import Plan, References
from daps.robot.retelling import Retelling
from daps.robot.simulation import Feedback, Simulation
from daps.robot.tracker import Tracker, TrackerConfig
from daps.robot.trial import Blows, Outcome, spread_starts, summary, try_out, try_plans
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
    """Robots that are where the motion is, but for an offset of the root and of the joints."""

    references: References
    starts: torch.Tensor
    offset = 0.0
    frame = 0

    def step(self, targets: np.ndarray) -> Feedback:
        self.frame += 1
        rows = self.references.rows(self.starts[:, 0], self.starts[:, 1] + self.frame)
        self.qpos[:] = self.references.poses[rows].numpy()
        self.qvel[:] = self.references.velocities[rows].numpy()
        self.qpos[:, 1] += self.offset
        self.qpos[:, 7:] += self.offset
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
    assert line == ["walk", "50%", "4.0", "25", "80", "0.053", "0.12", "320", "64"] and len(header) == len(line)


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
