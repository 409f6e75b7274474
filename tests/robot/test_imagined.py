"""Motions that a planner makes up: plan after plan, each from the end of the one before, under orders that change."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from daps.robot.labels import Command, label
from daps.robot.pilot import Orders, Pilot
from daps.robot.training_commands import imagined
from robot.states import FakeTokenizer


def straight(frames: int, first: float, gain: float) -> Tensor:
    """Goes ahead, faster and faster: m/s at first, and more each second."""
    time, poses = torch.arange(frames).double() / 30, torch.zeros(frames, 36, dtype=torch.float64)
    poses[:, 0], poses[:, 2], poses[:, 3] = first * time + gain * time.square() / 2, 0.8, 1.0
    return poses


CLIPS = {"walk1": straight(50, 0.2, 0.5), "run1": straight(33, 2.0, 0.5), "jump1": straight(32, 1.0, 0.0)}


class Counting(Pilot):
    """Plans poses whose first number counts on from the past; keeps what it was asked."""

    asked: list[tuple[Tensor, Orders]]
    draws: list[float]

    def __init__(self) -> None:
        object.__setattr__(self, "tokenizer", FakeTokenizer())
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "draws", [])

    def plan(self, past: Tensor, orders: Orders, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        self.asked.append((past[:, :, 0].clone(), orders))
        self.draws.append(float(torch.rand(1, generator=generator)))
        poses = past[:, -1:].repeat(1, 32, 1)
        poses[..., 0] += torch.arange(1, 33)
        return poses, torch.zeros(len(past), 1, dtype=torch.long)

    def rest(self, count: int) -> Tensor:
        poses = torch.zeros(count, 2, 36, dtype=torch.float64)
        poses[:, 1, 0] = 1
        return poses


class Numbers:
    """Reads a sentence as its number among all that it was ever given."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def encode(self, sentences: Sequence[str]) -> Tensor:
        self.heard += sentences
        return torch.arange(len(self.heard) - len(sentences), len(self.heard)).float()[:, None].expand(-1, 384)


def test_a_motion_is_the_first_frames_of_each_plan_one_after_the_other() -> None:
    pilot = Counting()
    motions = imagined(pilot, CLIPS, Numbers(), 3, seed=0, windows=5)
    assert list(motions) == ["imagined 0", "imagined 1", "imagined 2"]
    for poses in motions.values():
        assert poses[:, 0].tolist() == list(range(2 + 5 * 21))
    for number, (past, _) in enumerate(pilot.asked):
        assert past.tolist() == [[21 * number, 21 * number + 1]] * 3
    short = imagined(Counting(), CLIPS, Numbers(), 1, seed=0, windows=2, frames=6)
    assert short["imagined 0"][:, 0].tolist() == list(range(2 + 2 * 6))


def test_orders_are_new_every_other_plan() -> None:
    pilot, reader = Counting(), Numbers()
    imagined(pilot, CLIPS, reader, 4, seed=0, windows=5)
    texts = [orders.text[:, 0].tolist() for _, orders in pilot.asked if orders.text is not None]
    assert texts == [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2 + [[8, 9, 10, 11]]
    commands = [orders.commands for _, orders in pilot.asked]
    assert commands[0] == commands[1] != commands[2] == commands[3] != commands[4] and len(reader.heard) == 12
    assert len({command.forward for command in commands[0] or ()}) > 1


@pytest.mark.parametrize("seed", [0, 1])
def test_orders_are_what_pieces_of_the_clips_do_and_are_called(seed: int) -> None:
    """Mean speeds over 32 frames, from any frame of a clip that has so many to go; no piece of a shorter clip."""
    pilot, reader = Counting(), Numbers()
    imagined(pilot, CLIPS, reader, 40, seed=seed, windows=1)
    walk, run = (
        [round(float(poses[start + 32, 0] - poses[start, 0]) * 30 / 32, 6) for start in range(len(poses) - 32)]
        for poses in (CLIPS["walk1"], CLIPS["run1"])
    )
    commands = pilot.asked[0][1].commands or ()
    found = [round(command.forward, 6) for command in commands]
    assert set(found) <= {*walk, *run} and len(run) == 1
    assert 10 < found.count(run[0]) < 30 and len(set(found)) > 8
    for command, caption in zip(commands, reader.heard, strict=True):
        name = "run1" if round(command.forward, 6) in run else "walk1"
        assert caption in list(label(name, Command(command.forward)).wordings())


def test_sentences_alone_come_without_velocities() -> None:
    pilot, reader = Counting(), Numbers()
    motions = imagined(pilot, CLIPS, reader, 2, seed=0, alone=True, windows=3)
    assert list(motions) == ["imagined by sentences alone 0", "imagined by sentences alone 1"]
    assert all(orders.commands is None and orders.text is not None for _, orders in pilot.asked)
    assert len(reader.heard) == 4


def test_the_seed_decides_orders_and_draws() -> None:
    pilots, readers = [Counting() for _ in range(3)], [Numbers() for _ in range(3)]
    for pilot, reader, seed in zip(pilots, readers, (4, 4, 5), strict=True):
        imagined(pilot, CLIPS, reader, 4, seed=seed, windows=3)
    assert readers[0].heard == readers[1].heard != readers[2].heard
    assert pilots[0].draws == pilots[1].draws != pilots[2].draws and len(set(pilots[0].draws)) == 3


def test_none_are_imagined_if_none_are_asked_for() -> None:
    assert imagined(Counting(), CLIPS, Numbers(), 0, seed=0) == {}
