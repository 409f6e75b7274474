"""Forward kinematics: against MuJoCo where it is installed, and against matrices written out by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from builders import normal
from daps.kinematics import Kinematics

ARM = """<mujoco>
  <worldbody>
    <geom type="plane" size="1 1 1"/>
    <body name="base" pos="0 0 1"><freejoint/>
      <body name="upper" pos="0.1 0.2 0.3" quat="2 0 0 2">
        <joint name="shoulder" axis="0 3 4" pos="0.05 0 -0.02" range="-90 90"/>
        <body name="lower" pos="0 0 -0.4"><joint name="elbow" axis="0 1 0"/>
          <body name="hand" pos="0.1 0 -0.2" quat="0.6 0.8 0 0"/>
        </body>
      </body>
      <body name="head" pos="0 0 0.5"><joint name="neck"/><body name="hat" pos="0.1 0 0.1"/></body>
    </body>
  </worldbody>
</mujoco>"""


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    path = tmp_path / "arm.xml"
    path.write_text(ARM)
    return path


def poses(count: int, joints: int) -> torch.Tensor:
    quaternion = normal(count, 4)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.cat((normal(count, 3, seed=1), quaternion, normal(count, joints, seed=2)), -1)


def _heavy(body: re.Match[str]) -> str:
    """The body with a mass, without which MuJoCo compiles nothing."""
    mass = '<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>'
    return f"{body[1][:-2]}>{mass}</body>" if body[1].endswith("/>") else body[1] + mass


def by_mujoco(path: Path, qpos: torch.Tensor) -> np.ndarray:
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_path(str(path))
    data = mujoco.MjData(model)
    places = []
    for row in qpos.numpy():
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        places.append(data.xpos[1:].copy())
    return np.stack(places)


def test_positions_are_mujocos(arm: Path) -> None:
    qpos = poses(50, 3)
    arm.write_text(re.sub(r'(<body name="\w+"[^>/]*/?>)', _heavy, ARM))
    np.testing.assert_allclose(Kinematics.from_mjcf(arm).positions(qpos).numpy(), by_mujoco(arm, qpos), atol=1e-12)


def test_positions_are_those_of_homogeneous_matrices(arm: Path) -> None:
    def frame(place: tuple[float, ...], turn: Rotation) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn.as_matrix(), place
        return matrix

    def about(axis: tuple[float, ...], angle: float, anchor: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
        unit = np.array(axis) / np.linalg.norm(axis)
        there, back = frame(anchor, Rotation.identity()), frame(tuple(-np.array(anchor)), Rotation.identity())
        return there @ frame((0, 0, 0), Rotation.from_rotvec(angle * unit)) @ back

    still = Rotation.identity()
    for row in poses(5, 3).numpy():
        base = frame(row[:3], Rotation.from_quat(row[3:7], scalar_first=True))
        upper = base @ frame((0.1, 0.2, 0.3), Rotation.from_euler("z", 90, degrees=True))
        upper = upper @ about((0, 3, 4), row[7], (0.05, 0, -0.02))
        lower = upper @ frame((0, 0, -0.4), still) @ about((0, 1, 0), row[8])
        hand = lower @ frame((0.1, 0, -0.2), still)
        head = base @ frame((0, 0, 0.5), still) @ about((0, 0, 1), row[9])
        hat = head @ frame((0.1, 0, 0.1), still)
        expected = [matrix[:3, 3] for matrix in (base, upper, lower, hand, head, hat)]
        got = Kinematics.from_mjcf(arm).positions(torch.from_numpy(row))
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_names_are_in_the_order_of_a_pose(arm: Path) -> None:
    robot = Kinematics.from_mjcf(str(arm))
    assert robot.joints == ("shoulder", "elbow", "neck")
    assert robot.bodies == ("base", "upper", "lower", "hand", "head", "hat")


def test_positions_have_gradients_and_any_batch(arm: Path) -> None:
    robot = Kinematics.from_mjcf(arm)
    assert robot.positions(poses(6, 3).view(2, 3, 10)).shape == (2, 3, 6, 3)
    assert torch.autograd.gradcheck(robot.positions, (poses(2, 3).requires_grad_(),))


def test_a_free_joint_may_be_written_as_a_joint(arm: Path) -> None:
    first = Kinematics.from_mjcf(arm)
    arm.write_text(ARM.replace("<freejoint/>", '<joint name="root" type="free"/>'))
    assert Kinematics.from_mjcf(arm) == first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<mujoco>", "<mujoco", "not readable as MJCF"),
        ("mujoco>", "robot>", "MJCF begins with <mujoco>, got <robot>"),
        ("<freejoint/>", "", "exactly one body with a free joint in the world, got 0"),
        ('<body name="head"', '<body name="head" euler="0 0 1"', "body head has euler, which is not read"),
        ('name="neck"', 'name="neck" type="slide"', "body head has slide, which is not read"),
        ('<joint name="neck"/>', '<joint name="neck"/><joint name="nod"/>', "body head has several joints, or a ref"),
        ('name="neck"', 'name="neck" ref="0.5"', "body head has several joints, or a ref"),
        ('axis="0 1 0"', 'axis="0 1"', "axis must be 3 numbers, got"),
        ('axis="0 1 0"', 'axis="0 0 0"', "length 0 turns nothing"),
        ('axis="0 1 0"', 'axis="0 one 0"', "could not convert string to float"),
        ("<worldbody>", '<default><joint axis="1 0 0"/></default><worldbody>', "holds default//joint.@axis"),
        ("<worldbody>", '<worldbody><include file="x.xml"/>', "holds include, which is not read"),
        ("<worldbody>", '<worldbody><frame pos="0 0 1"/>', "holds frame, which is not read"),
    ],
)
def test_what_is_not_understood_is_told(arm: Path, old: str, new: str, message: str) -> None:
    assert old in ARM
    arm.write_text(ARM.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        Kinematics.from_mjcf(arm)
    assert str(arm) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_other_poses_are_told(arm: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not readable as MJCF .*pass the .xml file"):
        Kinematics.from_mjcf(tmp_path)
    with pytest.raises(ValueError, match="3 joints, so poses have 10 numbers, got 36"):
        Kinematics.from_mjcf(arm).positions(torch.zeros(2, 36))
