"""Commands are what was done, captions say it in many words."""

import math
import random

import pytest
import torch

from daps import rotation
from daps.robot.labels import Command, Label, all_captions, kind_of, label, measured


def circle(speed: float, left: float, turn: float, frames: int = 32, heading: float = 0.7) -> torch.Tensor:
    """Poses of a body with constant velocity in its own heading, by small steps."""
    poses = torch.zeros(frames, 36, dtype=torch.float64)
    fine, place, angle = 200, torch.zeros(2, dtype=torch.float64), torch.tensor(heading, dtype=torch.float64)
    for frame in range(frames):
        poses[frame, :2], poses[frame, 3:7] = place, rotation.about_z(angle)
        for _ in range(fine):
            place = place + rotation.rotate_z(angle, torch.tensor([speed, left]).double()) / (30 * fine)
            angle = angle + turn / (30 * fine)
    return poses


@pytest.mark.parametrize("motion", [(1.2, 0.0, 0.0), (0.8, 0.3, 1.5), (-0.5, 0.0, -2.0), (0.0, 0.0, 3.0)])
def test_what_is_measured_is_what_the_body_does(motion: tuple[float, float, float]) -> None:
    found = measured(circle(*motion))
    assert (found.forward, found.left, found.turn) == pytest.approx(motion, abs=5e-3)


@pytest.mark.parametrize(
    ("clip", "command", "expected"),
    [
        ("walk1_subject1", Command(0.3), Label("walk", "slow", "forward")),
        ("walk2_subject3", Command(1.3, 0.1, 0.8), Label("walk", "fast", "turn left")),
        ("walk3_subject1", Command(0.05, 0.02, 0.1), Label("stand")),
        ("walk3_subject1", Command(-0.7, 0.1), Label("walk", "medium", "backward")),
        ("walk3_subject1", Command(0.1, -0.7), Label("walk", "medium", "sideways right")),
        ("sprint1_subject2", Command(3.5), Label("run", "fast", "forward")),
        ("run1_subject5", Command(2.0, 0.0, -0.6), Label("run", "medium", "turn right")),
        ("dance1_subject1", Command(0.0), Label("dance")),
        ("fightAndSports1_subject1", Command(1.0), Label("fight")),
        ("jumps1_subject2", Command(1.0), Label("jump")),
        ("fallAndGetUp3_subject1", Command(0.1), Label("fall")),
    ],
)
def test_pieces_of_clips_have_names(clip: str, command: Command, expected: Label) -> None:
    assert label(clip, command) == expected


def test_captions_are_many_and_name_what_they_mean() -> None:
    slow = Label("walk", "slow", "forward")
    wordings = list(slow.wordings())
    assert "walk forward slowly" in wordings and len(set(wordings)) == len(wordings) == 5 * 4 * 4
    assert "dance" in list(Label("dance").wordings())
    chance = random.Random(0)
    assert {slow.caption(chance) for _ in range(2_000)} == set(wordings)
    both = all_captions([slow, Label("stand"), slow])
    assert len(both) == len(set(both)) == 85
    assert all("  " not in text and text == text.strip() for text in both)


def test_what_has_no_name_or_no_motion_is_refused() -> None:
    with pytest.raises(ValueError, match="clip 'swim1': want a name that begins with one of walk, run"):
        kind_of("swim1")
    with pytest.raises(ValueError, match="needs at least 2 frames, got 1"):
        measured(torch.zeros(1, 36))
    assert math.isclose(Command(3.0, 4.0).speed, 5.0)
