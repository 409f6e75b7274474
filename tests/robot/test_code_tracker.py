"""The policy from codes: what it reads of them, and that it does what the tracker of frames would do with that."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from daps.data.gait import gait
from daps.methods.base import Autoencoder
from daps.motion import feature_poses, pose_features, pose_start
from daps.presets import preset
from daps.robot.code_tracker import CodeTracker, symbol_components
from daps.robot.distilling import Distilling, DistillingConfig, LinearFit
from daps.robot.reference import Plan, References
from daps.robot.retelling import Retelling
from daps.robot.tracker import Tracker, TrackerConfig
from daps.robot.world import State
from daps.scaling import Affine
from robot.states import JOINTS, random_state, turned

CLIPS = {"a": torch.from_numpy(gait(0, 80)), "b": torch.from_numpy(gait(1, 40)), "short": torch.from_numpy(gait(2, 20))}


@pytest.fixture(scope="module")
def tokenizer() -> Autoencoder:
    torch.manual_seed(0)
    config = preset("gait", "daps")
    nets = replace(config.nets, width=16, heads=2, hidden=(8,), data_shape=(32, 36))
    return config.method.build(nets, Affine(), 10).eval().requires_grad_(False)


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


@pytest.mark.parametrize("ridge", [1e-9, 0.3])
def test_sums_of_batches_give_scikit_learns_regression(ridge: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 7, generator=generator) + torch.arange(7.0)
    y = x @ torch.randn(7, 4, generator=generator) + torch.randn(300, 4, generator=generator) + 5
    fit = LinearFit(7, 4)
    for part in torch.arange(300).split(77):
        fit.add(x[part], y[part])
    weight, bias, error = fit.solve(ridge)
    theirs = Ridge(alpha=300 * ridge).fit(x.double().numpy(), y.double().numpy())  # whose price is not per row
    torch.testing.assert_close(weight, torch.from_numpy(theirs.coef_), rtol=0, atol=1e-9)
    torch.testing.assert_close(bias, torch.from_numpy(theirs.intercept_), rtol=0, atol=1e-8)
    off = np.square(theirs.predict(x.double().numpy()) - y.double().numpy()).mean(0)
    torch.testing.assert_close(error, torch.from_numpy(off), rtol=1e-8, atol=0)


def test_who_reads_all_of_the_frames_does_what_a_tracker_of_frames_does() -> None:
    """Windows whose features are linear in their symbols, as none are in the world."""
    policy, frames = small_policy(), 5
    codes = torch.randint(6, (40, 4), generator=torch.Generator().manual_seed(1))
    still = torch.zeros(JOINTS + 7)
    still[3], still[6] = 0.75, 1.0
    mix = 0.1 * torch.randn(8, (frames + 1) * (JOINTS + 7), generator=torch.Generator().manual_seed(2))
    motion = still + (policy.vectors(codes) @ mix).unflatten(-1, (frames + 1, -1))
    fit = LinearFit(8, policy.reading.out_features)
    fit.add(policy.vectors(codes), motion.flatten(1))
    weight, bias, error = fit.solve(1e-12)
    with torch.no_grad():
        policy.reading.weight.copy_(weight)
        policy.reading.bias.copy_(bias)
    assert float(error.max()) < 1e-9
    anchor = pose_start(random_state(40, seed=3).pose).float()
    plan = Plan(References.side_by_side(feature_poses(motion, anchor)), codes, anchor)
    state = single(random_state(40))
    for step in (0, 3):
        expected = policy.tracker.act(state, plan, step)
        torch.testing.assert_close(policy.act(state, plan, step), expected, rtol=0, atol=1e-3)
    assert (policy.tracker.act(state, plan, 0) - policy.tracker.act(state, plan, 3)).abs().max() > 0.05


def test_clips_are_retold_from_where_the_past_ends(tokenizer: Autoencoder) -> None:
    retelling = Retelling(tokenizer, CLIPS)
    assert retelling.beginnings.tolist() == [*range(2, 49), *range(82, 89)]
    frame = torch.tensor([2, 85])
    poses, codes = retelling.motion(retelling.past(frame), frame)
    assert poses.shape == (2, 33, 36) and codes.shape == (2, 16)
    expected = torch.stack((CLIPS["a"][1], CLIPS["b"][4]))
    torch.testing.assert_close(poses[:, 0], expected.double(), rtol=0, atol=1e-6)
    moved = retelling.past(frame) + torch.tensor([2.0, -1.0, *[0.0] * 34]).double()  # it goes on from there
    torch.testing.assert_close(retelling.motion(moved, frame)[0][..., :2], poses[..., :2] + moved.new_tensor([2, -1]))
    with pytest.raises(ValueError, match="wants clips of at least 34 frames"):
        Retelling(tokenizer, {"short": CLIPS["short"]})


def distilling(tokenizer: Autoencoder, **changes: Any) -> Distilling:
    torch.manual_seed(1)
    teacher = Tracker(29, TrackerConfig((8,), (1, 2))).eval().requires_grad_(False)
    return Distilling(CLIPS, tokenizer, teacher, DistillingConfig(**{"components": 3, "windows": 600} | changes))


def test_it_is_the_tracker_behind_the_best_linear_reading_of_windows(tokenizer: Autoencoder) -> None:
    work = distilling(tokenizer)
    rows = list(work.run())
    assert [row["step"] for row in rows] == [256, 512, 600] and work.done == work.total == 600
    policy, teacher = work.policy.eval(), distilling(tokenizer).policy.tracker
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(policy.tracker.state_dict()[name], tensor)
    poses, codes = work.retelling.motion(work.retelling.past(work.frames), work.frames)
    motion = pose_features(poses).double()
    x = np.concatenate((policy.table[codes].flatten(1).numpy(), np.ones((600, 1))), 1).astype(np.float64)
    best = x @ np.linalg.lstsq(x, motion.flatten(1).numpy(), rcond=None)[0]
    least = float(np.square(best - motion.flatten(1).numpy()).mean())
    error = policy.reading(policy.vectors(codes)).detach().double().view_as(motion) - motion
    assert float(error.square().mean()) == pytest.approx(least, rel=0.05)  # the price
    assert rows[-1]["read"] == pytest.approx(float(error[..., 7:].square().mean().sqrt()), rel=1e-4)
    # what is read starts at the anchor, and is what the tracker follows
    anchor = pose_start(poses[:, 0]).float()
    read = policy.read(codes, anchor)
    torch.testing.assert_close(pose_start(read.poses[read.starts])[:, :2], anchor[:, :2])
    plan = Plan(References.side_by_side(poses), codes, anchor)
    state, robots = State(read.poses[read.starts], read.velocities[read.starts]), torch.arange(600)
    expected = policy.tracker(state, policy.tracker.goals(read, robots, torch.full_like(robots, 7)))
    assert torch.equal(policy.act(state, plan, 7), expected)


def test_it_goes_on_bit_for_bit(tokenizer: Autoencoder) -> None:
    whole, part, file = distilling(tokenizer), distilling(tokenizer), io.BytesIO()
    rows = list(whole.run())
    next(part.run())
    torch.save(part.state_dict(), file)
    file.seek(0)
    rest = distilling(tokenizer)
    rest.load_state_dict(torch.load(file))
    assert rest.done == 256 and list(rest.run()) == rows[1:]
    for name, tensor in whole.weights().items():
        assert torch.equal(rest.weights()[name], tensor)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"components": 0}, "distilling.components: must be >= 1, got 0"),
        ({"windows": 0}, "distilling.windows: must be >= 1, got 0"),
        ({"ridge": 0.0}, "distilling.ridge: must be > 0, got 0; 0.001 will do"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DistillingConfig(**changes)
