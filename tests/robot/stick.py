"""A stick figure with the joints of the Unitree G1, so that tests of the robot need no package and no file of it."""

from pathlib import Path

from daps.motion import G1_JOINTS

AXES = {"pitch": "0 1 0", "knee": "0 1 0", "elbow": "0 1 0", "roll": "1 0 0", "yaw": "0 0 1"}
PLACES = {  # of a body in its parent, m; zero where not named
    "hip_pitch": (0, 0.1, -0.1),
    "knee": (0, 0, -0.3),
    "ankle_pitch": (0, 0, -0.3),
    "shoulder_pitch": (0, 0.15, 0.3),
    "elbow": (0, 0, -0.2),
    "wrist_roll": (0, 0, -0.2),
}
MASSES = {"hip_yaw": 2.0, "knee": 2.0, "ankle_roll": 0.6, "waist_pitch": 8.0, "shoulder_yaw": 1.0, "elbow": 0.8}
FOOT = "".join(
    f'<geom name="{{side}}_foot{i}" type="capsule" size="0.01" fromto="-0.05 {y} -0.03 0.12 {y} -0.03"/>'
    for i, y in enumerate((-0.03, 0, 0.03))
)
LIMBS = {"leg": G1_JOINTS[:6], "waist": G1_JOINTS[12:15], "arm": G1_JOINTS[15:22]}


def body(joint: str, inside: str, side: int) -> str:
    """The body that a joint turns."""
    name = joint.removesuffix("_joint")
    part = name.removeprefix("left_").removeprefix("right_")
    x, y, z = PLACES.get(part, (0, 0, 0))
    axis = next(axis for word, axis in AXES.items() if word in part)
    mass = MASSES.get(part, 0.3)
    link = {"waist_pitch": "torso", "waist_yaw": "waist_yaw", "waist_roll": "waist_roll"}.get(part, name)
    shape = FOOT.format(side=name.partition("_")[0]) if part == "ankle_roll" else ""
    return (
        f'<body name="{link}_link" pos="{x} {side * y} {z}"><inertial pos="0 0 {-0.05 if side else 0.1}" mass="{mass}" '
        f'diaginertia="0.01 0.01 0.01"/><joint name="{joint}" axis="{axis}"/>{shape}{inside}</body>'
    )


def chain(joints: tuple[str, ...], end: str = "", side: int = 0) -> str:
    """Bodies one inside the other."""
    for joint in reversed(joints):
        end = body(joint, end, side)
    return end


def write_stick(folder: Path) -> Path:
    """The MJCF file: stands 0.73 m above its soles, as its legs are long."""
    sides = {"left": 1, "right": -1}
    limbs = {
        limb: "".join(
            chain(tuple(j.replace("left", side) for j in LIMBS[limb]), side=sign) for side, sign in sides.items()
        )
        for limb in ("leg", "arm")
    }
    trunk = chain(LIMBS["waist"], limbs["arm"])
    root = '<freejoint name="floating_base_joint"/><inertial pos="0 0 0" mass="4" diaginertia="0.03 0.03 0.03"/>'
    path = folder / "stick.xml"
    path.write_text(
        f'<mujoco><compiler angle="radian"/><worldbody><body name="pelvis" pos="0 0 0.74">{root}{limbs["leg"]}{trunk}'
        "</body></worldbody></mujoco>"
    )
    return path
