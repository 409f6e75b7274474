"""Recordings of robots, made by hand."""

import math

import torch

from daps import rotation
from daps.robot.play import Recording


def recording(
    seconds: float, headings: list[float], velocity: tuple[float, float], falls: dict[int, float]
) -> Recording:
    """Robots at constant velocity in their own headings; some fall at a time."""
    steps, count = round(seconds * 50), len(headings)
    angles = torch.tensor(headings)
    made = Recording()
    for step in range(steps + 1):
        pose = torch.zeros(count, 36)
        pose[:, 2], pose[:, 3:7] = 0.75, rotation.about_z(angles)
        for robot, moment in falls.items():
            if step >= moment * 50:
                pose[robot, 2] = 0.2
        made.poses.append(pose)
        if step:
            sway = 0.5 * math.sin(2 * math.pi * step / 25)  # two strides a second, none in the mean
            planar = rotation.rotate_z(angles, torch.tensor([velocity[0] + sway, velocity[1]]).expand(count, 2))
            made.com_velocity.append(torch.cat((planar, torch.zeros(count, 1)), -1))
            made.power.append(torch.full((count,), 100.0))
    return made
