"""The price of every error put together by hand, and what is foreseen in a world that is known."""

from pathlib import Path

import mujoco
import pytest
import torch
from torch import Tensor

from daps import rotation
from daps.kinematics import Kinematics
from daps.motion import G1_JOINTS
from daps.robot.model import build
from daps.robot.reference import References
from daps.robot.tracker import tracking_cost
from daps.robot.tracking import Tracking
from daps.robot.world import State
from robot.states import random_state
from robot.stick import write_stick
from robot.trackings import tracking, walks


def smooth(distance: float) -> float:
    return (distance**2 + 1e-4) ** 0.5 - 1e-2


@pytest.mark.parametrize(
    ("first", "off", "price"),
    [
        (0, (0.03, -0.04, 0.12), 2.0 * smooth(0.13)),  # root, m
        (7, (0.1, -0.2, 0.0), 2.0 * 0.1),  # joints, rad
        (10, (0.3, -0.6, 0.0), 0.2 * 0.3),  # velocity of the root, m/s
        (13, (0.9, 0.0, -0.3), 0.05 * 0.4),  # its rotation, rad/s
        (16, (1.0, -2.0, 3.0), 0.05 * 2.0),  # joints, rad/s
        (19, (0.1, -0.2, 0.2), 0.2 * 0.03),  # targets, rad
    ],
)
def test_every_error_has_its_price(first: int, off: tuple[float, ...], price: float) -> None:
    """Of a robot of three joints: numbers of its pose, its velocity and its targets in a row."""
    goal = random_state(4)
    numbers = torch.cat((goal.pose, goal.velocity, goal.pose[:, 7:]), -1)
    numbers[:, first : first + 3] += torch.tensor(off, dtype=torch.float64)
    pose, velocity, targets = numbers.split((10, 9, 3), -1)
    cost = tracking_cost(State(pose, velocity), goal, targets)
    torch.testing.assert_close(cost, torch.full_like(cost, price))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turn_costs_its_angle(axis: int) -> None:
    goal, turn = random_state(4), torch.zeros(3, dtype=torch.float64)
    turn[axis] = 0.4
    turned = rotation.multiply(goal.pose[:, 3:7], rotation.from_vector(turn).expand(4, -1))
    pose = torch.cat((goal.pose[:, :3], turned, goal.pose[:, 7:]), -1)
    cost = tracking_cost(State(pose, goal.velocity), goal, goal.pose[:, 7:])
    torch.testing.assert_close(cost, torch.full_like(cost, smooth(0.4)))


CLIP, FRAME = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 10, 20, 30])


class Ideal:
    """A world in which robots are where their references are a step on, but for joints that are off, more each step."""

    def __init__(self, references: References, off: dict[str, float]) -> None:
        self.references, self.off, self.ahead = references, off, 0
        self.poses: list[Tensor] = []

    def __call__(self, state: State, targets: Tensor) -> State:
        self.ahead += 1
        rows = self.references.rows(CLIP, FRAME + self.ahead)
        pose = self.references.poses[rows].clone()
        for joint, angle in self.off.items():
            pose[:, 7 + G1_JOINTS.index(joint)] += angle * self.ahead
        self.poses.append(pose)
        return State(pose, self.references.velocities[rows])


def foreseen(train: Tracking, off: dict[str, float]) -> tuple[float, Ideal]:
    """The cost of a policy that asks for the angles of the reference, in such a world."""
    for parameter in train.tracker.net[-1].parameters():
        torch.nn.init.zeros_(parameter)
    train.world = world = Ideal(train.references, off)  # type: ignore[assignment]
    rows = train.references.rows(CLIP, FRAME)
    here = State(train.references.poses[rows], train.references.velocities[rows])
    return float(train.foreseen_cost(here, CLIP, FRAME).detach()), world


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stick(Path(tmp_path_factory.mktemp("robot")))


def ends_of(model: mujoco.MjModel, pose: Tensor) -> Tensor:
    """Where MuJoCo has hands and feet, m."""
    data = mujoco.MjData(model)
    data.qpos = pose.double().numpy()
    mujoco.mj_kinematics(model, data)
    ends = [f"{side}_{link}_link" for side in ("left", "right") for link in ("ankle_roll", "wrist_yaw")]
    return torch.stack([torch.from_numpy(data.body(name).xpos.copy()) for name in ends])


def test_who_is_where_the_reference_is_all_along_pays_nothing(stick: Path) -> None:
    train = tracking(build(stick, light=True), walks(), Kinematics.from_mjcf(stick), horizon=6)
    assert foreseen(train, {})[0] == pytest.approx(0, abs=1e-5)


def test_hands_and_feet_are_priced_by_the_way_that_they_are_off(stick: Path) -> None:
    """Beside the joints, whose errors of 0.4 rad in all, 0.8 and 1.2 are means over 29; ways by MuJoCo's kinematics."""
    model = build(stick, light=True)
    train = tracking(model, walks(), Kinematics.from_mjcf(stick), horizon=3, ends=0.5)
    cost, world = foreseen(train, {"left_shoulder_pitch_joint": 0.25, "right_knee_joint": -0.15})
    prices = []
    for ahead, poses in enumerate(world.poses, 1):
        for pose, row in zip(poses, train.references.rows(CLIP, FRAME + ahead), strict=True):
            off = (ends_of(model, pose) - ends_of(model, train.references.poses[row])).norm(dim=-1)
            assert (off > 0.01).tolist() == [False, True, True, False]  # the left hand and the right foot
            prices += [smooth(float(distance)) for distance in off]
    assert len(prices) == 3 * 4 * 4
    assert cost == pytest.approx(2 * 0.8 / 29 + 0.5 * sum(prices) / len(prices), abs=1e-5)
