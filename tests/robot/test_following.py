"""Figures of what robots did, on recordings made by hand."""

import math

import pytest
import torch

from daps import rotation
from daps.data.gait import gait
from daps.robot.following import Recogniser, at_30_hz, falls_per_minute, turn_errors, velocity_errors
from daps.robot.labels import Command
from robot.recordings import recording


def test_velocities_are_means_over_seconds_in_the_own_heading() -> None:
    made = recording(5, [0.0, 1.0, -2.0], (0.8, 0.1), {2: 2.5})
    commands = [Command(0.8, 0.1), Command(0.5, 0.5), Command(0.8, 0.1)]
    errors = velocity_errors(made, commands)
    assert errors[:2].tolist() == pytest.approx([0.0, 0.5], abs=1e-5) and bool(errors[2].isnan())
    with pytest.raises(ValueError, match="wants at least 3 s, got 1"):
        velocity_errors(recording(1, [0.0], (1, 0), {}), [Command(1.0)])


def test_turns_are_means_over_seconds() -> None:
    """A robot that turns at 0.5 rad/s, past pi, and sways; one that stands; one that falls before anything counts."""
    made = recording(5, [3.0, 0.0, 0.0], (0.0, 0.0), {2: 2.5})
    for step, pose in enumerate(made.poses):
        turned = 3.0 + 0.5 * step / 50 + 0.2 * math.sin(2 * math.pi * step / 25)
        pose[0, 3:7] = rotation.about_z(torch.tensor(turned))
    errors = turn_errors(made, [Command(0.0, 0.0, 0.4), Command(0.0, 0.0, -0.3), Command(0.0)])
    assert errors[:2].tolist() == pytest.approx([0.1, 0.3], abs=1e-4) and bool(errors[2].isnan())


def test_falls_count_per_minute_on_the_feet() -> None:
    made = recording(6, [0.0, 0.0, 0.0], (1, 0), {1: 3.0})
    assert falls_per_minute(made) == pytest.approx(1 / ((6 + 6 + 2.98) / 60), rel=1e-3)
    assert falls_per_minute(recording(3, [0.0], (1, 0), {})) == 0


def test_a_recording_at_thirty_frames_a_second() -> None:
    made = recording(2, [0.0], (1, 0), {})
    made.poses = [torch.full((1, 36), step / 50) for step in range(101)]
    frames = at_30_hz(made)
    assert frames.shape == (1, 61, 36)
    torch.testing.assert_close(frames[0, :, 0], torch.arange(61) / 30, rtol=0, atol=0.0101)


def test_kinds_are_recognised() -> None:
    """A walk against one with its arms elsewhere."""
    walks = {f"walk{seed}": torch.from_numpy(gait(seed, 128)) for seed in range(24)}
    arms = {}
    for seed in range(24):
        poses = torch.from_numpy(gait(seed + 50, 128))
        poses[:, 7 + 15 :] -= 0.8
        arms[f"dance{seed}"] = poses
    known = {name: poses for name, poses in (walks | arms).items() if name[-1] not in "67"}
    new = {name: poses for name, poses in (walks | arms).items() if name[-1] in "67"}
    recogniser = Recogniser(known)
    assert recogniser.accuracy(new) == 1
    assert recogniser.kinds(arms["dance7"][None, :32]) == ["dance"]
