"""Files of LocoMujoco and its environment: MuJoCo is the oracle, a stick figure with its G1's joints the stand-in."""

import dataclasses
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from daps.data.clips import read_clip, write_clip
from daps.data.gait import gait
from daps.motion import G1_JOINTS, ROOT
from daps.robot import locomujoco
from daps.robot.locomujoco import (
    LocoPolicy,
    driven_joints,
    export_trajectory,
    imitate,
    import_trajectory,
    mimic_reward,
    servo_gains,
)
from daps.robot.model import build
from daps.robot.reference import References
from daps.robot.tracker import Tracker, TrackerConfig
from daps.robot.world import State
from robot.stick import write_stick

LACKED = ["waist_roll_joint", "waist_pitch_joint", *(j for j in G1_JOINTS if "wrist_pitch" in j or "wrist_yaw" in j)]
LEFT = [joint for joint in G1_JOINTS if joint not in LACKED]  # the 23 of LocoMujoco's G1
KNOWN = {"joint_names", "frequency", "njnt", "jnt_type", "qpos", "qvel", "split_points"}  # some of those it accepts


def clips() -> dict[str, torch.Tensor]:
    return {"walk, slow": torch.from_numpy(gait(0, 40)), "walk/2": torch.from_numpy(gait(1, 61))}


