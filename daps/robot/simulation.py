"""Many robots in one MuJoCo model, stepped together."""

from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco import rollout
from numpy.typing import NDArray

from daps.motion import G1_JOINTS

Array = NDArray[np.float64]
RATE = 50  # control steps per second


@dataclass(frozen=True)
class Feedback:
    """What a control step did to N robots; forces and the centre of mass as at the start of its last physics step."""

    com: Array
    """Centre of mass, m [N, 3]."""
    com_velocity: Array
    """Of the centre of mass, m/s [N, 3]."""
    foot_force: Array
    """Normal force under the left and the right foot, N [N, 2]."""
    torque: Array
    """Of the motors, N m [N, 29], as it moved the robot: the mean over the physics steps of a control step."""
    power: Array
    """Mechanical power of the motors, sum of |torque x velocity|, W [N], mean over the same."""


class Simulation:
    """N robots, each in a world of its own.

    Args:
        model: as daps.robot.model.build gives it.
        count: N.
        threads: CPU threads of the physics.

    Raises:
        ValueError: a time step that does not divide a control step.
    """

    def __init__(self, model: mujoco.MjModel, count: int, threads: int = 1) -> None:
        self.model, self.count = model, count
        self.substeps = round(1 / (RATE * model.opt.timestep))
        if not np.isclose(self.substeps * model.opt.timestep * RATE, 1):
            raise ValueError(
                f"robot: a control step of {1000 / RATE:g} ms is no multiple of the model's time step of "
                f"{1000 * model.opt.timestep:g} ms; set the option timestep"
            )
        self._data = [mujoco.MjData(model) for _ in range(max(threads, 1))]
        self._pool = rollout.Rollout(nthread=threads if threads > 1 else 0)
        first = np.zeros(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS))
        mujoco.mj_getState(model, self._data[0], first, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._state = np.tile(first, (count, 1))
        self._damping, self._limit = -model.actuator_biasprm[:, 2], model.actuator_forcerange[:, 1]
        self._sensors = {
            model.sensor(row).name: slice(model.sensor_adr[row], model.sensor_adr[row] + model.sensor_dim[row])
            for row in range(model.nsensor)
        }

    @property
    def qpos(self) -> Array:
        """Poses [N, 36]: a view, as daps.motion has them."""
        return self._state[:, 1 : 1 + self.model.nq]

    @property
    def qvel(self) -> Array:
        """Velocities [N, 35]: a view. Of the root in the world, m/s; its rotation in its own frame, rad/s; joints."""
        return self._state[:, 1 + self.model.nq : 1 + self.model.nq + self.model.nv]

    def reset(self, rows: NDArray[np.integer], qpos: Array, qvel: Array) -> None:
        """Puts the robots of `rows` into states of their own."""
        self._state[rows, 0] = 0.0
        self.qpos[rows], self.qvel[rows] = qpos, qvel

    def push(self, rows: NDArray[np.integer], velocity: Array) -> None:
        """Adds to the velocity of the root, m/s [n, 3]: what a blow does."""
        self.qvel[rows, :3] += velocity

    def step(self, targets: Array) -> Feedback:
        """One control step towards target angles of the joints, rad [N, 29].

        Raises:
            ValueError: targets that are not finite, or of another shape.
        """
        if targets.shape != (self.count, len(G1_JOINTS)) or not np.isfinite(targets).all():
            raise ValueError(
                f"targets: must be finite angles [{self.count}, {len(G1_JOINTS)}], got {list(targets.shape)}"
                f"{'' if np.isfinite(targets).all() else ' with values that are not'}"
            )
        held = np.repeat(np.asarray(targets, dtype=np.float64)[:, None], self.substeps, 1)
        speeds_before = self.qvel[:, 6:].copy()
        states, sensors = self._pool.rollout(self.model, self._data, self._state, held)
        self._state = states[:, -1]
        speeds = states[..., 1 + self.model.nq + 6 : 1 + self.model.nq + self.model.nv]
        before = np.concatenate((speeds_before[:, None], speeds[:, :-1]), 1)
        torque = self._exerted(sensors[..., -len(G1_JOINTS) :], before, speeds)
        feet = [sensors[:, -1, self._sensors[f"{side}_ankle_roll_link"]] for side in ("left", "right")]
        return Feedback(
            com=sensors[:, -1, self._sensors["com"]],
            com_velocity=sensors[:, -1, self._sensors["com_velocity"]],
            foot_force=np.concatenate(feet, -1),
            torque=torque.mean(1),
            power=np.abs(torque * speeds).sum(-1).mean(1),
        )

    def _exerted(self, torque: Array, before: Array, after: Array) -> Array:
        """What motors did over steps, N m: the integrator takes the damping of a motor below its limit at the speed
        after a step, while its sensor has it at the speed before (MuJoCo's implicitfast)."""
        limited = np.abs(torque) >= self._limit
        return torque + np.where(limited, 0.0, self._damping * (before - after))

    def state(self) -> Array:
        """All that the physics of the robots goes on from, [N, S]."""
        return self._state.copy()

    def restore(self, state: Array) -> None:
        """Takes up a state that was kept."""
        self._state = state.copy()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()
