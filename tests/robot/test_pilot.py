"""Plans go on where the past ends; the leash moves a reference over the floor and does nothing else to it."""

import math

import pytest
import torch
from torch import Tensor

from daps import rotation
from daps.data.gait import gait
from daps.motion import pose_features
from daps.robot.labels import Command
from daps.robot.pilot import Orders, Pilot, anchored, rising, towards
from daps.robot.planner import Conditions, Planner
from robot.states import FakeTokenizer


class FakePlanner(Planner):
    """Plans symbol 0 and keeps what it was asked."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.rest = pose_features(torch.from_numpy(gait(0, 2))).float()

    def plan(self, conditions: Conditions, guidance: float, *_: object) -> Tensor:  # type: ignore[override]
        self.asked, self.guidance = conditions, guidance
        return torch.zeros(len(conditions.past), 1, dtype=torch.long)


class Walker(FakeTokenizer):
    """Decodes the features of a walk, from its third frame on."""

    def decode(self, codes: Tensor) -> torch.distributions.Distribution:
        features = pose_features(torch.from_numpy(gait(0, 35)))[2:34].float()
        return torch.distributions.Normal(features.expand(len(codes), -1, -1), 1.0)


def pilot() -> Pilot:
    return Pilot(FakePlanner(), Walker())


def test_a_plan_of_what_was_done_continues_it() -> None:
    walk, made = torch.from_numpy(gait(0, 35)), pilot()
    orders = Orders(torch.zeros(1, 384), (Command(0.5, 0.1, -0.2),))
    plan, codes = made.plan(walk[None, :2], orders)
    assert plan.shape == (1, 32, 36) and codes.shape == (1, 1)
    # Stitching makes the first frame go straight on: it is off by what the walk bends there, and less later.
    bend = float((walk[2] - 2 * walk[1] + walk[0])[7:].abs().max())
    torch.testing.assert_close(plan[0, :, 7:], walk[2:34, 7:], rtol=0, atol=1.001 * bend)
    torch.testing.assert_close(plan[0, 8:, 7:], walk[10:34, 7:], rtol=0, atol=1e-6)
    torch.testing.assert_close(plan[0, :, :3], walk[2:34, :3], rtol=0, atol=0.02)
    asked = made.planner.asked  # type: ignore[attr-defined]
    torch.testing.assert_close(asked.command, torch.tensor([[0.5, 0.1, -0.2]]))
    assert asked.has_text.all() and asked.has_command.all()
    assert made.planner.guidance == 1.5  # type: ignore[attr-defined]
    made.plan(walk[None, :2], Orders(None, None))
    assert not made.planner.asked.has_text.any()  # type: ignore[attr-defined]
    assert made.planner.guidance == 2.5  # type: ignore[attr-defined]
    Pilot(made.planner, Walker(), guidance=3.0).plan(walk[None, :2], orders)
    assert made.planner.guidance == 3.0  # type: ignore[attr-defined]
    rest = made.rest(3)
    assert rest.shape == (3, 2, 36) and float(rest[:, 0, :2].abs().max()) == 0


@pytest.mark.parametrize("leash", [0.0, 0.1, 10.0])
def test_a_leash_moves_the_reference_towards_the_robot(leash: float) -> None:
    past = torch.from_numpy(gait(3, 2))[None]
    robot = past[:, -1].clone()
    robot[:, :2] += torch.tensor([0.3, -0.4])
    robot[:, 3:7] = rotation.multiply(rotation.about_z(torch.tensor([0.5]).double()), robot[:, 3:7])
    moved = anchored(past, robot, leash, turn=0.2)
    distance = float((moved[0, -1, :2] - robot[0, :2]).norm())
    assert distance == pytest.approx(min(leash, 0.5), abs=1e-6)
    angle = rotation.wrapped(rotation.heading(moved[0, -1, 3:7]) - rotation.heading(robot[0, 3:7]))
    assert float(angle) == pytest.approx(-0.2, abs=1e-6)
    assert torch.equal(moved[..., 2], past[..., 2]) and torch.equal(moved[..., 7:], past[..., 7:])
    torch.testing.assert_close(pose_features(moved), pose_features(past), rtol=0, atol=1e-6)


def test_way_points_are_ahead_of_a_robot_that_turns_to_them() -> None:
    pose = torch.zeros(36, dtype=torch.float64)
    pose[3:7] = rotation.about_z(torch.tensor(math.pi / 2).double())
    command = towards(pose, (0.0, 3.0), 0.8)
    assert (command.forward, command.left) == pytest.approx((0.8, 0.0)) and command.turn == pytest.approx(0, abs=1e-6)
    assert towards(pose, (3.0, 0.0), 0.8).turn < -1 and towards(pose, (3.0, 0.0), 0.8).forward == pytest.approx(
        0, abs=1e-6
    )
    near = towards(pose, (0.0, 0.1), 0.8)
    assert near.forward == pytest.approx(0.2) and near.turn == 0


def test_commands_rise_from_a_third() -> None:
    command = Command(1.5, -0.3, 0.6)
    first = rising(command, 0.0, 2.0)
    assert (first.forward, first.left, first.turn) == pytest.approx((0.5, -0.1, 0.2))
    assert rising(command, 1.0, 2.0).forward == pytest.approx(1.0)
    assert rising(command, 2.0, 2.0) == rising(command, 9.0, 2.0) == rising(command, 0.0, 0.0) == command
