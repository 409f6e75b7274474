"""Motion as a data set: its windows, its splits, and the real clips where they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from daps.data import load
from daps.data.clips import read_clip, write_clip
from daps.data.dataset import Dataset, Windows
from daps.data.gait import gait
from daps.data.motion import HELD_OUT, LEAST_VARIANCE, windows
from daps.kinematics import Kinematics
from daps.motion import G1_JOINTS, feature_poses, pose_features, pose_start
from daps.scaling import statistics


def write(folder: Path, names: tuple[str, ...], frames: int = 40) -> Path:
    for seed, name in enumerate(names):
        write_clip(folder / f"{name}.csv", gait(seed, frames))
    return folder


def test_windows_are_cut_when_asked_for() -> None:
    frames = np.arange(40, dtype=np.float32).reshape(20, 2)
    cut = Windows(frames, np.array([0, 3, 12]), 5)
    whole = np.stack([frames[s : s + 5] for s in (0, 3, 12)])
    assert cut.shape == whole.shape and len(cut) == 3 and cut.dtype == whole.dtype
    for index in (1, -1, slice(0, 2), slice(None), np.array([2, 0, 2])):
        np.testing.assert_array_equal(cut[index], whole[index])


def test_a_dataset_of_windows_is_one_like_any_other() -> None:
    frames, starts = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), np.arange(46)
    lazy = Dataset(Windows(frames, starts, 5), "gait", "train", 1.0, "")
    plain = Dataset(lazy[:], "gait", "train", 1.0, "")
    assert lazy.shape == plain.shape == (5, 3) and len(lazy) == len(plain)
    np.testing.assert_array_equal(lazy[np.array([3, 1])], plain[np.array([3, 1])])
    lazy[0][:] = 7  # a copy
    np.testing.assert_array_equal(lazy[:], plain[:])


def test_the_fingerprint_knows_frames_and_starts() -> None:
    frames = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    marks = {Dataset(Windows(frames, np.arange(n), 5), "g", "train", 1.0, "").fingerprint for n in (45, 46)}
    marks.add(Dataset(Windows(frames + 1, np.arange(46), 5), "g", "train", 1.0, "").fingerprint)
    assert len(marks) == 3
    again = Dataset(Windows(frames.copy(), np.arange(46), 5), "other", "train", 1.0, "").fingerprint
    assert again in marks


def test_training_has_every_start_and_validation_has_windows_side_by_side() -> None:
    poses = {"a": gait(0, 100), "b": gait(1, 40)}
    train, validation = (windows(poses, "gait", split, "") for split in ("train", "validation"))
    assert len(train) == (100 - 31) + (40 - 31) and len(validation) == 3 + 1
    assert validation.names == ("a:0", "a:32", "a:64", "b:0")
    features = [pose_features(torch.from_numpy(clip)).float().numpy() for clip in poses.values()]
    np.testing.assert_array_equal(train[5], features[0][5:37])
    np.testing.assert_array_equal(train[68], features[0][68:])
    np.testing.assert_array_equal(train[69], features[1][:32])  # no window of two clips
    np.testing.assert_array_equal(validation[3], features[1][:32])
    assert train.values.frames.nbytes == 140 * 36 * 4


def test_the_papers_clips_are_validation(tmp_path: Path) -> None:
    write(tmp_path, ("walk1_subject1", "run2_subject1", "walk2_subject4", "zeta"))
    validation, train = (load("lafan1", split, path=tmp_path) for split in ("validation", "train"))
    assert validation.names == ("run2_subject1:0", "walk2_subject4:0")
    assert len(train) == 2 * 9 and train.shape == (32, 36)
    assert "run2_subject1, walk2_subject4 are validation, the others train" in train.about


def test_other_clips_are_split_by_their_names(tmp_path: Path) -> None:
    write(tmp_path, tuple(f"clip{i}" for i in range(12)), 33)
    found = [load("lafan1", split, path=str(tmp_path)) for split in ("train", "validation")]
    assert len(found[0]) // 2 + len(found[1]) == 12 and len(found[1]) >= 1
    assert "by a hash of their names" in found[0].about
    assert load("lafan1", "validation", path=tmp_path).names == found[1].names


def test_the_gait_is_there_for_everybody() -> None:
    train, validation = (load("gait", split) for split in ("train", "validation"))
    assert len(train) == 24 * 269 and len(validation) == 6 * 9 and train.shape == validation.shape == (32, 36)
    assert train.fingerprint == load("gait", "train").fingerprint
    frames = train.distinct[0]
    assert np.array_equal(train.peak, np.where(np.ptp(frames, 0) > 0, np.ptp(frames, 0), 1)) and train.peak[2] > 0.5
    shared = {row.tobytes() for row in train.distinct[0]} & {row.tobytes() for row in validation.distinct[0]}
    assert not shared


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no clip"),
        (("walk",), "a split needs at least 2 clips, got 1, one: add clips to train on"),
        (HELD_OUT[:2], "at least 2 clips, got 2, all of them held out for validation: add clips to train on"),
    ],
)
def test_folders_without_a_split_are_told(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("lafan1", "train", path=write(tmp_path, names))


def test_a_path_is_wanted_and_unwanted() -> None:
    with pytest.raises(ValueError, match="'lafan1' needs a path: pass a folder of clips with --data.path"):
        load("lafan1", "train")
    with pytest.raises(ValueError, match="gait is embedded and takes no path"):
        load("gait", "train", path="x")


def test_constant_features_are_not_scaled_up() -> None:
    """What varies less than 1e-5 keeps its unit: it costs nothing, as if it were dropped."""
    train = load("gait", "train")
    mean, deviation = statistics(train.distinct, least_variance=train.least_variance)
    frames = train.distinct[0].astype(np.float64)
    constant = frames.var(0) < LEAST_VARIANCE
    assert 0 < constant.sum() < 20 and train.least_variance == 1e-5
    np.testing.assert_allclose(deviation.numpy(), np.where(constant, 1, frames.std(0)), rtol=1e-5)
    np.testing.assert_allclose(mean.numpy(), frames.mean(0), atol=1e-6)


# -- real data -------------------------------------------------------------------------------------


@pytest.fixture
def lafan1(real_data: Path) -> Path:
    folder = real_data / "lafan1_g1"
    if not folder.is_dir():
        pytest.skip("no LAFAN1 among the real data")
    return folder


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["walk1_subject1", "dance2_subject4", "fallAndGetUp2_subject3", "jumps1_subject2"])
def test_real_clips_survive_the_features(lafan1: Path, name: str) -> None:
    """Within 1e-4 over every window, in the model's precision; two of these clips are nearly upside down at times."""
    poses = torch.from_numpy(read_clip(lafan1 / f"{name}.csv.xz"))
    cut = poses.unfold(0, 32, 7).transpose(1, 2)
    back = feature_poses(pose_features(cut).float(), pose_start(cut[:, 0]).float()).double()
    signs = (back[..., 3:7] * cut[..., 3:7]).sum(-1).sign()
    assert (signs == signs[:, :1]).all()
    back[..., 3:7] *= signs[:, :1, None]
    assert (back - cut).abs().max() < 1e-4


