"""Small trainings of a tracker on synthetic walks."""

from typing import Any

import mujoco
import torch

from daps.data.gait import gait
from daps.kinematics import Kinematics
from daps.robot.reference import References
from daps.robot.tracker import TrackerConfig
from daps.robot.tracking import Tracking, TrackingConfig

TINY: dict[str, Any] = {
    "samples": 96,
    "robots": 8,
    "segment": 4,
    "capacity": 16,
    "foresight": 2,
    "horizon": 3,
    "batch_size": 8,
    "world_hidden": (16,),
}


def walks() -> References:
    """Two, of 99 and of 66 control steps."""
    return References.of({"a": torch.from_numpy(gait(0, 60)), "b": torch.from_numpy(gait(1, 40))})


def tracking(model: mujoco.MjModel, walk: References, kinematics: Kinematics | None = None, **changes: Any) -> Tracking:
    """A training of three rounds, but for changes."""
    config = TrackingConfig(**{**TINY, **changes})
    return Tracking(model, walk, config, TrackerConfig((16,), (1, 3)), kinematics=kinematics)
