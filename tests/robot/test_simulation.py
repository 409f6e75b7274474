"""The model has the robot's motors and feet; the simulation is MuJoCo's own, many times."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

from daps.motion import G1_JOINTS
from daps.robot import model as robot_model
from daps.robot.model import MOTORS, build, find_mjcf, motor_of
from daps.robot.simulation import RATE, Simulation
from robot.stick import write_stick

STANDING = np.array([0, 0, 0.74, 1, 0, 0, 0] + [0] * 29, dtype=np.float64)


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stick(tmp_path_factory.mktemp("robot"))


def standing(stick: Path, count: int, light: bool = False, threads: int = 1) -> Simulation:
    simulation = Simulation(build(stick, light=light), count, threads)
    simulation.reset(np.arange(count), np.tile(STANDING, (count, 1)), np.zeros((count, 35)))
    return simulation


@pytest.mark.parametrize("light", [False, True])
def test_motors_are_servos_in_the_order_of_the_joints(stick: Path, light: bool) -> None:
    model = build(stick, light=light)
    assert (model.nq, model.nv, model.nu) == (36, 35, 29)
    for row, name in enumerate(G1_JOINTS):
        motor, joint = motor_of(name), model.joint(name)
        assert model.actuator_trnid[row, 0] == joint.id and joint.qposadr[0] == 7 + row
        assert model.dof_armature[joint.dofadr[0]] == motor.armature
        critical = 2 * np.sqrt(motor.stiffness * motor.armature)  # of a mass on a spring
        assert motor.damping == pytest.approx(2 * critical)
        assert model.actuator_forcerange[row].tolist() == [-motor.torque, motor.torque]
    assert len(MOTORS) == 16 and model.body_mass.sum() == pytest.approx(build(stick).body_mass.sum())


def test_the_light_twin_stands_on_eight_spheres_and_touches_nothing_else(stick: Path) -> None:
    full, light = build(stick), build(stick, light=True)
    spheres = [g for g in range(light.ngeom) if light.geom_type[g] == mujoco.mjtGeom.mjGEOM_SPHERE]
    assert len(spheres) == 8 and light.ngeom == 9 and light.nmesh == 0
    for g in spheres:  # at the corners of the box around the sole, and as low
        assert sorted(np.abs(light.geom_pos[g, :2]).round(3).tolist()) in ([0.04, 0.06], [0.04, 0.13])
        assert light.geom_pos[g, 2] - light.geom_size[g, 0] == pytest.approx(-0.04)
        assert not light.geom_contype[g] & light.geom_conaffinity[g]
    assert light.opt.timestep == 2 * full.opt.timestep
    np.testing.assert_allclose(light.body_inertia, full.body_inertia)


@pytest.mark.parametrize("light", [False, True])
def test_a_step_is_mujocos_own_steps_for_every_robot(stick: Path, light: bool) -> None:
    simulation = standing(stick, 3, light, threads=2)
    rng = np.random.default_rng(0)
    qpos, qvel = np.tile(STANDING, (3, 1)), 0.3 * rng.standard_normal((3, 35))
    qpos[:, 7:] = 0.2 * rng.standard_normal((3, 29))
    simulation.reset(np.arange(3), qpos, qvel)
    targets = 0.3 * rng.standard_normal((2, 3, 29))
    targets[1, 0] *= 100.0  # motors at their limits
    for target in targets:
        feedback = simulation.step(target)
    for row in range(3):
        data = mujoco.MjData(simulation.model)
        data.qpos, data.qvel = qpos[row], qvel[row]
        for target in targets:
            data.ctrl = target[row]
            torques, powers = [], []
            for _ in range(simulation.substeps):
                torques.append(exerted(simulation.model, data))
                powers.append(np.abs(torques[-1] * data.qvel[6:]).sum())
        np.testing.assert_allclose(simulation.qpos[row], data.qpos, atol=1e-6)
        np.testing.assert_allclose(simulation.qvel[row], data.qvel, atol=1e-4)
        np.testing.assert_allclose(feedback.torque[row], np.mean(torques, 0), atol=1e-3)
        assert feedback.power[row] == pytest.approx(np.mean(powers), rel=1e-4)
        assert np.abs(feedback.torque[row]).max() > 1
    simulation.close()


def exerted(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """A step of MuJoCo; the motors' torques by the law of motion: what moved the masses beside weight and contacts."""
    mujoco.mj_forward(model, data)
    others = data.qfrc_constraint + data.qfrc_passive - data.qfrc_bias
    here, before, total = mujoco.MjData(model), data.qvel.copy(), np.zeros(model.nv)
    mujoco.mj_copyData(here, model, data)
    mujoco.mj_step(model, data)
    mujoco.mj_mulM(model, here, total, (data.qvel - before) / model.opt.timestep)
    torques: np.ndarray = (total - others)[6:]
    return torques


