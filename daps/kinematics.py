"""Forward kinematics of a robot, read once from its MJCF file: poses -> positions of its bodies, with gradients.

Enough of MJCF for trees of hinges under a free root, such as the public models of the Unitree G1: bodies with pos and
quat, hinges with axis and pos. What else would move a body is refused. Meshes, defaults of geoms, sensors and
actuators play no part.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from daps.motion import ROOT
from daps.rotation import about, multiply, rotate

OTHER_ROTATIONS = ("euler", "axisangle", "xyaxes", "zaxis")
NOT_READ = ("include", "frame", "replicate", "attach", "composite", "default//joint[@axis]", "default//joint[@type]")


@dataclass(frozen=True)
class Link:
    """A body: its place in its parent (row of the parent, -1 for the root), and the joint that turns it, if any."""

    name: str
    parent: int
    position: tuple[float, ...]
    quaternion: tuple[float, ...]
    joint: str | None = None
    axis: tuple[float, ...] = (0.0, 0.0, 1.0)
    anchor: tuple[float, ...] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Kinematics:
    """A robot's bodies, parents first, as the file lists them; the first one is the root."""

    links: tuple[Link, ...]

    @staticmethod
    def from_mjcf(path: str | Path) -> "Kinematics":
        """The robot of an MJCF file.

        Raises:
            ValueError: unreadable, not one robot with a free root, or features of MJCF that are not understood.
        """
        try:
            world = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise ValueError(f"{path}: not readable as MJCF ({error}); pass the .xml file of the robot") from error
        if world.tag != "mujoco":
            raise ValueError(f"{path}: MJCF begins with <mujoco>, got <{world.tag}>; convert it first")
        for what in NOT_READ:
            if world.find(f".//{what}") is not None:
                raise ValueError(f"{path}: holds {what}, which is not read here; save the compiled model and pass that")
        roots = [body for body in world.findall("worldbody/body") if _is_free(body)]
        if len(roots) != 1:
            raise ValueError(f"{path}: want exactly one body with a free joint in the world, got {len(roots)}")
        links: list[Link] = []
        try:
            _collect(roots[0], -1, links)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return Kinematics(tuple(links))

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the hinges, in the order of their angles in a pose."""
        return tuple(link.joint for link in self.links if link.joint is not None)

    @property
    def bodies(self) -> tuple[str, ...]:
        """Names of the bodies."""
        return tuple(link.name for link in self.links)

    def positions(self, poses: Float[Tensor, "*N P"]) -> Float[Tensor, "*N L 3"]:
        """Origins of the bodies in the world, metres, the root's first.

        Raises:
            ValueError: another number of joints.
        """
        if poses.shape[-1] != ROOT + len(self.joints):
            raise ValueError(
                f"poses: the robot has {len(self.joints)} joints, so poses have {ROOT + len(self.joints)} numbers, "
                f"got {poses.shape[-1]}; take the model that the motion was made for"
            )
        places = [(poses[..., :3], poses[..., 3:ROOT])]
        angles = iter(poses[..., ROOT:].unbind(-1))
        for link in self.links[1:]:
            origin, turn = places[link.parent]
            here = origin + rotate(turn, poses.new_tensor(link.position))
            turn = multiply(turn, poses.new_tensor(link.quaternion))
            if link.joint is not None:
                turned = multiply(turn, about(poses.new_tensor(link.axis), next(angles)))
                anchor = poses.new_tensor(link.anchor)  # the point of the body that its joint holds in place
                here = here + rotate(turn, anchor) - rotate(turned, anchor)
                turn = turned
            places.append((here, turn))
        return torch.stack([here for here, _ in places], -2)


def _is_free(body: ElementTree.Element) -> bool:
    """Whether a body moves freely, in either way to write it."""
    return body.find("freejoint") is not None or body.find("joint[@type='free']") is not None


def _collect(body: ElementTree.Element, parent: int, links: list[Link]) -> None:
    """Adds a body and those below it."""
    name = body.get("name", f"body {len(links)}")
    joints = [joint for joint in body.findall("joint") if parent >= 0 or joint.get("type") != "free"]
    others = [key for key in OTHER_ROTATIONS if body.get(key)]
    kinds = {joint.get("type", "hinge") for joint in joints} - {"hinge"}
    if others or kinds or len(joints) > 1 or (parent < 0 and joints) or any(float(j.get("ref", 0)) for j in joints):
        raise ValueError(
            f"body {name} has {', '.join([*others, *sorted(kinds)]) or 'several joints, or a ref'}, which is not read "
            "here: want pos, quat and at most one hinge; save the compiled model"
        )
    place = _numbers(body, "pos", (0.0, 0.0, 0.0)), _unit(_numbers(body, "quat", (1.0, 0.0, 0.0, 0.0)))
    if joints:
        axis, anchor = _numbers(joints[0], "axis", (0.0, 0.0, 1.0)), _numbers(joints[0], "pos", (0.0, 0.0, 0.0))
        links.append(Link(name, parent, *place, joints[0].get("name", ""), _unit(axis), anchor))
    else:
        links.append(Link(name, parent, *place))
    row = len(links) - 1
    for child in body.findall("body"):
        _collect(child, row, links)


def _numbers(element: ElementTree.Element, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in element.get(key, "").split()) or default
    if len(numbers) != len(default) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{element.tag} {element.get('name')}: {key} must be {len(default)} numbers, got {numbers}")
    return numbers


def _unit(vector: tuple[float, ...]) -> tuple[float, ...]:
    norm = math.hypot(*vector)
    if not norm:
        raise ValueError("an axis or quaternion of length 0 turns nothing; mend the file")
    return tuple(part / norm for part in vector)