@pytest.mark.realdata
def test_real_validation_is_the_papers(lafan1: Path) -> None:
    validation = load("lafan1", "validation", path=lafan1)
    assert validation.names is not None
    assert {name.partition(":")[0] for name in validation.names} == set(HELD_OUT)
    frames = [6771, 7347, 7345, 7146]
    assert len(validation) == sum(count // 32 for count in frames)
    assert np.isfinite(validation[:]).all() and (validation.distinct.var((0, 1)) > LEAST_VARIANCE).all()


@pytest.mark.realdata
def test_real_positions_are_mujocos(real_data: Path, lafan1: Path) -> None:
    path = real_data / "unitree_g1_mjcf" / "g1.xml"
    if not path.is_file():
        pytest.skip("no model of the G1 among the real data")
    robot = Kinematics.from_mjcf(path)
    assert robot.joints == G1_JOINTS and len(robot.bodies) == 30
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_path(str(path))
    data, poses = mujoco.MjData(model), read_clip(lafan1 / "dance2_subject4.csv.xz")[::200]
    places = []
    for row in poses:
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        places.append(data.xpos[1:].copy())
    np.testing.assert_allclose(robot.positions(torch.from_numpy(poses)).numpy(), places, atol=1e-12)
    np.testing.assert_allclose(robot.positions(torch.from_numpy(poses).float()).numpy(), places, atol=1e-5)
