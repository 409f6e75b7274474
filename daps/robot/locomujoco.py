"""Motion for LocoMujoco (Al-Hafez et al., 2023) and back, and the tracker in its environment of the Unitree G1.

Its trajectories are .npz files:

    qpos [S, Q], qvel [S, V]       all frames, one clip after the other, in MuJoCo's conventions
    split_points [C + 1]           where clips begin; the last is S
    joint_names, jnt_type, njnt    of qpos in order; the free joint is called root
    frequency                      frames per second

LocoMujoco leaves out joints that its model lacks and sets those to zero that a file lacks. MimicReward also wants the
places of bodies and sites: `imitation_env` has them computed. LocoMujoco refuses keys that it does not know, and
joins only trajectories of the same `metadata`: the names of the clips are kept in the comment of the zip archive.

Only `imitation_env` needs LocoMujoco: version 1.0.1 from its repository, in an environment of its own, since it wants
mujoco 3.2.7 and numpy 1, older than what daps asks for; this file runs with those as well.
"""

import dataclasses
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import mujoco
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tyro.conf import Positional, arg

from daps.atomic import replacing
from daps.data.clips import find_clips, write_clips
from daps.data.dataset import one_line
from daps.motion import FPS, G1_JOINTS, POSE, ROOT
from daps.options import parse
from daps.robot.material import read_clips
from daps.robot.model import motor_of
from daps.robot.reference import References, resampled, velocities
from daps.robot.simulation import RATE
from daps.robot.tracker import Tracker
from daps.robot.world import State
from daps.suggest import did_you_mean

FREE, HINGE = int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_HINGE)
WIDTHS = {FREE: ROOT, int(mujoco.mjtJoint.mjJNT_BALL): 4, int(mujoco.mjtJoint.mjJNT_SLIDE): 1, HINGE: 1}  # in qpos
NEEDED = G1_JOINTS[:13]  # legs and waist_yaw: every G1 has them together, and no other robot of LocoMujoco
KEYS = ("qpos", "joint_names", "jnt_type", "frequency")
COMMENT = 65535  # bytes that a zip archive has for it
TIMING = {
    "timestep": 0.002,
    "n_substeps": 10,
}  # a control step of 1 / RATE; its servos are explicit and need short ones
# Of the terms of MimicReward, as LocoMujoco's example of imitation has them; rvel counts twice, for turns and for ways.
WEIGHTS = {"qpos_w_sum": 0.4, "qvel_w_sum": 0.2, "rpos_w_sum": 0.5, "rquat_w_sum": 0.3, "rvel_w_sum": 0.1}


def export_trajectory(path: Path, clips: Mapping[str, Float[Tensor, "F P"]], rate: float = float(RATE)) -> None:
    """Writes clips into one file that LocoMujoco's Trajectory.load reads; complete or not there.

    Args:
        path: ends in .npz.
        clips: poses by name, 30 frames per second.
        rate: frames per second in the file; LocoMujoco interpolates where its environment has others. Import brings
            back every frame at multiples of 30; at 50 two of three are interpolated twice.

    Raises:
        ValueError: no clip, one that is too short, poses of another robot, no rate, another ending.
    """
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path}: a file of LocoMujoco ends in .npz; rename it")
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate: must be > 0, got {rate:g}; {RATE} are the tracker's")
    if not clips:
        raise ValueError("motion: no clips to export; give a folder that has some")
    poses: list[Tensor] = []
    for name, clip in clips.items():
        if clip.shape[-1] != POSE:
            raise ValueError(f"{name}: wants poses of {POSE} numbers, got {clip.shape[-1]}; take clips of the G1")
        poses.append(resampled(clip.double(), rate))
        if len(poses[-1]) < 2:
            raise ValueError(f"rate: {rate:g} leaves {len(poses[-1])} frame of {name}; raise it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        np.savez(
            stream,
            qpos=torch.cat(poses).float().numpy(),
            qvel=torch.cat([velocities(clip, rate) for clip in poses]).float().numpy(),
            split_points=np.cumsum([0, *map(len, poses)]),
            joint_names=np.array(["root", *G1_JOINTS]),
            jnt_type=np.array([FREE] + [HINGE] * len(G1_JOINTS), dtype=np.int32),
            njnt=np.int32(1 + len(G1_JOINTS)),
            frequency=np.float64(rate),
        )
        names = json.dumps(list(clips)).encode()
        if len(names) <= COMMENT:
            with zipfile.ZipFile(stream, "a") as archive:
                archive.comment = names


