"""The mirror against the robot's kinematics and MuJoCo's physics."""

from pathlib import Path

import numpy as np
import torch

from builders import normal
from daps.data.gait import gait
from daps.kinematics import Kinematics
from daps.mirror import mirrored_joints, mirrored_poses, mirrored_velocities
from daps.robot.model import build
from daps.robot.reference import velocities
from daps.robot.simulation import Simulation
from robot.stick import write_stick

OTHER = {"left": "right", "right": "left"}


def test_bodies_change_sides(tmp_path: Path) -> None:
    kinematics = Kinematics.from_mjcf(write_stick(tmp_path))
    poses = torch.from_numpy(gait(3, 64))
    poses[:, 7:] += 0.1 * normal(64, 29).cumsum(0)
    names = [link.name for link in kinematics.links]
    twins = [names.index(OTHER.get(n.split("_")[0], n.split("_")[0]) + n[len(n.split("_")[0]) :]) for n in names]
    expected = kinematics.positions(poses)[:, twins] * torch.tensor([1.0, -1.0, 1.0])
    torch.testing.assert_close(kinematics.positions(mirrored_poses(poses)), expected, rtol=0, atol=1e-12)


def test_velocities_are_those_of_the_mirrored_poses() -> None:
    poses = torch.from_numpy(gait(5, 64))
    torch.testing.assert_close(velocities(mirrored_poses(poses)), mirrored_velocities(velocities(poses)))


def test_physics_is_the_same_in_a_mirror(tmp_path: Path) -> None:
    """A robot that falls under random targets, and its mirror image: the same to a part in a thousand after 0.2 s."""
    model = build(write_stick(tmp_path), light=True)
    poses = torch.from_numpy(gait(3, 64))[20:21]
    speeds, targets = 0.3 * normal(1, 35), poses[:, 7:] + 0.2 * normal(10, 29, seed=1)
    both = Simulation(model, 2, 1)
    start = torch.cat((poses, mirrored_poses(poses))), torch.cat((speeds, mirrored_velocities(speeds)))
    both.reset(np.arange(2), start[0].numpy(), start[1].double().numpy())
    before = both.qpos.copy()
    for row in targets:
        both.step(torch.stack((row, mirrored_joints(row))).double().numpy())
    after = torch.from_numpy(both.qpos.copy())
    both.close()
    assert np.abs(both.qpos - before).max() > 0.05
    torch.testing.assert_close(mirrored_poses(after[1]), after[0], rtol=0, atol=1e-3)
