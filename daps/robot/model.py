"""The Unitree G1 as MuJoCo simulates it: a public MJCF file, with motors, a floor and sensors put to it.

The file holds bodies, joints and shapes. Motors are position servos, as on the robot: torque = stiffness (target -
angle) - damping velocity, within the motor's limit. Stiffness and damping follow from the inertia of the rotor, so
that each joint alone would swing at 10 Hz, twice critically damped.
"""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from daps.motion import G1_JOINTS

PACKAGED = Path("asset_zoo") / "robots" / "unitree_g1" / "xmls" / "g1.xml"  # in the PyPI package mjlab
FEET = ("left_ankle_roll_link", "right_ankle_roll_link")
FREQUENCY = 2 * math.pi * 10  # of a servo's spring and the rotor alone, rad/s
DAMPING = 2.0  # in units of critical damping


@dataclass(frozen=True)
class Motor:
    """What drives a joint."""

    armature: float
    """Inertia of the rotor as the joint feels it, kg m^2."""
    torque: float
    """The most it gives, N m."""

    @property
    def stiffness(self) -> float:
        """N m / rad."""
        return self.armature * FREQUENCY**2

    @property
    def damping(self) -> float:
        """N m s / rad."""
        return 2 * DAMPING * self.armature * FREQUENCY


# Data of the G1's motors as its maker's models and public simulations have them.
MEDIUM, LARGE = Motor(0.010178, 88.0), Motor(0.025102, 139.0)
SMALL, PAIR, WRIST = Motor(0.003610, 25.0), Motor(0.007219, 50.0), Motor(0.004250, 5.0)
MOTORS = {
    "hip_pitch": MEDIUM,
    "hip_yaw": MEDIUM,
    "hip_roll": LARGE,
    "knee": LARGE,
    "ankle_pitch": PAIR,
    "ankle_roll": PAIR,
    "waist_yaw": MEDIUM,
    "waist_roll": PAIR,
    "waist_pitch": PAIR,
    "shoulder_pitch": SMALL,
    "shoulder_roll": SMALL,
    "shoulder_yaw": SMALL,
    "elbow": SMALL,
    "wrist_roll": SMALL,
    "wrist_pitch": WRIST,
    "wrist_yaw": WRIST,
}


SKY = {"name": "sky", "type": mujoco.mjtTexture.mjTEXTURE_SKYBOX, "builtin": mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
       "rgb1": [0.62, 0.72, 0.84], "rgb2": [0.93, 0.95, 0.97], "width": 256, "height": 256}  # fmt: skip
TILES = {"name": "tiles", "type": mujoco.mjtTexture.mjTEXTURE_2D, "builtin": mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
         "rgb1": [0.80, 0.82, 0.85], "rgb2": [0.70, 0.73, 0.77], "width": 256, "height": 256}  # fmt: skip


def motor_of(joint: str) -> Motor:
    """That of a joint, by its name without side."""
    return MOTORS[joint.removeprefix("left_").removeprefix("right_").removesuffix("_joint")]


def find_mjcf(path: str | Path | None = None) -> Path:
    """The G1's MJCF file: the one given, or that of the package mjlab, which is looked up but not imported.

    Raises:
        ValueError: neither is there.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"robot: no file {path}; pass the MJCF file of the Unitree G1 with 29 joints")
        return Path(path)
    found = importlib.util.find_spec("mjlab")
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / PACKAGED).is_file():
            return Path(place) / PACKAGED
    raise ValueError(
        "robot: no model of the Unitree G1 here; `pip install --no-deps mjlab` brings one, or pass an MJCF file"
    )


def build(path: str | Path | None = None, *, light: bool = False) -> mujoco.MjModel:
    """The robot on a floor, ready for simulation.

    Args:
        path: as for find_mjcf.
        light: four small spheres a foot touch the floor and nothing else touches anything, in steps of 10 ms: for
            training. Otherwise the shapes of the file collide as it says, in steps of 5 ms, and meshes are kept.

    Raises:
        ValueError: no file, unreadable, or not a G1 with 29 joints.
    """
    path = find_mjcf(path)
    try:
        spec = mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as MJCF ({str(error).splitlines()[0]})") from None
    missing = [name for name in G1_JOINTS if spec.joint(name) is None] + [f for f in FEET if spec.body(f) is None]
    if missing or len(spec.joints) != len(G1_JOINTS) + 1:
        raise ValueError(
            f"{path}: wants the 29 joints of the Unitree G1 and a free root, got {len(spec.joints)} joints"
            f"{', without ' + ', '.join(missing[:3]) if missing else ''}; pass the model with 29 degrees of freedom"
        )
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.timestep = 0.01 if light else 0.005
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05], friction=[1.0, 0.005, 0.0001]
    )
    if not light:
        _dress(spec)
    _add_motors(spec)
    for foot in FEET:
        _add_foot(spec.body(foot), light)
    if light:
        _strip(spec)
    _add_sensors(spec)
    return spec.compile()


def _add_motors(spec: mujoco.MjSpec) -> None:
    """One position servo a joint, in the order of the joints' angles."""
    for old in list(spec.actuators):
        spec.delete(old)
    for name in G1_JOINTS:
        motor = motor_of(name)
        spec.joint(name).armature = motor.armature
        spec.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            gainprm=[motor.stiffness] + [0.0] * 9,
            biasprm=[0.0, -motor.stiffness, -motor.damping] + [0.0] * 7,
            forcelimited=True,
            forcerange=[-motor.torque, motor.torque],
        )