def stick(folder: Path, lacked: list[str], ranges: bool = True) -> mujoco.MjModel:
    """As LocoMujoco's G1: torque motors with names of their own, in another order than the joints; a root."""
    spec = mujoco.MjSpec.from_file(str(write_stick(folder)))
    spec.joint("floating_base_joint").name = "root"
    for name in lacked:
        spec.delete(spec.joint(name))
    for row, name in enumerate(joint for joint in reversed(G1_JOINTS) if joint not in lacked):
        spec.joint(name).limited = ranges
        spec.joint(name).range = [-1.0 - 0.05 * row, 1.5]
        spec.add_actuator(name=f"motor {row}", target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    return spec.compile()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mujoco.MjModel:
    return stick(tmp_path_factory.mktemp("stick"), LACKED)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    export_trajectory(tmp_path / "walks.npz", clips())
    return tmp_path / "walks.npz"


def changed(file: Path, **arrays: Any) -> Path:
    """The file with some arrays replaced, or left out where None; without names."""
    with np.load(file) as held:
        every = {**held, **arrays}
    np.savez(file, **{key: value for key, value in every.items() if value is not None})
    return file


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_as_locomujoco_wants_it(file: Path, tmp_path: Path) -> None:
    with np.load(file, allow_pickle=False) as held:
        arrays = dict(held)
    assert set(arrays) == KNOWN and arrays["frequency"] == 50
    assert arrays["split_points"].tolist() == [0, 66, 167] and len(arrays["qpos"]) == 167
    assert arrays["joint_names"].tolist() == ["root", *G1_JOINTS]
    model = build(write_stick(tmp_path))
    assert arrays["jnt_type"].tolist() == model.jnt_type.tolist() and arrays["njnt"] == model.njnt == 30
    qpos, qvel = arrays["qpos"].astype(np.float64), arrays["qvel"]
    np.testing.assert_allclose(qpos[66::5], clips()["walk/2"][::3], atol=1e-6)  # frames that both rates have
    expected = np.zeros(model.nv)
    for frame in (*range(1, 65), *range(67, 166)):
        mujoco.mj_differentiatePos(model, expected, 2 / 50, qpos[frame - 1], qpos[frame + 1])
        np.testing.assert_allclose(qvel[frame], expected, atol=1e-4)  # float32 / 0.04 s
    for first, after, frame in ((0, 1, 0), (64, 65, 65), (66, 67, 66), (165, 166, 166)):  # no step over a border
        mujoco.mj_differentiatePos(model, expected, 1 / 50, qpos[first], qpos[after])
        np.testing.assert_allclose(qvel[frame], expected, atol=1e-4)


def test_motion_comes_back_with_its_names(file: Path) -> None:
    found = import_trajectory(file)
    assert list(found) == list(clips()) and [len(poses) for poses in found.values()] == [40, 61]
    for name, poses in clips().items():
        signs = torch.sign((found[name][:, 3:ROOT] * poses[:, 3:ROOT]).sum(-1, keepdim=True))
        found[name][:, 3:ROOT] *= signs
        torch.testing.assert_close(found[name][::3], poses[::3], rtol=0, atol=1e-6)
        assert (found[name] - poses).abs().max() < 2e-3  # frames that are interpolated twice, 30 -> 50 -> 30
    export_trajectory(file, clips(), rate=60.0)
    for name, poses in import_trajectory(file).items():
        torch.testing.assert_close(poses, clips()[name], rtol=0, atol=1e-6)  # float32 of metres
    export_trajectory(file, {"one": clips()["walk/2"]}, rate=30.0)
    torch.testing.assert_close(import_trajectory(file)["one"], clips()["walk/2"], rtol=0, atol=1e-6)


def test_joints_are_found_by_name_and_missing_ones_are_zero(file: Path) -> None:
    """Another order, no suffix, a finger before the root, another root's name, pickled None, no split points."""
    with np.load(file) as held:
        qpos = held["qpos"][:66]
    order = LEFT[::-1]
    columns = [ROOT + G1_JOINTS.index(joint) for joint in order]
    finger = np.full((66, 1), 9.0, dtype=np.float32)
    names = ["left_thumb", "pelvis_free", *(joint.removesuffix("_joint") for joint in order)]
    changed(file, qpos=np.concatenate((finger, qpos[:, :ROOT], qpos[:, columns]), 1), joint_names=np.array(names),
            jnt_type=np.array([3, 0] + [3] * len(order)), split_points=None, metadata=np.array(None))  # fmt: skip
    found = import_trajectory(file)["walks"]
    expected = clips()["walk, slow"][::3]
    lacked = [ROOT + G1_JOINTS.index(joint) for joint in LACKED]
    assert found[:, lacked].abs().max() == 0
    left = [*range(3), *(ROOT + G1_JOINTS.index(joint) for joint in LEFT)]
    torch.testing.assert_close(found[::3, left], expected[:, left], rtol=0, atol=1e-6)
    torch.testing.assert_close((found[::3, 3:ROOT] * expected[:, 3:ROOT]).sum(-1).abs(), torch.ones(14).double())


def test_clips_without_names_are_numbered(file: Path) -> None:
    assert list(import_trajectory(changed(file))) == ["walks_0", "walks_1"]
    many = {f"{i:05d} {'long' * 40}": torch.from_numpy(gait(0, 3)) for i in range(450)}  # more than a comment holds
    export_trajectory(file, many, rate=30.0)
    assert list(import_trajectory(file))[99] == "walks_099"
    with zipfile.ZipFile(changed(file, qpos=clips()["walk/2"].numpy(), split_points=np.array([0, 61])), "a") as archive:
        archive.comment = b'{"no": "list"}'
    assert list(import_trajectory(file)) == ["walks"]


H1 = ["root", "left_hip_yaw", "left_hip_roll", "left_hip_pitch", "left_knee", "left_ankle", *map(str, range(24))]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"qpos": None}, "no qpos in it; pass a trajectory of LocoMujoco 1.0 or later"),
        ({"joint_names": np.array(None)}, "not readable as .npz"),
        ({"joint_names": np.array(H1)}, "no motion of the Unitree G1: lacks left_ankle_pitch_joint"),
        ({"jnt_type": np.array([3] * 7 + [3] * 29)}, "jnt_type must be a MuJoCo joint type for each of 30 names"),
        ({"jnt_type": np.array([1] * 5 + [3] * 25)}, "its joints fill 45 columns, but qpos has 36"),
        ({"jnt_type": np.array([3] * 30), "qpos": np.zeros((167, 30))}, "wants one free joint, the root, got 0"),
        ({"qpos": np.full((167, 36), np.nan)}, "poses must be finite, got NaN or infinite ones in 167 of 167 frames"),
        ({"qpos": np.ones((167, 36))}, "quaternions must have norm 1, got 2 to 2"),
        ({"qpos": np.zeros(36)}, r"qpos must be frames of real numbers \[S, Q\], got float64 \[36\]"),
        ({"frequency": np.float64(0)}, "frequency must be a number > 0, got 0.0"),
        ({"frequency": np.array("fast")}, "frequency must be a number > 0, got fast"),
        ({"split_points": np.array([0, 66, 160])}, "must rise from 0 to the 167 frames by 2 or more"),
        ({"split_points": np.array([0, 1, 167])}, r"by 2 or more, got \[0, 1, 167\]"),
        ({"split_points": np.array([0.0, 167.0])}, "split_points must rise"),
    ],
)
def test_wrong_files_are_told(file: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        import_trajectory(changed(file, **arrays))
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_what_is_no_file_of_locomujoco_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        import_trajectory(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match=r"text.npz: not readable as .npz \(File is not a zip file\)"):
        import_trajectory(tmp_path / "text.npz")
    for path, motion, rate, message in (
        ("walk.npy", clips(), 50.0, "ends in .npz"),
        ("walk.npz", {}, 50.0, "no clips to export"),
        ("walk.npz", {"h1": torch.zeros(40, 26)}, 50.0, "h1: wants poses of 36 numbers, got 26"),
        ("walk.npz", {"walk": clips()["walk/2"][:1]}, 50.0, "needs at least 2 frames, got 1"),
        ("walk.npz", {"walk": clips()["walk/2"][:3]}, 2.0, "rate: 2 leaves 1 frame of walk"),
        ("walk.npz", clips(), float("nan"), "rate: must be > 0, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            export_trajectory(tmp_path / path, motion, rate)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["text.npz"]  # nothing half written


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("walk1", "walk2", "run1")):
        write_clip(tmp_path / "clips" / f"{name}.csv", gait(seed, 40))
    file, back = str(tmp_path / "out" / "walks.npz"), tmp_path / "back"
    locomujoco.run_export([str(tmp_path / "clips"), file, "--only", "walk", "--rate", "60"])
    locomujoco.run_import([file, str(back)])
    shown = capsys.readouterr().out
    assert "2 clips; in LocoMujoco: Trajectory.load" in shown and "back: 2 clips, 2.7 s" in shown
    assert sorted(path.name for path in back.iterdir()) == ["walk1.csv", "walk2.csv"]
    np.testing.assert_allclose(read_clip(back / "walk2.csv"), read_clip(tmp_path / "clips" / "walk2.csv"), atol=3e-6)
    with pytest.raises(ValueError, match=r"only: no clip 'wlak1' in .*did you mean walk1"):
        locomujoco.run_export([str(tmp_path / "clips"), file, "--only", "wlak1"])
    with pytest.raises(ValueError, match=r"walk1.csv is already there"):
        locomujoco.run_import([file, str(back)])


# -- the environment -------------------------------------------------------------------------------


def decoded(model: mujoco.MjModel, action: NDArray[np.float64]) -> dict[str, float]:
    """Joint -> target angle, as LocoMujoco's PDControl takes actions: deviations from qpos0, scaled to the ranges."""
    targets = {}
    for row, value in enumerate(action):
        joint = model.joint(model.actuator(row).trnid[0])
        nominal = model.qpos0[joint.qposadr[0]]
        high, low = joint.range[1] - nominal, joint.range[0] - nominal
        targets[joint.name] = float(nominal + value * (high - low) / 2 + (high + low) / 2)
    return targets


def still_tracker() -> Tracker:
    """One whose targets are the angles of the next frame."""
    tracker = Tracker(29, TrackerConfig(hidden=(8,), lookahead=(1, 4)))
    last = tracker.net[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return tracker


def test_targets_reach_the_motors_of_the_right_joints(model: mujoco.MjModel) -> None:
    references = References.of(clips())
    policy = LocoPolicy(still_tracker(), references, model)
    targets = decoded(model, policy.act(mujoco.MjData(model), 1, 30))
    assert sorted(targets) == sorted(LEFT)
    frame = references.poses[66 + 31]
    for joint, angle in targets.items():
        assert angle == pytest.approx(float(frame[ROOT + G1_JOINTS.index(joint)]), abs=1e-6)


def test_targets_out_of_reach_stay_there(model: mujoco.MjModel) -> None:
    far = {name: poses.clone() for name, poses in clips().items()}
    for poses in far.values():
        poses[:, ROOT:] = 3.0
    action = LocoPolicy(still_tracker(), References.of(far), model).act(mujoco.MjData(model), 1, 30)
    assert action.min() > 1
    assert list(decoded(model, action).values()) == pytest.approx([3.0] * len(LEFT), abs=1e-6)


def test_the_robot_is_felt_by_the_names_of_its_joints(model: mujoco.MjModel) -> None:
    policy = LocoPolicy(still_tracker(), References.of(clips()), model)
    data = mujoco.MjData(model)
    generator = np.random.default_rng(0)
    data.qpos[:], data.qvel[:] = generator.normal(size=model.nq), generator.normal(size=model.nv)
    state = policy.state(data)
    assert state.pose.shape == (1, 36) and state.velocity.shape == (1, 35)
    np.testing.assert_allclose(state.pose[0, :ROOT], data.joint("root").qpos, rtol=1e-6)
    np.testing.assert_allclose(state.velocity[0, :6], data.joint("root").qvel, rtol=1e-6)
    for place, joint in enumerate(G1_JOINTS):
        angle, speed = (0, 0) if joint in LACKED else (data.joint(joint).qpos[0], data.joint(joint).qvel[0])
        assert float(state.pose[0, ROOT + place]) == pytest.approx(angle, rel=1e-6)
        assert float(state.velocity[0, 6 + place]) == pytest.approx(speed, rel=1e-6)


def test_references_begin_at_the_origin_and_ask_for_no_joint_that_is_not_there(model: mujoco.MjModel) -> None:
    motion = {name: poses.clone() for name, poses in clips().items()}
    for poses in motion.values():
        poses[:, ROOT:] += torch.linspace(0.1, 0.4, len(poses)).unsqueeze(-1)
        poses[:, :2] += torch.tensor([3.0, -2.0])
    references = References.of(motion)
    fitted = LocoPolicy(still_tracker(), references, model).references
    assert fitted.poses[[0, 66], :2].abs().max() == 0
    torch.testing.assert_close(fitted.poses[66:, :2].diff(dim=0), references.poses[66:, :2].diff(dim=0))
    lacked = torch.tensor([G1_JOINTS.index(joint) for joint in LACKED])
    left = torch.tensor([G1_JOINTS.index(joint) for joint in LEFT])
    assert fitted.poses[:, ROOT + lacked].abs().max() == 0 and fitted.velocities[:, 6 + lacked].abs().max() == 0
    torch.testing.assert_close(fitted.poses[:, ROOT + left], references.poses[:, ROOT + left])
    torch.testing.assert_close(fitted.velocities[:, 6 + left], references.velocities[:, 6 + left])
    assert references.poses[:, ROOT + lacked].min() > 0  # those given are as they were


def test_on_all_joints_it_is_the_tracker(tmp_path: Path) -> None:
    """The stick figure with 29 joints: what the adapter asks for is what the tracker says itself."""
    model = stick(tmp_path, [])
    torch.manual_seed(0)
    tracker = Tracker(29, TrackerConfig(hidden=(16,), lookahead=(1, 8)))
    references = References.of(clips())
    policy = LocoPolicy(tracker, references, model)
    data = mujoco.MjData(model)
    data.qpos[:] = policy.references.poses[20].numpy() + 0.01
    state = State(torch.from_numpy(data.qpos).float()[None], torch.zeros(1, 35))
    shifted = dataclasses.replace(references, poses=references.poses.clone())
    shifted.poses[:66, :2] -= references.poses[0, :2]
    with torch.no_grad():
        expected = tracker(state, tracker.goals(shifted, torch.tensor([0]), torch.tensor([20])))[0]
    for joint, angle in decoded(model, policy.act(data, 0, 20)).items():
        assert angle == pytest.approx(float(expected[G1_JOINTS.index(joint)]), abs=1e-5)


def test_servos_are_those_of_our_model(tmp_path: Path) -> None:
    model = build(write_stick(tmp_path))
    data, generator = mujoco.MjData(model), np.random.default_rng(0)
    data.qpos[ROOT:], data.qvel[6:] = generator.normal(size=29) * 0.05, generator.normal(size=29) * 0.1
    data.ctrl[:] = generator.normal(size=29) * 0.05
    mujoco.mj_forward(model, data)
    gains = servo_gains(model)
    torque = gains["p_gain"] * (data.ctrl - data.qpos[ROOT:]) - gains["d_gain"] * data.qvel[6:]
    assert np.abs(torque).min() > 1e-3
    np.testing.assert_allclose(data.actuator_force, torque, rtol=1e-9)


class FakeEnv:
    """LocoMujoco's face, as far as it is used; the robot falls at a frame of clip 1."""

    def __init__(self, model: mujoco.MjModel, lengths: list[int], fall: int) -> None:
        self.model, self.data, self.fall = model, mujoco.MjData(model), fall
        self.th = SimpleNamespace(
            n_trajectories=len(lengths), len_trajectory=lambda clip: np.int32(lengths[clip]), fixed_start_conf=None
        )
        self.actions: list[tuple[int, int, NDArray[np.float64]]] = []

    def reset(self) -> NDArray[np.float64]:
        self.clip, self.frame = self.th.fixed_start_conf
        return np.zeros(3)

    def step(self, action: NDArray[np.float64]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, Any]]:
        self.actions.append((self.clip, self.frame, action))
        self.frame += 1
        fallen = self.clip == 1 and self.frame == self.fall
        done = fallen or self.frame == self.th.len_trajectory(self.clip) - 1
        return np.zeros(3), np.float64(1.6 if self.clip == 0 else 0.5), fallen, done, {}


def test_mimic_reward_counts_what_a_fall_takes_away(model: mujoco.MjModel) -> None:
    policy = LocoPolicy(still_tracker(), References.of(clips()), model)
    env = FakeEnv(model, [66, 101], fall=20)
    assert mimic_reward(env, policy, 50) == pytest.approx((50 * 1.6 + 20 * 0.5) / 100)
    assert [step[:2] for step in env.actions] == [*((0, i) for i in range(50)), *((1, i) for i in range(20))]
    for clip, frame, action in env.actions[::7]:
        np.testing.assert_array_equal(action, policy.act(env.data, clip, frame))
    assert mimic_reward(FakeEnv(model, [66, 101], fall=-1), policy) == pytest.approx((65 * 1.6 + 100 * 0.5) / 165)
    first, second = imitate(FakeEnv(model, [66, 101], fall=20), policy, 50)
    assert (first.reward, first.kept, first.steps) == (pytest.approx(1.6), 1.0, 50)
    assert (second.reward, second.kept) == (pytest.approx(0.2), 0.4)
    with pytest.raises(ValueError, match=r"env: has clips of \[66\] frames, the policy follows \[66, 101\]"):
        mimic_reward(FakeEnv(model, [66], fall=-1), policy)
    with pytest.raises(ValueError, match="steps: must be >= 1, got 0"):
        mimic_reward(env, policy, 0)


def test_other_robots_are_told(tmp_path: Path, model: mujoco.MjModel) -> None:
    references = References.of(clips())
    pole = "<mujoco><worldbody><body><joint name='pole'/><geom size='1'/></body></worldbody>{}</mujoco>"
    for other, message in (
        (mujoco.MjModel.from_xml_string(pole.format("")), "no Unitree G1: lacks left_hip_pitch_joint"),
        (stick(tmp_path, LACKED, ranges=False), "joints with motors need ranges"),
        (mujoco.MjSpec.from_file(str(write_stick(tmp_path))).compile(), "got no motors; take LocoMujoco's UnitreeG1"),
    ):
        with pytest.raises(ValueError, match=message):
            LocoPolicy(still_tracker(), references, other)
    motor = "<actuator><motor joint='pole'/></actuator>"
    with pytest.raises(ValueError, match="must turn joints of the Unitree G1, got pole"):
        servo_gains(mujoco.MjModel.from_xml_string(pole.format(motor)))


def test_without_locomujoco_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "loco_mujoco", None)
    with pytest.raises(ValueError, match=r"loco_mujoco: .*1\.0\.1.*jax==0\.7\.1"):
        locomujoco.imitation_env(clips())


# -- with LocoMujoco itself, where it is installed -------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_locomujoco_reads_the_file_and_we_read_its_own(file: Path, tmp_path: Path) -> None:
    trajectory = pytest.importorskip("loco_mujoco.trajectory").Trajectory.load(str(file))
    assert trajectory.info.joint_names == ["root", *G1_JOINTS] and trajectory.info.frequency == 50
    assert trajectory.data.n_trajectories == 2 and int(trajectory.data.len_trajectory(1)) == 101
    np.testing.assert_allclose(trajectory.data.qpos[66::5, :3], clips()["walk/2"][::3, :3], atol=1e-6)
    assert trajectory.info.joint_name2ind_qpos["right_wrist_yaw_joint"] == [35]
    trajectory.save(str(tmp_path / "theirs.npz"))
    found = import_trajectory(tmp_path / "theirs.npz")
    assert list(found) == ["theirs_0", "theirs_1"]
    torch.testing.assert_close(found["theirs_1"], import_trajectory(file)["walk/2"], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_tracker_runs_in_locomujoco() -> None:
    pytest.importorskip("loco_mujoco")
    env, references = locomujoco.imitation_env(clips()), References.of(clips())
    policy = LocoPolicy(still_tracker(), references, env.model)
    assert env.dt == pytest.approx(1 / 50)
    for clip in range(2):  # the robot is set where the reference is
        env.th.fixed_start_conf = (clip, 0)
        env.reset()
        state, row = policy.state(env.data), references.starts[clip]
        torch.testing.assert_close(state.pose[0], policy.references.poses[row], rtol=0, atol=1e-5)
        torch.testing.assert_close(state.velocity[0], policy.references.velocities[row], rtol=0, atol=1e-5)
        _, reward, _, done, _ = env.step(policy.act(env.data, clip, 0))
        assert not done and 0.8 < float(reward) <= 1.6
    still = np.zeros(23)
    followed, idle = mimic_reward(env, policy, 20), []
    env.th.fixed_start_conf = (1, 0)
    env.reset()
    for _ in range(20):
        idle.append(float(env.step(still)[1]))
    assert followed > np.mean(idle)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limited", [False, True])
def test_in_locomujoco_servos_take_targets_out_of_reach(limited: bool) -> None:
    pytest.importorskip("loco_mujoco")
    env, ankle = locomujoco.imitation_env({"walk": clips()["walk/2"]}, limited=limited), "left_ankle_roll_joint"
    angles, torques = [], []
    for reach in (1.0, 1.5):
        action = np.zeros(23)
        action[driven_joints(env.model).index(ankle)] = reach
        env.th.fixed_start_conf = (0, 0)
        env.reset()
        env.step(action)
        angles.append(float(env.data.joint(ankle).qpos[0]))
        torques.append(np.abs(env.data.ctrl).max())
    assert (angles[0] == angles[1]) is limited
    assert max(torques) <= 139  # what the robot's motors give, the strongest
