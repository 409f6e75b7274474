"""Tests of the robot need MuJoCo, the extra `robot`."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("mujoco") else ["test_*.py"]
