"""Motion on the report's page: joint angles over the frames of a window, original under decoded."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from daps import plots
from daps.motion import G1_JOINTS, ROOT

SHOWN = ("left_hip_pitch", "left_knee", "right_hip_pitch", "right_knee", "left_shoulder_pitch", "right_elbow")
WINDOWS = 3


def joint_blocks(originals: NDArray[Any], reconstructions: Sequence[tuple[int, NDArray[Any]]]) -> list[dict[str, Any]]:
    """A figure for each of six joints in each of the first windows.

    Args:
        originals: features [N, F, 36].
        reconstructions: (style, features [N, F, 36]) of each run; the style is its place on the page.
    """
    blocks = []
    for i in range(min(WINDOWS, len(originals))):
        for joint in SHOWN:
            column = ROOT + G1_JOINTS.index(f"{joint}_joint")
            name = joint.replace("_", " ")
            alt = f"Window {i + 1}, {name}: the original angle and its reconstructions, radians"
            curves = [(style, values[i, :, column]) for style, values in reconstructions]
            figure = plots.overlay(alt, originals[i, :, column], curves)
            blocks.append({"caption": f"window {i + 1}, {name}, rad, over its frames", "figure": figure})
    return blocks