def import_trajectory(path: Path) -> dict[str, Float[Tensor, "F P"]]:
    """Clips of a file of LocoMujoco: poses by name, 30 frames per second, in our order of joints.

    Joints are found by name, with or without _joint at its end; those that the file lacks are zero, those that we lack
    (fingers, say) are left out. Clips without names get the file's, with numbers. Python objects in it stay unread.

    Raises:
        ValueError: not such a file, or not of the G1; values that are not finite; quaternions that are none.
    """
    arrays, names = _read(path)
    qpos, frequency = _finite(path, arrays)
    root, columns = _columns(
        path, arrays["joint_names"].astype(str).ravel().tolist(), arrays["jnt_type"].tolist(), qpos
    )
    poses = torch.zeros(len(qpos), POSE, dtype=torch.float64)
    poses[:, :ROOT] = qpos[:, root : root + ROOT]
    for joint, column in columns.items():
        poses[:, ROOT + G1_JOINTS.index(joint)] = qpos[:, column]
    norms = poses[:, 3:ROOT].norm(dim=-1, keepdim=True)
    if (norms - 1).abs().max() > 1e-2:
        raise ValueError(
            f"{path}: root's quaternions must have norm 1, got {norms.min():.4g} to {norms.max():.4g}; normalise them"
        )
    poses[:, 3:ROOT] /= norms
    points = _split_points(path, arrays, len(qpos))
    count = len(points) - 1
    if len(names) != count or len(set(names)) != count:
        digits = len(str(count - 1))
        names = [path.stem] if count == 1 else [f"{path.stem}_{row:0{digits}d}" for row in range(count)]
    parts = (poses[first:after] for first, after in zip(points, points[1:], strict=False))
    return {name: resampled(part, FPS, frequency) for name, part in zip(names, parts, strict=True)}


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays that matter, and the clips' names if it holds some."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; pass a .npz file of LocoMujoco")
    try:
        with zipfile.ZipFile(path) as archive:
            comment, held = archive.comment, {name.removesuffix(".npy") for name in archive.namelist()}
        wanted = [key for key in (*KEYS, "split_points") if key in held]
        with np.load(path, allow_pickle=False) as file:  # its own files hold pickled None where a field is empty
            arrays = {key: np.asarray(file[key]) for key in wanted}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not readable as .npz ({one_line(str(error))}); export it again") from None
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)} in it; pass a trajectory of LocoMujoco 1.0 or later")
    try:
        names = json.loads(comment)
    except ValueError:
        names = []
    return arrays, names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _finite(path: Path, arrays: Mapping[str, NDArray[Any]]) -> tuple[Tensor, float]:
    """qpos [S, Q] and the frequency, Hz."""
    qpos, frequency = arrays["qpos"], arrays["frequency"]
    if qpos.ndim != 2 or not len(qpos) or qpos.dtype.kind != "f":
        raise ValueError(f"{path}: qpos must be frames of real numbers [S, Q], got {qpos.dtype} {list(qpos.shape)}")
    if frequency.size != 1 or frequency.dtype.kind not in "fiu" or not 0 < float(frequency.item()) < float("inf"):
        raise ValueError(f"{path}: frequency must be a number > 0, got {one_line(str(frequency))}; set it")
    bad = ~np.isfinite(qpos).all(1)
    if bad.any():
        raise ValueError(
            f"{path}: poses must be finite, got NaN or infinite ones in {bad.sum()} of {len(bad)} frames, the first is "
            f"frame {int(bad.argmax())}; remove them"
        )
    return torch.from_numpy(qpos.astype(np.float64)), float(frequency.item())