def test_time_goes_by_at_the_control_rate(stick: Path) -> None:
    for light in (False, True):
        simulation = standing(stick, 1, light)
        assert simulation.substeps * simulation.model.opt.timestep == pytest.approx(1 / RATE)


def test_a_standing_robot_is_carried_by_its_feet(stick: Path) -> None:
    simulation = standing(stick, 2)
    for _ in range(25):
        feedback = simulation.step(np.zeros((2, 29)))
    weight = 9.81 * simulation.model.body_mass.sum()
    np.testing.assert_allclose(feedback.foot_force.sum(-1), weight, rtol=0.1)
    assert (np.abs(feedback.com_velocity) < 0.1).all() and (np.abs(simulation.qpos[:, 2] - 0.74) < 0.02).all()


@pytest.mark.parametrize(("side", "column"), [("left", 0), ("right", 1)])
def test_who_stands_on_one_foot_is_carried_by_that_one(stick: Path, side: str, column: int) -> None:
    simulation = standing(stick, 1)
    lifted = "right" if side == "left" else "left"
    for joint, angle in (("hip_pitch", -0.6), ("knee", 1.2), ("ankle_pitch", -0.6)):
        simulation.qpos[0, 7 + G1_JOINTS.index(f"{lifted}_{joint}_joint")] = angle
    force = np.sum([simulation.step(simulation.qpos[:, 7:].copy()).foot_force[0] for _ in range(3)], 0)
    assert force[column] > 10 and force[1 - column] == 0


def test_torque_never_passes_the_motors_limit(stick: Path) -> None:
    simulation = standing(stick, 1)
    feedback = simulation.step(np.full((1, 29), 50.0))
    limits = np.array([motor_of(name).torque for name in G1_JOINTS])
    assert (np.abs(feedback.torque) <= limits + 1e-6).all() and np.isclose(feedback.torque, limits).sum() > 15


def test_pushes_and_resets_move_the_robots_named(stick: Path) -> None:
    simulation = standing(stick, 3)
    simulation.push(np.array([1]), np.array([[0.5, 0.0, 0.0]]))
    assert simulation.qvel[:, 0].tolist() == [0.0, 0.5, 0.0]
    simulation.step(np.zeros((3, 29)))
    assert simulation.qpos[1, 0] > 0.005 and abs(simulation.qpos[0, 0]) < 1e-3
    simulation.reset(np.array([1]), STANDING[None], np.zeros((1, 35)))
    assert simulation.qpos[1, 0] == 0 and not simulation.qvel[1].any()


def test_what_is_refused(stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = standing(stick, 2)
    with pytest.raises(ValueError, match=r"targets: must be finite angles \[2, 29\], got \[2, 28\]"):
        simulation.step(np.zeros((2, 28)))
    with pytest.raises(ValueError, match=r"got \[2, 29\] with values that are not"):
        simulation.step(np.full((2, 29), np.nan))
    simulation.model.opt.timestep = 0.003
    with pytest.raises(ValueError, match="20 ms is no multiple of the model's time step of 3 ms"):
        Simulation(simulation.model, 1)
    with pytest.raises(ValueError, match="robot: no file nowhere.xml"):
        build("nowhere.xml")
    other = tmp_path / "other.xml"
    other.write_text(stick.read_text().replace("left_knee_joint", "left_joint"))
    with pytest.raises(ValueError, match="got 30 joints, without left_knee_joint; pass the model with 29"):
        build(other)
    other.write_text("<mujoco")
    with pytest.raises(ValueError, match="not readable as MJCF"):
        build(other)
    other.write_text(stick.read_text().replace('type="capsule"', 'contype="0" conaffinity="0" type="capsule"'))
    with pytest.raises(ValueError, match="has no shape to stand on"):
        build(other)
    monkeypatch.setattr(robot_model, "PACKAGED", Path("nowhere"))
    with pytest.raises(ValueError, match="no model of the Unitree G1 here; `pip install --no-deps mjlab` brings one"):
        find_mjcf()
