"""The robot: codes as the command space of a humanoid. Needs the extra `robot`; nothing else imports it."""

import ctypes.util
import os
import sys

# MuJoCo chooses how to draw when it is imported; without a display that must be EGL, if it is there.
if sys.platform == "linux" and not os.environ.get("DISPLAY") and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")
