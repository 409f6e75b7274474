"""What a round of robots does: blows, noise on targets, what is kept of it, and who begins anew where."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from daps.robot.model import build
from daps.robot.reference import References
from daps.robot.tracking import Tracking
from daps.robot.world import State
from robot.stick import write_stick
from robot.trackings import tracking, walks


@pytest.fixture(scope="module")
def walk() -> References:
    return walks()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mujoco.MjModel:
    return build(write_stick(Path(tmp_path_factory.mktemp("robot"))), light=True)


def lose(monkeypatch: pytest.MonkeyPatch, *robots: int) -> None:
    """These robots have lost their motion at the end of a segment, and no others."""

    def named(state: State, goal: State) -> torch.Tensor:
        return torch.tensor([robot in robots for robot in range(len(state.pose))])

    monkeypatch.setattr("daps.robot.tracking.lost", named)


def test_the_buffer_holds_the_targets_that_robots_got_and_what_came_of_them(
    model: mujoco.MjModel, walk: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tracking(model, walk)
    step, given, poses = train.simulation.step, [], []

    def listen(targets: np.ndarray) -> object:
        feedback = step(targets)
        given.append(targets.copy())
        poses.append(train.simulation.qpos.copy())
        return feedback

    monkeypatch.setattr(train.simulation, "step", listen)
    train.collect()
    held = train.buffer
    np.testing.assert_array_equal(held.targets[:8].numpy(), np.stack(given, 1).astype(np.float32))
    np.testing.assert_array_equal(held.pose[:8, 1:].numpy(), np.stack(poses, 1).astype(np.float32))


def noise_of(train: Tracking) -> torch.Tensor:
    """What the buffer's targets are beside those of the policy [N, S, J]."""
    held, count, steps = train.buffer, train.config.robots, train.config.segment
    clip, frame = held.clip[:count, None].expand(-1, steps), held.frame[:count, None] + torch.arange(steps)
    states = State(held.pose[:count, :-1], held.velocity[:count, :-1])
    with torch.no_grad():
        return held.targets[:count] - train.tracker(states, train.tracker.goals(train.references, clip, frame))


def test_each_robot_has_its_share_of_noise_that_remembers(
    model: mujoco.MjModel, walk: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First order: each step is 0.9 of the one before and fresh noise that makes the deviation one."""
    train = tracking(model, walk, robots=32, segment=16, capacity=32, push=0.0)
    monkeypatch.setattr(train, "restart", lambda which: None)
    train.collect()
    off = noise_of(train)
    share = (off[:, -1] * train.noise).sum(-1) / train.noise.square().sum(-1)
    torch.testing.assert_close(off[:, -1], share[:, None] * train.noise, rtol=0, atol=1e-5)
    assert 0 < float(share.min()) < 0.05 and 0.15 < float(share.max()) <= 0.2
    whole = off / share[:, None, None]
    fresh = (whole[:, 1:] - 0.9 * whole[:, :-1]) / 0.19**0.5
    assert abs(float(fresh.mean())) < 0.03 and float(fresh.std()) == pytest.approx(1, abs=0.03)
    assert abs(float((fresh * whole[:, :-1]).mean())) < 0.03


def test_a_tenth_of_the_robots_are_pushed_over_the_floor(model: mujoco.MjModel, walk: References) -> None:
    train = tracking(model, walk, robots=400, segment=2, capacity=400, push=0.3)
    train.collect()
    at = train.references.rows(train.buffer.clip, train.buffer.frame)
    blow = train.buffer.velocity[:, 0] - train.references.velocities[at]
    hit = (blow[:, :2].abs() > 1e-6).all(-1)
    assert 20 < int(hit.sum()) < 60 and not blow[:, 2:].any() and not blow[~hit].any()
    assert float(blow[hit, :2].std()) == pytest.approx(0.3, abs=0.08)


def test_who_lost_the_motion_is_put_on_a_reference_and_the_others_go_on(
    model: mujoco.MjModel, walk: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tracking(model, walk, fresh=0.0)
    lose(monkeypatch, 0, 1, 2)
    train.frame.zero_()  # far from every end
    assert train.collect()["lost"] == pytest.approx(3 / 8)
    at = train.references.rows(train.clip, train.frame)
    torch.testing.assert_close(train.state().pose[:3], train.references.poses[at[:3]])
    torch.testing.assert_close(train.state().velocity[:3], train.references.velocities[at[:3]])
    torch.testing.assert_close(train.state().pose[3:], train.buffer.pose[3:8, -1])
    assert train.frame[3:].tolist() == [4] * 5
    assert not train.noise[:3].any() and bool(train.noise[3:].all())


def test_who_is_at_the_end_of_a_motion_begins_anew(
    model: mujoco.MjModel, walk: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment is four steps, the motions have 99 and 66 frames: the last ones to go on are at frame 94 and 61."""
    train = tracking(model, walk, fresh=0.0)
    lose(monkeypatch)
    train.clip = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    train.frame = torch.tensor([90, 91, 57, 58, 90, 91, 57, 58])
    asked: list[list[bool]] = []
    monkeypatch.setattr(train, "restart", lambda which: asked.append(which.tolist()))
    train.collect()
    assert asked == [[False, True] * 4]


def test_falls_are_counted_where_robots_are_when_they_fall(
    model: mujoco.MjModel, walk: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of motions, which share them with their mirror images; segments may end in another second."""
    train = tracking(model, walk)
    train.clip = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    train.frame = torch.tensor([0, 45, 46, 0, 50, 60, 10, 62])
    lose(monkeypatch, 2, 5, 6)
    train.collect()
    assert train.difficulty.visits.tolist() == [2, 2, 2, 2]  # both seconds of the one motion, and of the other
    assert train.difficulty.falls.tolist() == [0, 2, 1, 0]


def test_a_robot_that_physics_lost_has_fallen(
    model: mujoco.MjModel, walk: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tracking(model, walk, fresh=0.0, segment=1, foresight=1)
    lose(monkeypatch)
    train.frame.zero_()
    step = train.simulation.step

    def burst(targets: np.ndarray) -> None:
        step(targets)
        train.simulation.qpos[4, 9] = np.inf

    monkeypatch.setattr(train.simulation, "step", burst)
    train.collect()
    assert float(train.difficulty.falls.sum()) == 1 and bool(torch.isfinite(train.state().pose).all())