def _columns(path: Path, names: list[str], types: Any, qpos: Tensor) -> tuple[int, dict[str, int]]:
    """First column of the root in qpos, and the column of each of our joints that is there."""
    if not isinstance(types, list) or len(types) != len(names) or not set(types) <= set(WIDTHS):
        raise ValueError(f"{path}: jnt_type must be a MuJoCo joint type for each of {len(names)} names, got {types}")
    ends = np.cumsum([WIDTHS[kind] for kind in types]).tolist()
    if not ends or ends[-1] != qpos.shape[1]:
        raise ValueError(f"{path}: its joints fill {ends[-1] if ends else 0} columns, but qpos has {qpos.shape[1]}")
    at = dict(zip(names, ends, strict=True))
    free = [name for name, kind in zip(names, types, strict=True) if kind == FREE]
    if len(free) != 1 and "root" not in free:
        raise ValueError(f"{path}: wants one free joint, the root, got {len(free)}; pass motion of a robot that moves")
    ours = {f"{name.removesuffix('_joint')}_joint": at[name] - 1 for name, kind in zip(names, types, strict=True)
            if kind == HINGE}  # fmt: skip
    missing = [name for name in NEEDED if name not in ours]
    if missing:
        raise ValueError(f"{path}: no motion of the Unitree G1: lacks {', '.join(missing[:3])}; retarget it first")
    return at["root" if "root" in free else free[0]] - ROOT, {n: ours[n] for n in G1_JOINTS if n in ours}


def _split_points(path: Path, arrays: Mapping[str, NDArray[Any]], frames: int) -> list[int]:
    """Where clips begin and the last one ends."""
    points = arrays.get("split_points", np.empty(0))
    found = points.tolist() if points.size else [0, frames]
    ints = all(isinstance(point, int) for point in found)
    if not ints or found[0] != 0 or found[-1] != frames or min(np.diff(found)) < 2:
        got = one_line(str(found))
        raise ValueError(f"{path}: split_points must rise from 0 to the {frames} frames by 2 or more, got {got}")
    return found


class LocoPolicy:
    """A tracker of 29 joints on a model with some of them, such as LocoMujoco's G1 with 23.

    Joints that the model lacks are rigid: the tracker feels them at angle 0 and is asked for no other. Actions are for
    LocoMujoco's PDControl with `servo_gains`, which computes torques in every step of the physics: -1 and 1 are the
    ends of a joint's range, and beyond them lie targets out of reach, which the tracker sets to push harder.
    (DefaultControl would hold a torque for a whole control step; stiff servos swing then.)

    Args:
        tracker: that follows.
        references: what it follows; as in the environment, every clip begins at x = y = 0.
        model: of the environment.

    Raises:
        ValueError: the model is no G1, or has motors of other joints, or joints without limits.
    """

    def __init__(self, tracker: Tracker, references: References, model: mujoco.MjModel) -> None:
        self.tracker = tracker
        names, types = [model.joint(row).name for row in range(model.njnt)], model.jnt_type.tolist()
        missing = [name for name in NEEDED if name not in names]
        if FREE not in types or missing:
            what = missing[0] if missing else "a free joint"
            raise ValueError(f"model: no Unitree G1: lacks {what}; take LocoMujoco's environment UnitreeG1")
        driven = driven_joints(model)
        free = names.index("root") if "root" in names else types.index(FREE)
        rows = [names.index(joint) for joint in G1_JOINTS if joint in names]
        ours = np.array([G1_JOINTS.index(names[row]) for row in rows])
        place, speed = int(model.jnt_qposadr[free]), int(model.jnt_dofadr[free])
        self._qpos = np.r_[place : place + ROOT, model.jnt_qposadr[rows]]
        self._qvel = np.r_[speed : speed + ROOT - 1, model.jnt_dofadr[rows]]
        self._pose, self._velocity = np.r_[:ROOT, ROOT + ours], np.r_[: ROOT - 1, ROOT - 1 + ours]
        self._driven = torch.tensor([G1_JOINTS.index(joint) for joint in driven])
        motors = [names.index(joint) for joint in driven]
        if not model.jnt_limited[motors].all():
            raise ValueError("model: joints with motors need ranges, which scale the actions; give the MJCF file some")
        self._low, self._high = model.jnt_range[motors].T
        self.references = self._reachable(references)

    def _reachable(self, references: References) -> References:
        """Clips from the origin, with joints that the model lacks at rest."""
        poses, speeds = torch.zeros_like(references.poses), torch.zeros_like(references.velocities)
        poses[:, self._pose] = references.poses[:, self._pose]
        speeds[:, self._velocity] = references.velocities[:, self._velocity]
        poses[:, :2] -= poses[references.starts, :2].repeat_interleave(references.lengths, 0)
        return dataclasses.replace(references, poses=poses, velocities=speeds)

    def state(self, data: mujoco.MjData) -> State:
        """Of the robot in the environment: poses [1, 36], velocities [1, 35]."""
        pose, velocity = torch.zeros(1, POSE), torch.zeros(1, POSE - 1)
        pose[0, self._pose] = torch.from_numpy(data.qpos[self._qpos]).float()
        velocity[0, self._velocity] = torch.from_numpy(data.qvel[self._qvel]).float()
        return State(pose, velocity)

    @torch.no_grad()
    def act(self, data: mujoco.MjData, clip: int, frame: int) -> NDArray[np.float64]:
        """The action, one number a motor, at a frame of a clip (50 per second)."""
        goals = self.tracker.goals(self.references, torch.tensor([clip]), torch.tensor([frame]))
        targets = self.tracker(self.state(data), goals)[0, self._driven].double().numpy()
        return 2 * (targets - self._low) / (self._high - self._low) - 1


