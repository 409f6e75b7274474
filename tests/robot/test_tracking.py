"""The tracker sees what it should, its training goes on bit for bit, and looking ahead lowers the cost."""

import copy
import io
from pathlib import Path

import mujoco
import pytest
import torch

from builders import normal
from daps.data.gait import gait
from daps.kinematics import Kinematics
from daps.mirror import mirrored_joints, mirrored_poses
from daps.robot.model import build
from daps.robot.reference import References
from daps.robot.tracker import Tracker, TrackerConfig, goal_features, smooth_norm, tracking_cost
from daps.robot.tracking import ENDS, Buffer, Tracking, TrackingConfig, dropped, lost
from daps.robot.world import State
from robot.states import JOINTS, random_state, turned
from robot.stick import write_stick
from robot.trackings import TINY, tracking, walks


@pytest.fixture(scope="module")
def walk() -> References:
    return walks()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mujoco.MjModel:
    return build(write_stick(Path(tmp_path_factory.mktemp("robot"))), light=True)


def test_goals_look_the_same_from_everywhere() -> None:
    here, goal = random_state(5), random_state(5, seed=1)
    shift = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
    seen = goal_features(here, goal)
    assert seen.shape == (5, 3 + 6 + 6 + 2 * JOINTS)
    torch.testing.assert_close(goal_features(turned(here, 2.0, shift), turned(goal, 2.0, shift)), seen)
    assert (goal_features(here, turned(goal, 0.3, 0 * shift)) - seen).abs().max() > 0.1


def test_the_cost_is_zero_at_the_goal_and_rises_with_every_error() -> None:
    goal = random_state(4)
    at_goal = tracking_cost(goal, goal, goal.pose[:, 7:])
    torch.testing.assert_close(at_goal, torch.zeros(4).double(), rtol=0, atol=1e-7)
    for change in range(goal.velocity.shape[1]):
        bump = torch.zeros_like(goal.velocity)
        bump[:, change] = 0.1
        for state in (State(goal.moved(5 * bump).pose, goal.velocity), State(goal.pose, goal.velocity + bump)):
            assert (tracking_cost(state, State(goal.pose, goal.velocity), goal.pose[:, 7:]) > 1e-4).all()
    assert (tracking_cost(goal, goal, goal.pose[:, 7:] + 0.1) > 1e-4).all()


@pytest.mark.parametrize(("axis", "by", "gone"), [(2, 0.24, False), (2, 0.26, True), (0, 0.9, False), (1, 1.1, True)])
def test_a_robot_is_lost_beyond_the_bounds(axis: int, by: float, gone: bool) -> None:
    goal = random_state(3)
    pose = goal.pose.clone()
    pose[:, axis] += by
    assert lost(State(pose, goal.velocity), goal).tolist() == [gone] * 3


def test_a_robot_that_has_tipped_over_is_lost() -> None:
    upright = torch.zeros(1, 10)
    upright[:, 3] = 1
    fallen = upright.clone()
    for angle, gone in ((0.7, False), (0.9, True)):  # radians; the verticals are 2 sin(angle / 2) apart
        fallen[:, 3:7] = torch.tensor([torch.cos(torch.tensor(angle / 2)), torch.sin(torch.tensor(angle / 2)), 0, 0])
        assert lost(State(fallen, torch.zeros(1, 9)), State(upright, torch.zeros(1, 9))).tolist() == [gone]