def _add_foot(foot: mujoco.MjsBody, light: bool) -> None:
    """A volume that feels the floor; for `light`, spheres at the corners of the sole."""
    low, high = _sole(foot)
    middle, half = (low + high) / 2, (high - low) / 2
    foot.add_site(
        name=f"{foot.name}_sole", type=mujoco.mjtGeom.mjGEOM_BOX, pos=middle, size=half + 0.02, rgba=[0, 0, 0, 0]
    )
    for x in (low[0], high[0]) if light else ():
        for y in (low[1], high[1]):
            foot.add_geom(
                name=f"{foot.name}_{'heel' if x == low[0] else 'toe'}_{'right' if y == low[1] else 'left'}",
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                size=[0.005, 0, 0],
                pos=[x, y, low[2] + 0.005],
                contype=0,
                conaffinity=1,
                mass=0,
            )


def _sole(foot: mujoco.MjsBody) -> tuple[np.ndarray, np.ndarray]:
    """The box around a foot's colliding shapes, in its body's frame: lowest and highest corner, metres."""
    corners = []
    for geom in foot.geoms:
        if not (geom.contype or geom.conaffinity) or geom.type == mujoco.mjtGeom.mjGEOM_MESH:
            continue
        ends = np.array([geom.fromto[:3], geom.fromto[3:]]) if np.isfinite(geom.fromto[0]) else np.array([geom.pos])
        radius = geom.size[0] if np.isfinite(geom.fromto[0]) else np.asarray(geom.size)
        corners += [ends - radius, ends + radius]
    if not corners:
        raise ValueError(f"{foot.name}: has no shape to stand on; pass a model with capsules, spheres or boxes as feet")
    points = np.concatenate(corners)
    return points.min(0), points.max(0)


def _dress(spec: mujoco.MjSpec) -> None:
    """Sky, lights and a floor of tiles a metre wide."""
    spec.add_texture(**SKY)
    spec.add_texture(**TILES)
    material = spec.add_material(name="tiles", texrepeat=[0.5, 0.5], texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    spec.geom("floor").material = "tiles"
    spec.visual.headlight.ambient = [0.35, 0.35, 0.35]
    spec.visual.headlight.diffuse = [0.35, 0.35, 0.35]
    for light in list(spec.lights):
        spec.delete(light)
    spec.visual.quality.offsamples, spec.visual.quality.shadowsize = 0, 1024  # four times as fast without a GPU
    spec.visual.map.shadowclip = 4.0
    root = spec.joint(G1_JOINTS[0]).parent.parent
    root.add_light(name="sun", mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACK, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
                   pos=[-0.8, -1.2, 4.0], dir=[0.2, 0.3, -1.0], diffuse=[0.5, 0.5, 0.5])  # fmt: skip


def _strip(spec: mujoco.MjSpec) -> None:
    """Leaves the spheres of the feet and the floor; inertias are the bodies' own."""
    for geom in list(spec.geoms):
        if geom.name != "floor" and not geom.name.startswith(tuple(f"{foot}_" for foot in FEET)):
            spec.delete(geom)
    spec.geom("floor").contype, spec.geom("floor").conaffinity = 1, 0
    for mesh in list(spec.meshes):
        spec.delete(mesh)


def _add_sensors(spec: mujoco.MjSpec) -> None:
    """Centre of mass and its velocity, force under each foot, torque of each motor, in this order."""
    for old in list(spec.sensors):
        spec.delete(old)
    root = next(joint for joint in spec.joints if joint.type == mujoco.mjtJoint.mjJNT_FREE).parent.name
    body, site = mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_SITE
    spec.add_sensor(name="com", type=mujoco.mjtSensor.mjSENS_SUBTREECOM, objtype=body, objname=root)
    spec.add_sensor(name="com_velocity", type=mujoco.mjtSensor.mjSENS_SUBTREELINVEL, objtype=body, objname=root)
    for foot in FEET:
        spec.add_sensor(name=foot, type=mujoco.mjtSensor.mjSENS_TOUCH, objtype=site, objname=f"{foot}_sole")
    for name in G1_JOINTS:
        spec.add_sensor(
            name=name, type=mujoco.mjtSensor.mjSENS_ACTUATORFRC, objtype=mujoco.mjtObj.mjOBJ_ACTUATOR, objname=name
        )
