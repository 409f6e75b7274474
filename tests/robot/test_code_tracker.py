"""The policy from codes: what it reads of them, and that it learns what its teacher does."""

import io
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from daps import rotation
from daps.data.gait import gait
from daps.methods.base import Autoencoder
from daps.motion import feature_poses, pose_features, pose_start
from daps.presets import preset
from daps.robot.code_tracker import CodeTracker, CodeTrackerConfig, symbol_components
from daps.robot.distilling import Distilling, DistillingConfig
from daps.robot.model import build
from daps.robot.play import LoopConfig
from daps.robot.reference import Plan, References
from daps.robot.retelling import Retelling
from daps.robot.tracker import Tracker, TrackerConfig
from daps.robot.world import State
from daps.scaling import Affine
from robot.states import JOINTS, random_state, turned
from robot.stick import write_stick

SMALL = CodeTrackerConfig(components=3)
CLIPS = {"a": torch.from_numpy(gait(0, 80)), "b": torch.from_numpy(gait(1, 40)), "short": torch.from_numpy(gait(2, 20))}


@pytest.fixture(scope="module")
def tokenizer() -> Autoencoder:
    torch.manual_seed(0)
    config = preset("gait", "daps")
    nets = replace(config.nets, width=16, heads=2, hidden=(8,), data_shape=(32, 36))
    return config.method.build(nets, Affine(), 10).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mujoco.MjModel:
    return build(write_stick(Path(tmp_path_factory.mktemp("robot"))), light=True)


def test_symbols_are_told_by_principal_components(tokenizer: Autoencoder) -> None:
    found = symbol_components(tokenizer, 3)
    assert found.shape == (64, 3)
    torch.testing.assert_close(found.T @ found / 64, torch.eye(3), rtol=0, atol=1e-5)  # uncorrelated, of variance one
    table = tokenizer.decoder.embedding.table()  # type: ignore[union-attr, operator]
    centred = (table - table.mean(0)).double()
    kept = [float((centred.T @ part.double()).square().sum()) for part in found.T]
    assert kept == sorted(kept, reverse=True)
    other = centred @ torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left = torch.linalg.qr(other)[0] * 8
    assert sum(kept) >= float((centred.T @ left).square().sum())  # no other three numbers say more


def small_policy(frames: int = 5) -> CodeTracker:
    """Of four tokens and six symbols; its tracker is as at random, its reading small."""
    torch.manual_seed(0)
    policy = CodeTracker(4, frames, torch.randn(6, 2), JOINTS, TrackerConfig((16,), (1, 4), symmetric=False)).eval()
    torch.nn.init.normal_(policy.reading.weight, std=0.1)
    torch.nn.init.normal_(policy.tracker.net[-1].weight, std=0.1)
    return policy


def single(state: State) -> State:
    return State(state.pose.float(), state.velocity.float())