def test_the_buffer_keeps_the_latest_segments_in_order() -> None:
    buffer, generator = Buffer(4, 3, 10), torch.Generator().manual_seed(0)
    for start in (0, 3):
        mark = torch.arange(start, start + 3).float()
        poses = (10 * mark[:, None] + torch.arange(4)).unsqueeze(-1).expand(3, 4, 10)
        states = State(poses, poses[..., :9])
        buffer.add(states, poses[:, :3, :3] + 0.5, mark.long(), 100 * mark.long())
    assert buffer.count == 4 and sorted(buffer.clip.tolist()) == [2, 3, 4, 5]
    states, targets = buffer.steps(200, 2, generator)
    first = states.pose[:, :1, :1]
    assert torch.equal(states.pose[..., :1] - first, torch.arange(3.0).view(1, 3, 1).expand(200, 3, 1))
    assert torch.equal(targets[..., :1], states.pose[:, :2, :1] + 0.5)
    assert set((first.flatten() % 10).tolist()) == {0.0, 1.0}
    state, clip, frame = buffer.states(200, generator)
    assert torch.equal(state.pose[:, 0], 10.0 * clip + frame % 100) and torch.equal(frame // 100, clip)
    assert set((frame % 100).tolist()) == {0, 1, 2}


def test_robots_start_on_their_references_and_the_buffer_holds_what_they_did(
    model: mujoco.MjModel, walk: References
) -> None:
    training = tracking(model, walk, noise=0.0, push=0.0)
    both = training.references  # the walks, and their mirror images
    at = both.rows(training.clip, training.frame)
    torch.testing.assert_close(training.state().pose, both.poses[at])
    training.collect()
    assert training.buffer.count == 8
    torch.testing.assert_close(training.buffer.pose[:8, 0], both.poses[at])
    goals = training.tracker.goals(both, training.buffer.clip[:8], training.buffer.frame[:8])
    torch.testing.assert_close(
        training.tracker(State(training.buffer.pose[:8, 0], training.buffer.velocity[:8, 0]), goals),
        training.buffer.targets[:8, 0],
    )
    assert goals.pose.shape == (8, 2, 36)  # one and three steps ahead
    later = both.rows(training.buffer.clip[:8], training.buffer.frame[:8] + 3)
    torch.testing.assert_close(goals.pose[:, 1], both.poses[later])


def test_looking_ahead_lowers_the_cost_that_the_world_model_foresees(model: mujoco.MjModel, walk: References) -> None:
    training = tracking(model, walk, policy_rate=3e-3, rate_last=1.0, horizon=8, world_updates=40)
    for _ in training.run():
        pass
    batch = training.buffer.states(8, training.generator)
    before = training.foreseen_cost(*batch)
    for _ in range(30):
        training._update("policy", training.tracker.net, training.foreseen_cost(*batch))
    assert training.foreseen_cost(*batch) < 0.97 * before


def test_a_training_goes_on_bit_for_bit(model: mujoco.MjModel, walk: References) -> None:
    whole = tracking(model, walk)
    figures = list(whole.run())
    assert [row["step"] for row in figures] == [32, 64, 96]
    rates = [group["lr"] for optimizer in whole.optimizers.values() for group in optimizer.param_groups]
    assert rates == pytest.approx([1e-3 * (0.1 + 0.9 * 0.25)] * 2)  # two thirds of the decay
    assert all(map(torch.isfinite, map(torch.tensor, figures[-1].values())))
    part, file = tracking(model, walk), io.BytesIO()
    next(part.run())
    torch.save(part.state_dict(), file)
    file.seek(0)
    rest = tracking(model, walk, seed=0)
    rest.load_state_dict(torch.load(file, weights_only=True))
    assert list(rest.run()) == figures[1:]
    for a, b in zip(whole.tracker.state_dict().values(), rest.tracker.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="tracking.robots: must be >= 1, got 0"):
        TrackingConfig(robots=0)
    with pytest.raises(ValueError, match="tracking.capacity: must hold a segment of each of 8 robots, got 7"):
        TrackingConfig(robots=8, capacity=7)
    with pytest.raises(ValueError, match="tracking.foresight: a segment holds 16 steps, got 17"):
        TrackingConfig(foresight=17)
    with pytest.raises(ValueError, match=r"tracker.lookahead: wants control steps >= 1, got \(0, 4\)"):
        TrackerConfig(lookahead=(0, 4))
    assert Tracker(JOINTS, TrackerConfig((8,), (2,))).inputs.mean.shape == (4 + 6 + 6 + 15 + 6,)


def test_robots_have_all_their_shapes_at_the_end(
    model: mujoco.MjModel, walk: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on where they are, and a training that was stopped there goes on as it would have."""
    full = copy.copy(model)
    full.opt.gravity[2] = -5.0  # so that it shows
    config = tracking(model, walk, light=0.5).config

    def begin() -> Tracking:
        return Tracking(model, walk, config, TrackerConfig((16,), (1, 3)), full=full)

    whole, before = begin(), tracking(model, walk, light=0.5)
    figures, other = list(whole.run()), list(before.run())
    assert whole.simulation.model is full and before.simulation.model is model
    assert figures[:2] == other[:2] and figures[2] != other[2]  # of three rounds, the last
    part, file = begin(), io.BytesIO()
    for _ in zip(range(2), part.run(), strict=False):
        pass
    torch.save(part.state_dict(), file)
    file.seek(0)
    rest = begin()
    rest.load_state_dict(torch.load(file))
    assert list(rest.run()) == figures[part.round :]
    with pytest.raises(ValueError, match="tracking.light: a share in"):
        TrackingConfig(light=2.0)


def test_what_is_learned_on_one_side_is_learned_on_the_other(model: mujoco.MjModel, walk: References) -> None:
    """Mirrored states come with mirrored clips: a robot on its reference is on it in the mirror, too."""
    training = tracking(model, walk, batch_size=64)
    assert training.references.names == ("a", "b", "a mirrored", "b mirrored")
    twin = References.of({"a": mirrored_poses(torch.from_numpy(gait(0, 60)))})
    row = training.references.starts[2]
    torch.testing.assert_close(training.references.poses[row : row + len(twin.poses)], twin.poses, rtol=0, atol=1e-5)
    training.collect()
    flip = training._flip(1_000)
    assert 400 < int(flip.sum()) < 600
    before = training.generator.get_state()
    state, clip, frame = training._states(64)
    training.generator.set_state(before)
    plain, old, at = training.buffer.states(64, training.generator)
    flipped = (state.pose != plain.pose).any(-1)
    assert 15 < int(flipped.sum()) < 49 and torch.equal(frame, at) and torch.equal(clip, (old + 2 * flipped) % 4)
    rows = [training.references.rows(names, frame) for names in (clip, old)]
    apart = [
        (s.pose[:, :3] - training.references.poses[r][:, :3]).norm(dim=-1)
        for s, r in ((state, rows[0]), (plain, rows[1]))
    ]
    torch.testing.assert_close(*apart, rtol=0, atol=1e-5)
    states, targets = training._steps(64, 2)
    assert states.pose.shape == (64, 3, 36) and targets.shape == (64, 2, 29)
    assert torch.equal(tracking(model, walk, mirror=False)._flip(50), torch.zeros(50, dtype=torch.bool))


def test_a_training_begins_with_another_ones_networks(model: mujoco.MjModel, walk: References) -> None:
    first, second = tracking(model, walk), tracking(model, walk, seed=1)
    list(first.run())
    second.take_over(first.state_dict())
    same = zip(first.weights().values(), second.weights().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    scales = second.tracker.inputs.mean.clone()
    next(iter(second.run()))
    assert torch.equal(second.tracker.inputs.mean, scales)
    with pytest.raises(ValueError, match="^start: holds networks of other sizes"):
        tracking(model, walk, world_hidden=(8,)).take_over(first.state_dict())


def test_a_trained_tracker_does_in_a_mirror_what_it_does(walk: References) -> None:
    """Mirrored states and goals, mirrored targets, however the network came out; the mean of both sides."""
    torch.manual_seed(0)
    tracker = Tracker(29, TrackerConfig((16,), (1, 3)))
    both, yes = walk.with_mirror(), torch.ones(5, dtype=torch.bool)
    clip, frame = torch.zeros(5, dtype=torch.long), torch.arange(5) * 7
    at = walk.rows(clip, frame)
    state = State(walk.poses[at] + 0.01 * normal(5, 36).float(), walk.velocities[at])
    goals, twins = tracker.goals(both, clip, frame), tracker.goals(both, clip + 2, frame)
    raw, raw_twin = tracker(state, goals), tracker(state.mirrored(yes), twins)
    assert (mirrored_joints(raw_twin) - raw).abs().max() > 1e-3
    tracker.eval()
    torch.testing.assert_close(tracker(state, goals), (raw + mirrored_joints(raw_twin)) / 2)
    torch.testing.assert_close(mirrored_joints(tracker(state.mirrored(yes), twins)), tracker(state, goals))


def test_where_robots_fell_is_part_of_the_state(model: mujoco.MjModel, walk: References) -> None:
    first, second = tracking(model, walk), tracking(model, walk)
    first.difficulty.observe(torch.tensor([0, 1]), torch.tensor([10, 20]), torch.tensor([True, False]))
    second.load_state_dict(first.state_dict())
    assert float(first.difficulty.falls.sum()) == 1
    assert torch.equal(second.difficulty.rates(), first.difficulty.rates())
    hard = tracking(model, walk, hard=1.0, robots=64, capacity=64)
    hard.difficulty.falls[0], hard.difficulty.visits[:] = 1e6, 1e6
    hard.restart(torch.ones(64, dtype=torch.bool))
    assert set(hard.clip.tolist()) == {0, 2}  # the first clip and its mirror image
    assert int(hard.frame.max()) < 50


@pytest.fixture(scope="module")
def kinematics(tmp_path_factory: pytest.TempPathFactory) -> Kinematics:
    return Kinematics.from_mjcf(write_stick(Path(tmp_path_factory.mktemp("stick"))))


def test_hands_and_feet_have_a_price_of_their_own(
    model: mujoco.MjModel, walk: References, kinematics: Kinematics
) -> None:
    """One step ahead, put together by hand; and its gradient reaches the policy."""
    train = Tracking(
        model, walk, TrackingConfig(**{**TINY, "horizon": 1, "ends": 0.5}), TrackerConfig((16,), (1, 3)),
        kinematics=kinematics,
    )  # fmt: skip
    train.collect()
    train._fit_scales()
    state, clip, frame = train._states(8)
    found = train.foreseen_cost(state, clip, frame)
    targets = train.tracker(state, train.tracker.goals(train.references, clip, frame))
    after, at = train.world(state, targets), train.references.rows(clip, frame + 1)
    goal = State(train.references.poses[at], train.references.velocities[at])
    rows = [kinematics.bodies.index(name) for name in ENDS]
    apart = kinematics.positions(after.pose)[:, rows] - kinematics.positions(goal.pose)[:, rows]
    torch.testing.assert_close(found, tracking_cost(after, goal, targets).mean() + 0.5 * smooth_norm(apart).mean())
    train.kinematics = None
    torch.testing.assert_close(train.foreseen_cost(state, clip, frame), tracking_cost(after, goal, targets).mean())


def test_a_hand_or_foot_too_high_or_low_is_dropped() -> None:
    wanted = normal(3, 4, 3, seed=0)
    off = torch.zeros_like(wanted)
    off[0, 1, 2], off[1, 3, 2], off[2, :, :2] = 0.31, -0.29, 5.0
    assert dropped(wanted + off, wanted).tolist() == [True, False, False]


@pytest.mark.parametrize(("fresh", "begun"), [(0.0, 0), (1.0, 8)])
def test_robots_that_keep_their_motion_begin_elsewhere_now_and_then(
    fresh: float, begun: int, model: mujoco.MjModel, walk: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tracking(model, walk, fresh=fresh)
    monkeypatch.setattr("daps.robot.tracking.lost", lambda here, goal: torch.zeros(8, dtype=torch.bool))
    train.frame.zero_()  # far from every end
    asked: list[int] = []
    monkeypatch.setattr(train, "restart", lambda which: asked.append(int(which.sum())))
    train.collect()
    assert asked == [begun]


def test_who_drops_a_hand_has_lost_the_motion(
    model: mujoco.MjModel, walk: References, kinematics: Kinematics, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrackingConfig(**{**TINY, "fresh": 0.0})
    train = Tracking(model, walk, config, TrackerConfig((16,), (1, 3)), kinematics=kinematics)
    monkeypatch.setattr("daps.robot.tracking.lost", lambda here, goal: torch.zeros(8, dtype=torch.bool))
    monkeypatch.setattr("daps.robot.tracking.dropped", lambda here, goal: torch.arange(8) < 3)
    train.frame.zero_()
    asked: list[list[bool]] = []
    monkeypatch.setattr(train, "restart", lambda which: asked.append(which.tolist()))
    assert train.collect()["lost"] == pytest.approx(3 / 8) and asked == [[True] * 3 + [False] * 5]
    assert float(train.difficulty.falls.sum()) == 3