def driven_joints(model: mujoco.MjModel) -> list[str]:
    """Of each motor, the joint that it turns.

    Raises:
        ValueError: one that the G1 does not have.
    """
    names: list[str] = [model.joint(row).name for row in model.actuator_trnid[:, 0]]
    strange = [name for name in names if name not in G1_JOINTS]
    if strange or not names:
        got = ", ".join(strange[:3]) or "no motors"
        raise ValueError(f"model: motors must turn joints of the Unitree G1, got {got}; take LocoMujoco's UnitreeG1")
    return names


def servo_gains(model: mujoco.MjModel) -> dict[str, NDArray[np.float64]]:
    """p_gain (N m / rad) and d_gain (N m s / rad) of each motor: parameters of PDControl."""
    motors = [motor_of(joint) for joint in driven_joints(model)]
    gains = [(motor.stiffness, motor.damping) for motor in motors]
    return dict(zip(("p_gain", "d_gain"), np.array(gains).T, strict=True))


def imitation_env(
    clips: Mapping[str, Float[Tensor, "F P"]], weights: Mapping[str, float] = WEIGHTS, *, limited: bool = False
) -> Any:
    """LocoMujoco's environment UnitreeG1 with clips to imitate, 50 control steps per second, servos as the tracker's.

    Args:
        clips: poses by name, 30 frames per second.
        weights: of MimicReward; those left out are LocoMujoco's own. By `WEIGHTS` a step without error is worth 1.6.
        limited: cut targets at the ends of joints' ranges, as PDControl of LocoMujoco does. Trackers learn with servos
            that take any target, so they lose runs this way. Ranges and torques of the robot stay in either case.

    Raises:
        ValueError: LocoMujoco is missing or does not work.
    """
    try:
        from loco_mujoco import LocoEnv  # type: ignore[import-not-found, unused-ignore]
        from loco_mujoco.smpl.retargeting import extend_motion  # type: ignore[import-not-found, unused-ignore]
        from loco_mujoco.trajectory import Trajectory  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ValueError(
            f"loco_mujoco: {one_line(str(error))}; clone github.com/robfiras/loco-mujoco, version 1.0.1, and "
            "`pip install -e loco-mujoco jax==0.7.1`: that on PyPI is not complete"
        ) from None
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for name, poses in clips.items():
            export_trajectory(Path(folder) / "clip.npz", {name: poses})
            clip = Trajectory.load(str(Path(folder) / "clip.npz"))
            parts.append(extend_motion("UnitreeG1", TIMING, clip))  # one by one: of several it repeats the first
    robot = LocoEnv.registered_envs["UnitreeG1"]
    env = robot(
        **TIMING,
        horizon=max(len(part.data.qpos) for part in parts),
        control_type="PDControl",
        control_params=servo_gains(mujoco.MjModel.from_xml_path(robot.get_default_xml_file_path())),
        reward_type="MimicReward",
        reward_params=dict(weights),
        init_state_type="TrajInitialStateHandler",
        terminal_state_type="RootPoseTrajTerminalStateHandler",
        th_params={"random_start": False, "fixed_start_conf": (0, 0)},
    )
    if not limited:
        env._control_func._jnt_ranges = np.array([[-np.inf, np.inf]])  # only where it cuts targets; no option for it
    env.load_trajectory(Trajectory.concatenate(parts), warn=False)
    return env


