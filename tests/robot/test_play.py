"""The closed loop with a pilot that plans a known walk: frames, anchors and records are where they should be."""

from dataclasses import replace
from pathlib import Path

import mujoco
import pytest
import torch
from torch import Tensor

from daps.data.gait import gait
from daps.robot.model import build
from daps.robot.pilot import Orders, Pilot
from daps.robot.play import Loop, LoopConfig, heading_velocity
from daps.robot.reference import resampled
from daps.robot.tracker import Tracker, TrackerConfig
from robot.stick import write_stick


class Walk(Pilot):
    """Plans the frames of a walk that come after the past, wherever the past is on it."""

    walk: Tensor
    asked: list[tuple[Tensor, Orders]]

    def __init__(self) -> None:
        object.__setattr__(self, "walk", torch.from_numpy(gait(0, 200)))
        object.__setattr__(self, "asked", [])

    def plan(self, past: Tensor, orders: Orders, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        self.asked.append((past.clone(), orders))
        at = int((self.walk[:, 7:] - past[0, -1, 7:]).norm(dim=-1).argmin()) + 1
        return self.walk[at : at + 32].expand(len(past), -1, -1), torch.zeros(len(past), 1, dtype=torch.long)

    def rest(self, count: int) -> Tensor:
        return self.walk[:2].expand(count, -1, -1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mujoco.MjModel:
    return build(write_stick(Path(tmp_path_factory.mktemp("robot"))), light=True)


def test_the_loop_follows_plan_after_plan(model: mujoco.MjModel) -> None:
    torch.manual_seed(0)
    pilot, tracker = Walk(), Tracker(29, TrackerConfig((8,), (1, 4)))
    moments = []

    def orders(seconds: float, state: object) -> Orders:
        moments.append(seconds)
        return Orders(None, None)

    loop = Loop(model, pilot, tracker, 2, LoopConfig(leash=10.0, turn=4.0))
    states = list(loop.run(orders, 1.6))
    record = loop.recording.stacked()
    assert moments == pytest.approx([0.0, 0.7, 1.4]) and len(states) == 80 and len(loop.recording.plan_seconds) == 3
    assert record["poses"].shape == record["references"].shape == (81, 2, 36)
    assert record["com_velocity"].shape == (80, 2, 3) and record["power"].shape == (80, 2)
    # With so long a leash the references are the walk itself at 50 Hz, from its second frame on.
    walk = resampled(pilot.walk[1:])[:81].float()
    torch.testing.assert_close(record["references"][:, 1, 7:], walk[:, 7:], rtol=0, atol=6e-3)
    torch.testing.assert_close(record["references"][:, 1, :3], walk[:, :3], rtol=0, atol=6e-3)
    torch.testing.assert_close(pilot.asked[1][0][0], pilot.walk[21:23], rtol=0, atol=1e-9)  # the past of plan two
    torch.testing.assert_close(states[-1].pose, loop.recording.poses[-1])


def test_plans_start_at_the_robot(model: mujoco.MjModel) -> None:
    torch.manual_seed(0)
    pilot, tracker = Walk(), Tracker(29, TrackerConfig((8,), (1,)))
    for config in (LoopConfig(leash=0.0, turn=0.0), LoopConfig(from_robot=True)):
        pilot.asked.clear()
        loop = Loop(model, pilot, tracker, 1, replace(config, frames=6))
        for _ in loop.run(lambda seconds, state: Orders(None, None), 0.4):
            pass
        assert len(pilot.asked) == 2
        robot = loop.recording.poses[10][0]
        past = pilot.asked[1][0][0, -1].float()
        torch.testing.assert_close(past[:2], robot[:2], rtol=0, atol=1e-6)
        if config.from_robot:
            torch.testing.assert_close(past[7:], robot[7:], rtol=0, atol=1e-6)
        else:
            assert not torch.allclose(past[7:], robot[7:], atol=1e-6)


def test_a_fall_is_for_good(model: mujoco.MjModel) -> None:
    loop = Loop(model, Walk(), Tracker(29, TrackerConfig((8,), (1,))), 2)
    upright = torch.zeros(5, 2, 36)
    upright[..., 2], upright[..., 3] = 0.7, 1.0
    upright[2, 1, 2] = 0.3
    upright[3, 0, 3:7] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # on its head
    loop.recording.poses = [upright[0], *upright]
    expected = [[True, True], [True, True], [True, False], [False, False], [False, False]]
    assert loop.recording.upright().tolist() == expected


def test_velocity_in_the_own_heading() -> None:
    pose = torch.zeros(1, 36)
    pose[:, 3:7] = torch.tensor([0.5**0.5, 0, 0, 0.5**0.5])  # faces y
    forward, left = heading_velocity(pose, torch.tensor([[-0.2, 1.0, 9.0]]))[0].tolist()
    assert (forward, left) == pytest.approx((1.0, 0.2))


@pytest.mark.parametrize(("field", "value"), [("frames", 20), ("frames", 0), ("leash", -1.0)])
def test_settings_that_cannot_be(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"loop.{field}"):
        LoopConfig(**{field: value})  # type: ignore[arg-type]
