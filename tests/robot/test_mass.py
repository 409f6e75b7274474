"""The centre of mass is where masses are, and commands are of it."""

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from daps.data.gait import gait
from daps.presets import preset
from daps.robot.labels import measured
from daps.robot.mass import centre_velocities, centres
from daps.robot.model import build
from daps.robot.planning import planning_data
from daps.robot.reference import advance, velocities
from daps.scaling import Affine
from robot.stick import write_stick


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mujoco.MjModel:
    return build(write_stick(Path(tmp_path_factory.mktemp("robot"))), light=True)


def test_it_is_the_mean_of_the_bodies_by_their_masses(model: mujoco.MjModel) -> None:
    poses, data = torch.from_numpy(gait(0, 20))[::5], mujoco.MjData(model)
    for pose, found in zip(poses, centres(model, poses), strict=True):
        data.qpos = pose.numpy()
        mujoco.mj_forward(model, data)
        expected = (model.body_mass[:, None] * data.xipos).sum(0) / model.body_mass.sum()
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_its_velocity_is_its_change(model: mujoco.MjModel) -> None:
    poses = torch.from_numpy(gait(0, 20))
    speeds = velocities(poses, 30.0)
    step = 1e-5
    change = (centres(model, advance(poses, speeds, step)) - centres(model, advance(poses, speeds, -step))) / (2 * step)
    torch.testing.assert_close(centre_velocities(model, poses, speeds), change.float(), atol=1e-4, rtol=1e-4)


def test_commands_are_of_the_centre_where_it_is_given(model: mujoco.MjModel) -> None:
    poses = torch.from_numpy(gait(0, 33))
    still = torch.zeros(33, 3, dtype=torch.float64)
    assert measured(poses).speed > 0.1 and measured(poses, centre=still).speed == 0
    assert measured(poses, centre=still).turn == measured(poses).turn
    torch.manual_seed(0)
    config = preset("gait", "fsq")
    tokenizer = config.method.build(replace(config.nets, data_shape=(32, 36)), Affine(), 10).eval()
    clip = torch.from_numpy(gait(0, 40))
    data = planning_data(tokenizer, {"walk1": clip}, 4, model)
    place = centres(model, clip)
    for row, start in enumerate(range(2, 9, 4)):
        moved = (place[start + 31] - place[start - 1])[:2].norm() * 30 / 32
        found = data.commands[row, :2].norm()
        turn = data.commands[row, 2] * 32 / 30 / 2
        assert float(found * torch.sinc(turn / torch.pi)) == pytest.approx(float(moved), abs=1e-5)