@dataclass(frozen=True)
class Imitation:
    """How a clip was followed in LocoMujoco's environment."""

    reward: float
    """MimicReward per control step; those that a fall takes away count, with 0."""
    kept: float
    """Share of the steps before the environment ended the episode."""
    steps: int


def mimic_reward(env: Any, policy: LocoPolicy, steps: int = 500) -> float:
    """LocoMujoco's MimicReward per control step: the mean over the steps of all clips, as of `imitate`."""
    trials = imitate(env, policy, steps)
    return sum(trial.reward * trial.steps for trial in trials) / sum(trial.steps for trial in trials)


def imitate(env: Any, policy: LocoPolicy, steps: int = 500) -> list[Imitation]:
    """Every clip once, from its first frame.

    Args:
        env: of `imitation_env`.
        policy: with references of the same clips.
        steps: of a clip, or fewer where it ends.

    Raises:
        ValueError: the environment has other clips.
    """
    if steps < 1:
        raise ValueError(f"steps: must be >= 1, got {steps}")
    lengths = [int(env.th.len_trajectory(clip)) for clip in range(env.th.n_trajectories)]
    if lengths != policy.references.lengths.tolist():
        raise ValueError(
            f"env: has clips of {lengths} frames, the policy follows {policy.references.lengths.tolist()}; "
            "make both of the same clips"
        )
    trials = []
    for clip, length in enumerate(lengths):
        env.th.fixed_start_conf = (clip, 0)
        env.reset()
        total, kept, planned = 0.0, 0, min(steps, length - 1)
        while kept < planned:
            _, reward, _, done, _ = env.step(policy.act(env.data, clip, kept))
            total, kept = total + float(reward), kept + 1
            if done:
                break
        trials.append(Imitation(total / planned, kept / planned, planned))
    return trials


@dataclass(frozen=True)
class ExportOptions:
    """Clips as one trajectory file of LocoMujoco."""

    clips: Annotated[Positional[Path], arg(metavar="CLIPS", help="Folder of clips, as of daps train lafan1.")]
    file: Annotated[Positional[Path], arg(metavar="FILE", help="To write; ends in .npz.")]
    only: tuple[str, ...] = ()
    """Names of clips, or beginnings of names; all if left out."""
    rate: float = float(RATE)
    """Frames per second."""


@dataclass(frozen=True)
class ImportOptions:
    """Clips from a trajectory file of LocoMujoco, a CSV file each."""

    file: Annotated[Positional[Path], arg(metavar="FILE", help="Trajectories of the Unitree G1, .npz.")]
    folder: Annotated[Positional[Path], arg(metavar="FOLDER", help="To write into.")]


def run_export(arguments: Sequence[str]) -> None:
    """daps robot export CLIPS FILE.npz [--only walk]."""
    options = parse(ExportOptions, arguments, "daps robot export")
    names = list(find_clips(options.clips))
    for word in options.only:
        if not any(name.startswith(word) for name in names):
            raise ValueError(f"only: no clip {word!r} in {options.clips}{did_you_mean(word, names)}")
    chosen = [name for name in names if not options.only or name.startswith(options.only)]
    export_trajectory(options.file, read_clips(options.clips, chosen), options.rate)
    print(f'{options.file}: {len(chosen)} clips; in LocoMujoco: Trajectory.load("{options.file}")')


def run_import(arguments: Sequence[str]) -> None:
    """daps robot import FILE.npz FOLDER."""
    options = parse(ImportOptions, arguments, "daps robot import")
    clips = import_trajectory(options.file)
    files = write_clips(options.folder, {name: poses.numpy() for name, poses in clips.items()})
    print(f"{options.folder}: {len(files)} clips, {sum(map(len, clips.values())) / FPS:.1f} s")