def test_what_it_does_moves_with_the_robot_and_its_anchor() -> None:
    policy, shift, begun = small_policy(), torch.tensor([3.0, -2.0, 0.0]).double(), random_state(5, seed=1)
    state, there = (single(s) for s in (random_state(5), turned(random_state(5), 0.9, shift)))
    anchor, there_too = (pose_start(s.pose).float() for s in (begun, turned(begun, 0.9, shift)))
    codes, step = torch.randint(6, (5, 4)), torch.arange(5)

    def done(state: State, codes: torch.Tensor, anchor: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return policy(state, policy.read(codes, anchor), torch.arange(5), step)

    out = done(state, codes, anchor, step)
    torch.testing.assert_close(done(there, codes, there_too, step), out, rtol=0, atol=1e-4)
    assert not torch.allclose(done(there, codes, anchor, step), out, atol=1e-3)
    assert not torch.allclose(done(state, codes.flip(0), anchor, step), out, atol=1e-3)
    assert not torch.allclose(done(state, codes, anchor, step + 4), out, atol=1e-3)


def test_reading_is_the_best_linear_one() -> None:
    """Against LAPACK's least squares; a price moves it towards the mean."""
    policy = small_policy(2)
    codes = torch.randint(6, (200, 4), generator=torch.Generator().manual_seed(1))
    motion = torch.randn(200, 3, JOINTS + 7, generator=torch.Generator().manual_seed(2))
    policy.fit_reading(codes, motion, ridge=0.0)
    x = np.concatenate((policy.table[codes].flatten(1).numpy(), np.ones((200, 1))), 1).astype(np.float64)
    best = x @ np.linalg.lstsq(x, motion.flatten(1).double().numpy(), rcond=None)[0]
    found = policy.reading(policy.vectors(codes))
    torch.testing.assert_close(found, torch.from_numpy(best).float(), rtol=0, atol=1e-5)
    policy.fit_reading(codes, motion, ridge=1e9)
    mean = motion.flatten(1).mean(0)
    torch.testing.assert_close(policy.reading(policy.vectors(codes)), mean.expand(200, -1), rtol=0, atol=1e-5)


def test_who_reads_all_of_the_frames_does_what_a_tracker_of_frames_does() -> None:
    """Windows whose features are linear in their symbols, as none are in the world."""
    policy, frames = small_policy(), 5
    codes = torch.randint(6, (40, 4), generator=torch.Generator().manual_seed(1))
    still = torch.zeros(JOINTS + 7)
    still[3], still[6] = 0.75, 1.0
    mix = 0.1 * torch.randn(8, (frames + 1) * (JOINTS + 7), generator=torch.Generator().manual_seed(2))
    motion = still + (policy.vectors(codes) @ mix).unflatten(-1, (frames + 1, -1))
    policy.fit_reading(codes, motion, ridge=0.0)
    anchor = pose_start(random_state(40, seed=3).pose).float()
    plan = Plan(References.side_by_side(feature_poses(motion, anchor)), codes, anchor)
    state = single(random_state(40))
    for step in (0, 3):
        expected = policy.tracker.act(state, plan, step)
        torch.testing.assert_close(policy.act(state, plan, step), expected, rtol=0, atol=1e-3)
    assert (policy.tracker.act(state, plan, 0) - policy.tracker.act(state, plan, 3)).abs().max() > 0.05


def test_both_parts_learn() -> None:
    """The derivative of a cost along a random direction in each part, against differences."""
    policy = small_policy().train()
    state, anchor = single(random_state(5)), pose_start(random_state(5, seed=1).pose).float()
    codes, step = torch.randint(6, (5, 4)), torch.arange(5)

    def cost() -> torch.Tensor:
        return policy(state, policy.read(codes, anchor), torch.arange(5), step).square().sum()

    cost().backward()
    generator = torch.Generator().manual_seed(3)
    for part in (policy.reading.weight, policy.tracker.net[0].weight):
        assert isinstance(part, torch.nn.Parameter) and part.grad is not None
        way = torch.randn(part.shape, generator=generator) + 10 * part.grad / part.grad.norm()
        way, ends = way / way.norm(), []
        for size in (0.01, -0.02):
            with torch.no_grad():
                part += size * way
            ends.append(float(cost().detach()))
        with torch.no_grad():
            part += 0.01 * way
        slope = float((part.grad * way).sum())
        assert abs(slope) > 0.1 and (ends[0] - ends[1]) / 0.02 == pytest.approx(slope, rel=0.02)


def test_clips_are_retold_from_where_the_past_ends(tokenizer: Autoencoder) -> None:
    retelling = Retelling(tokenizer, CLIPS)
    assert retelling.beginnings.tolist() == [*range(2, 49), *range(82, 89)]
    assert retelling.fits(torch.tensor([48, 49, 81, 88, 89])).tolist() == [True, False, True, True, False]
    frame = torch.tensor([2, 85])
    plan = retelling.plan(retelling.past(frame), frame)
    assert plan.references.poses.shape == (2 * 54, 36) and plan.codes.shape == (2, 16)  # 33 frames at 50 Hz
    first = plan.references.poses[plan.references.starts]
    expected = torch.stack((CLIPS["a"][1], CLIPS["b"][4])).float()
    torch.testing.assert_close(first[:, :3], expected[:, :3], rtol=0, atol=1e-6)
    torch.testing.assert_close(first[:, 7:], expected[:, 7:], rtol=0, atol=1e-6)
    torch.testing.assert_close(plan.anchor, pose_start(expected))
    with pytest.raises(ValueError, match="wants clips of at least 34 frames"):
        Retelling(tokenizer, {"short": CLIPS["short"]})


def distilling(model: mujoco.MjModel, tokenizer: Autoencoder, **changes: object) -> Distilling:
    torch.manual_seed(1)
    teacher = Tracker(29, TrackerConfig((8,), (1, 2))).eval().requires_grad_(False)
    config = DistillingConfig(samples=96, robots=4, windows=40, updates=3, batch_size=16)
    return Distilling(model, CLIPS, tokenizer, teacher, replace(config, **changes), SMALL, LoopConfig(frames=3))  # type: ignore[arg-type]


def test_the_pupil_begins_as_its_teacher_who_reads_what_is_linear(
    model: mujoco.MjModel, tokenizer: Autoencoder
) -> None:
    training = distilling(model, tokenizer, windows=300)
    training._fit_reading()
    for name, tensor in training.teacher.state_dict().items():
        assert torch.equal(training.pupil.tracker.state_dict()[name], tensor)
    retelling, frame = training.retelling, training.retelling.beginnings
    poses, codes = retelling.motion(retelling.past(frame), frame)
    read = training.pupil.reading(training.pupil.vectors(codes)).unflatten(-1, (33, 36)).detach()
    motion = pose_features(poses)
    assert (read - motion).square().mean() < 0.7 * (motion - motion.mean(0)).square().mean()


def test_the_pupil_learns_what_the_teacher_does(model: mujoco.MjModel, tokenizer: Autoencoder) -> None:
    training = distilling(model, tokenizer, samples=400, updates=60, learning_rate=1e-2)
    figures = list(training.run())
    assert training.done == training.total == 400 and figures[-1]["step"] == 400
    assert figures[-1]["cost"] < 0.5 * figures[0]["cost"]
    for row in training.memory:
        assert row["targets"].shape == (len(row["step"]), 29) and row["codes"].shape == (4, 16)
        assert int(row["step"].max()) < 5 and len(row["step"]) <= 4 * 5


def test_a_training_goes_on_bit_for_bit(model: mujoco.MjModel, tokenizer: Autoencoder) -> None:
    figures = list(distilling(model, tokenizer).run())
    part, file = distilling(model, tokenizer), io.BytesIO()
    for _ in zip(range(2), part.run(), strict=False):
        pass
    torch.save(part.state_dict(), file)
    file.seek(0)
    rest = distilling(model, tokenizer)
    rest.load_state_dict(torch.load(file))
    left = list(rest.run())
    assert left == figures[len(figures) - len(left) :] and len(left) == 5 - part.round
    with pytest.raises(ValueError, match="distilling.updates: must be >= 1, got 0"):
        DistillingConfig(updates=0)


def overheard(training: Distilling, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Plan], list[torch.Tensor]]:
    """Plans as they are made, and targets as the robots get them."""
    plans: list[Plan] = []
    given: list[torch.Tensor] = []
    make, step = training.retelling.plan, training.simulation.step

    def plan(past: torch.Tensor, frame: torch.Tensor) -> Plan:
        plans.append(make(past, frame))
        return plans[-1]

    def listen(targets: np.ndarray) -> None:
        given.append(torch.from_numpy(targets.copy()).float())
        step(targets)

    monkeypatch.setattr(training.retelling, "plan", plan)
    monkeypatch.setattr(training.simulation, "step", listen)
    return plans, given


