"""Pictures of the robot: MP4 without a display, and MuJoCo's viewer where there is one."""

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import mujoco
import numpy as np
from torch import Tensor

from daps.atomic import replacing
from daps.progress import ProgressLine

PICTURES = ("picture", "pictures")
VIEW = {"distance": 2.6, "elevation": -10.0, "azimuth": 130.0}  # of cameras: m, degrees


class Film:
    """Pictures of poses, one by one, with a camera that goes along.

    Args:
        model: of the robot, with its meshes.
        width, height: of a picture.
    """

    def __init__(self, model: mujoco.MjModel, width: int = 640, height: int = 360) -> None:
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        try:
            self.renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # MuJoCo raises what its three back ends do
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"video: no picture can be drawn here ({why}); install EGL (libegl1), or set MUJOCO_GL=osmesa"
            ) from error
        self.model, self.data = model, mujoco.MjData(model)
        self.camera = mujoco.MjvCamera()
        _look(self.camera)
        self.pictures = 0

    def picture(self, pose: Tensor) -> np.ndarray:
        """RGB [H, W, 3] of a pose [P]."""
        self.data.qpos = pose.double().numpy()
        mujoco.mj_forward(self.model, self.data)
        share = 0.1 if self.pictures else 1.0  # follows without a jerk
        self.camera.lookat[:] += share * (np.append(self.data.qpos[:2], 0.7) - self.camera.lookat)
        self.pictures += 1
        self.renderer.update_scene(self.data, self.camera)
        return self.renderer.render()

    def __enter__(self) -> "Film":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.renderer.close()


def check_film(path: Path) -> None:
    """Whether a film can be written there, before the work.

    Raises:
        ValueError: another ending than .mp4, or imageio is missing.
    """
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"video: wants a name that ends in .mp4, got {path}; change the ending")
    if not all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg")):  # the second writes MP4
        raise ValueError('video: needs imageio and imageio-ffmpeg; pip install "daps-torch[robot]"')


def write_film(
    path: Path, model: mujoco.MjModel, poses: Sequence[Tensor], rate: float, fps: float = 25.0, quality: int = 7
) -> None:
    """An MP4 (H.264) of poses that come `rate` times a second.

    Raises:
        ValueError: another ending than .mp4, no way to draw, or imageio is missing.
    """
    check_film(path)
    import imageio.v2 as imageio

    times = np.arange(0, len(poses) / rate, 1 / fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as stream,
        Film(model) as film,
        ProgressLine(0, len(times), units=PICTURES) as line,
        imageio.get_writer(
            stream, format="mp4", fps=fps, codec="libx264", quality=quality, macro_block_size=8
        ) as writer,
    ):
        for number, moment in enumerate(times):
            writer.append_data(film.picture(poses[min(round(moment * rate), len(poses) - 1)]))  # type: ignore[attr-defined]
            line.update(number + 1, {})


def watch(model: mujoco.MjModel, states: Iterator[Any], rate: float) -> None:
    """Shows the first robot in MuJoCo's viewer, in real time, until its window is closed; the camera goes along.

    Raises:
        ValueError: no display, or on macOS another program than mjpython.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ValueError("view: no display here; write a film with --video FILE.mp4")
    import mujoco.viewer

    data = mujoco.MjData(model)
    try:
        opened = mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"view: {why} (mjpython -m daps robot play ...); or write a film with --video") from error
    with opened as viewer:
        _look(viewer.cam)
        viewer.cam.type, viewer.cam.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1  # the root of the robot
        due = time.monotonic()
        for state in states:
            if not viewer.is_running():
                return
            data.qpos = state.pose[0].double().numpy()
            mujoco.mj_forward(model, data)
            viewer.sync()
            due = max(due + 1 / rate, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))


def _look(camera: mujoco.MjvCamera) -> None:
    for name, value in VIEW.items():
        setattr(camera, name, value)
