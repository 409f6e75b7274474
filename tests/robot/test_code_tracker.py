"""The policy from codes: what it sees does not depend on the place, and it learns what its teacher does."""

import io
from dataclasses import replace
from pathlib import Path

import mujoco
import pytest
import torch

from daps.data.gait import gait
from daps.methods.base import Autoencoder
from daps.motion import pose_start
from daps.presets import preset
from daps.robot.code_tracker import CodeTracker, CodeTrackerConfig, symbol_components
from daps.robot.distilling import Distilling, DistillingConfig
from daps.robot.model import build
from daps.robot.play import LoopConfig
from daps.robot.retelling import Retelling
from daps.robot.tracker import Tracker, TrackerConfig
from daps.scaling import Affine
from robot.states import JOINTS, random_state, turned
from robot.stick import write_stick

SMALL = CodeTrackerConfig(hidden=(16,), components=3)
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


def test_what_it_sees_moves_with_the_robot_and_its_anchor() -> None:
    torch.manual_seed(0)
    policy = CodeTracker(JOINTS, 4, torch.randn(6, 2), SMALL).double()
    state, shift = random_state(5), torch.tensor([3.0, -2.0, 0.0]).double()
    anchor, codes, step = pose_start(random_state(5, seed=1).pose), torch.randint(6, (5, 4)), torch.arange(5)
    there = turned(state, 0.9, shift)
    moved = turned(random_state(5, seed=1), 0.9, shift)
    out = policy(state, codes, anchor, step)
    torch.testing.assert_close(policy(there, codes, pose_start(moved.pose), step), out)
    assert not torch.allclose(policy(there, codes, anchor, step), out)
    assert not torch.allclose(policy(state, codes.flip(0), anchor, step), out)
    assert not torch.allclose(policy(state, codes, anchor, step + 9), out)


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
    config = DistillingConfig(samples=96, robots=4, updates=3, batch_size=16)
    return Distilling(model, CLIPS, tokenizer, teacher, replace(config, **changes), SMALL, LoopConfig(frames=3))  # type: ignore[arg-type]


def test_the_pupil_learns_what_the_teacher_does(model: mujoco.MjModel, tokenizer: Autoencoder) -> None:
    training = distilling(model, tokenizer, samples=400, updates=60, learning_rate=1e-2)
    figures = list(training.run())
    assert training.done == training.total == 400 and figures[-1]["step"] == 400
    kept = torch.cat([row["targets"] for row in training.memory])
    apart = (kept - kept.mean(0)) / training.pupil.targets.deviation
    mean = torch.nn.functional.smooth_l1_loss(apart, torch.zeros_like(apart))  # of who always says the mean
    assert figures[-1]["cost"] < 0.5 * float(mean)
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