@pytest.mark.parametrize(("round_", "led", "who"), [(0, 0.0, "pupil"), (1, 0.0, "pupil"), (1, 1.0, "teacher")])
def test_the_teacher_says_what_it_would_do_at_every_state_whoever_leads(
    round_: int, led: float, who: str, model: mujoco.MjModel, tokenizer: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = distilling(model, tokenizer, led=led, samples=20_000)
    training.round = round_
    plans, given = overheard(training, monkeypatch)
    training.collect()
    row, plan, teacher = training.memory[-1], plans[-1], training.teacher
    assert torch.equal(row["codes"], plan.codes) and torch.equal(row["anchor"], plan.anchor)
    assert row["robot"].tolist() == [0, 1, 2, 3] * 5 and row["step"].tolist() == sorted([0, 1, 2, 3, 4] * 4)
    torch.testing.assert_close(row["pose"][:4], plan.references.poses[plan.references.starts])
    state, robot, step = State(row["pose"], row["velocity"]), row["robot"], row["step"]
    said = teacher(state, teacher.goals(plan.references, robot, step))
    torch.testing.assert_close(row["targets"], said)
    pupil = training.pupil.eval()
    done = pupil(state, pupil.read(plan.codes, plan.anchor), robot, step).detach()
    assert (done - said).abs().max() > 0.01
    torch.testing.assert_close(torch.cat(given), said if who == "teacher" else done)


def test_who_lost_the_motion_teaches_nothing_and_begins_anew(
    model: mujoco.MjModel, tokenizer: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second robot loses it in the middle of a window, the third at its end; the clip of the fourth is over."""
    training = distilling(model, tokenizer)
    training.frame, training.fresh = torch.tensor([2, 10, 20, 46]), torch.zeros(4, dtype=torch.bool)
    plans, _ = overheard(training, monkeypatch)
    goals: list[torch.Tensor] = []

    def lose(state: State, goal: State) -> torch.Tensor:
        goals.append(goal.pose)
        return torch.tensor([False, len(goals) == 3, len(goals) == 6, False])

    monkeypatch.setattr("daps.robot.distilling.lost", lose)
    training.collect()
    row = training.memory[-1]
    taught = [row["step"][row["robot"] == robot].tolist() for robot in range(4)]
    assert taught == [[0, 1, 2, 3, 4], [0, 1], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    for step, goal in enumerate(goals):
        assert torch.equal(goal, plans[0].references.poses[plans[0].references.starts + step])
    assert training.fresh.tolist() == [False, True, True, True] and training.frame.tolist() == [5, 13, 23, 49]
    before = training.simulation.qpos.copy()
    training._plan()
    after, first = torch.from_numpy(training.simulation.qpos).float(), plans[1].references.poses
    assert torch.equal(after[0], torch.from_numpy(before[0]).float())
    torch.testing.assert_close(after[1:], first[plans[1].references.starts][1:])
    assert training.frame[0] == 5 and set(training.frame[1:].tolist()) <= set(training.retelling.beginnings.tolist())
    for robot, frame in enumerate(training.frame.tolist()):
        if robot:  # in the clip itself, not where the robot lay
            start = pose_start(training.retelling.poses[frame - 1]).float()
            torch.testing.assert_close(plans[1].anchor[robot], start)


def test_plans_go_on_near_the_robots(model: mujoco.MjModel, tokenizer: Autoencoder) -> None:
    """No further than a leash of 0.1 m from one that is 0.5 m away, nor turned by more than 0.2 rad."""
    training = distilling(model, tokenizer)
    training.frame, training.fresh = torch.tensor([2, 10, 20, 84]), torch.zeros(4, dtype=torch.bool)
    last = training.retelling.past(training.frame)[:, -1]
    robots = last.clone()
    robots[0, :2] += torch.tensor([0.3, -0.4])
    robots[1, 3:7] = rotation.multiply(rotation.about_z(torch.tensor(-0.5).double()), robots[1, 3:7])
    robots[2, :2] += torch.tensor([0.03, 0.04])
    training.simulation.reset(np.arange(4), robots.numpy(), np.zeros((4, 35)))
    plan = training._plan()
    expected = pose_start(last)
    expected[0, :2] += 0.8 * torch.tensor([0.3, -0.4])
    expected[1, 2] -= 0.3
    torch.testing.assert_close(plan.anchor, expected.float(), rtol=0, atol=1e-5)
    first = pose_start(plan.references.poses[plan.references.starts])
    torch.testing.assert_close(first, expected.float(), rtol=0, atol=1e-5)


def test_a_batch_has_the_codes_and_the_anchor_of_its_robots(model: mujoco.MjModel, tokenizer: Autoencoder) -> None:
    """Every number in a memory made by hand tells which it is; states are of robots in no order."""
    training, count = distilling(model, tokenizer), torch.arange(30.0)
    robot = (7 * torch.arange(30) + 1) % 4
    training.memory = [
        {
            "pose": 100 * part + count[:, None].expand(30, 36),
            "velocity": 100 * part - count[:, None].expand(30, 35),
            "targets": 100 * part + count[:, None].expand(30, 29) / 2,
            "robot": robot,
            "step": torch.arange(30) % 5,
            "codes": (10 * part + torch.arange(4))[:, None].expand(4, 16),
            "anchor": (20.0 * part + torch.arange(4))[:, None].expand(4, 3),
        }
        for part in (0, 1)
    ]
    parts = set()
    for _ in range(8):
        state, targets, codes, anchor, whose, step = training._draw(50)
        part = int(state.pose[0, 0] >= 100)
        at = (state.pose[:, 0] - 100 * part).long()
        parts.add(part)
        assert len(at.unique()) > 15 and torch.equal(state.velocity[:, 3], 100.0 * part - at)
        assert torch.equal(targets[:, 2], 100 * part + at / 2) and torch.equal(step, at % 5)
        assert torch.equal(whose, robot[at]) and codes[:, 1].tolist() == [10 * part + n for n in range(4)]
        assert anchor[:, 2].tolist() == [20.0 * part + n for n in range(4)]
    assert parts == {0, 1}
