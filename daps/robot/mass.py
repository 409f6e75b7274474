"""The robot's centre of mass, by MuJoCo's own kinematics."""

import mujoco
import torch
from jaxtyping import Float
from torch import Tensor

ROOT_BODY = 1  # all that hangs on it is the robot


def centres(model: mujoco.MjModel, poses: Float[Tensor, "F P"]) -> Float[Tensor, "F 3"]:
    """Where the centre of mass is in each pose, m."""
    data, found = mujoco.MjData(model), poses.new_empty(len(poses), 3)
    for row, pose in enumerate(poses.double().numpy()):
        data.qpos = pose
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        found[row] = torch.from_numpy(data.subtree_com[ROOT_BODY])
    return found


def centre_velocities(
    model: mujoco.MjModel, poses: Float[Tensor, "F P"], velocities: Float[Tensor, "F V"]
) -> Float[Tensor, "F 3"]:
    """How fast the centre of mass moves in each pose at these velocities, m/s."""
    data, found = mujoco.MjData(model), torch.empty(len(poses), 3)
    for row, (pose, velocity) in enumerate(zip(poses.double().numpy(), velocities.double().numpy(), strict=True)):
        data.qpos, data.qvel = pose, velocity
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_fwdVelocity(model, data)
        mujoco.mj_subtreeVel(model, data)
        found[row] = torch.from_numpy(data.subtree_linvel[ROOT_BODY]).float()
    return found
