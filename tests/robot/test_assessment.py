"""Rows of figures from recordings and recognisers made by hand."""

from typing import Any

import mujoco
import pytest
import torch
from torch import Tensor

from daps.robot import assessment
from daps.robot.assessment import DANCES, Row, command_rows, dance_rows, recogniser_rows
from daps.robot.code_tracker import CodeTracker
from daps.robot.following import Recogniser
from daps.robot.kit import Kit
from daps.robot.labels import Command
from daps.robot.pilot import Pilot
from daps.robot.play import LoopConfig, Recording
from daps.robot.text import Phrasebook
from daps.robot.tracker import Tracker
from robot.recordings import recording


def actors(monkeypatch: pytest.MonkeyPatch, made: Recording) -> tuple[dict[str, Any], tuple[Any, ...], tuple[Any, ...]]:
    """Robots do what was recorded, whatever they are told; what that is, and arguments before and after the others."""
    told: dict[str, Any] = {}
    nobody: tuple[Any, ...] = (object.__new__(Kit), mujoco.MjModel.from_xml_string("<mujoco/>"))
    orders = (object.__new__(Pilot), LoopConfig(), 3)

    def act(kit: Any, model: Any, texts: Any, commands: Any, seconds: float, *others: Any) -> Recording:
        told.update(texts=list(texts), commands=commands, seconds=seconds, others=others)
        return made

    monkeypatch.setattr(assessment, "act", act)
    return told, nobody, orders


class Judge(Recogniser):
    """Reads what is done off a number of the first pose of a window: 1 is a dance; keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, float]] = []

    def kinds(self, windows: Tensor) -> list[str]:
        self.shown += [(round(float(w[0, 8])), float(w[0, 7])) for w in windows]
        return ["dance" if float(window[0, 9]) == 1 else "walk" for window in windows]


def values(rows: list[Row]) -> dict[tuple[str, str], tuple[float, int]]:
    return {(row.clips, row.metric): (row.value, row.n) for row in rows}


def test_windows_of_dancers_count_once_they_have_settled_and_while_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven windows of 32 / 30 s in eight seconds, of which the first two begin before two seconds have passed."""
    made = recording(8, [0.0] * 8, (0.0, 0.0), {1: 4.5, 2: 1.0, 3: 7.6})
    for step, pose in enumerate(made.poses):
        pose[:, 7], pose[:, 8] = step / 50, torch.arange(8)
        pose[:, 9] = (torch.arange(8) < 4).float()
    told, nobody, orders = actors(monkeypatch, made)
    judge = Judge()
    rows = dance_rows(*nobody, judge, 2, 8.0, *orders)
    assert told["texts"] == [*DANCES, *DANCES] and told["commands"] is None
    assert told["seconds"] == 8.0 and told["others"] == (*orders, None)
    expected = [(robot, number) for number in range(2, 7) for robot in range(8)]  # window number n ends at 32 n / 30
    expected = [(r, n) for r, n in expected if (n + 1) * 32 / 30 < {1: 4.5, 2: 1.0, 3: 7.6}.get(r, 9)]
    assert [robot for robot, _ in judge.shown] == [robot for robot, _ in expected]
    assert [moment for _, moment in judge.shown] == pytest.approx([n * 32 / 30 for _, n in expected], abs=0.011)
    dancing = sum(robot < 4 for robot, _ in expected)
    found = values(rows)
    assert found["dance", "recognised_as_dance"] == (pytest.approx(dancing / len(expected)), len(expected))
    minutes = (5 * 8 + 4.48 + 0.98 + 7.58) / 60
    assert found["dance", "falls_per_minute"] == (pytest.approx(3 / minutes, rel=1e-4), 8)
    assert {(row.stage, row.seed) for row in rows} == {("closed loop", 3)}


def test_dancers_who_all_fell_have_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    made = recording(6, [0.0] * 4, (0.0, 0.0), dict.fromkeys(range(4), 1.0))
    _, nobody, orders = actors(monkeypatch, made)
    value, count = values(dance_rows(*nobody, Judge(), 1, 6.0, *orders))["dance", "recognised_as_dance"]
    assert count == 0 and value != value


def marked(frames: int, dances: int) -> Tensor:
    """Poses of which so many windows of 32 are taken for dances."""
    poses = torch.zeros(frames, 36, dtype=torch.float64)
    poses[:, 3] = 1.0
    poses[: 32 * dances, 9] = 1.0
    return poses


def test_a_recogniser_is_right_about_windows_side_by_side() -> None:
    clips = {"walk1": marked(70, 1), "dance1": marked(100, 1), "run1": marked(40, 0)}
    rows = values(recogniser_rows(Judge(), clips, seed=5))
    assert rows["held-out clips", "accuracy"] == (pytest.approx(2 / 6), 6)  # a walk and the dance; the run is no walk
    assert rows["held-out dances", "recognised_as_dance"] == (pytest.approx(1 / 3), 3)
    only = recogniser_rows(Judge(), {"walk1": marked(70, 1)}, seed=5)
    assert values(only) == {("held-out clips", "accuracy"): (pytest.approx(1 / 2), 2)}
    assert [(row.stage, row.seed) for row in only] == [("recogniser", 5)]


def test_runners_are_told_a_grid_of_speeds_and_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of 18 run at 1.5 m/s straight ahead: off by 0.3, 0.3 and 0.9 m/s; two fall before anything counts."""
    made = recording(5, [0.0] * 18, (1.5, 0.0), {2: 1.0, 9 + 7: 2.5})  # told 1.2 and 2.4 m/s
    told, nobody, orders = actors(monkeypatch, made)
    rows = command_rows(*nobody, {"run", "dance"}, 2, 5.0, *orders)
    assert told["texts"] == ["run"] * 18 and told["seconds"] == 5.0 and told["others"] == (*orders, None)
    grid = [Command(speed, 0.0, turn) for speed in (1.2, 1.8, 2.4) for turn in (-0.5, 0.0, 0.5)]
    assert told["commands"] == grid * 2
    found = values(rows)
    assert found["run at 1.2 m/s", "velocity_error"] == (pytest.approx(0.3, abs=1e-5), 5)
    assert found["run at 1.8 m/s", "velocity_error"] == (pytest.approx(0.3, abs=1e-5), 6)
    assert found["run at 2.4 m/s", "velocity_error"] == (pytest.approx(0.9, abs=1e-5), 5)
    at = "run, grid of 3 x 3"
    assert found[at, "velocity_error"] == (pytest.approx((5 * 0.3 + 6 * 0.3 + 5 * 0.9) / 16, abs=1e-5), 16)
    assert found[at, "turn_error"] == (pytest.approx((16 - 5) * 0.5 / 16, abs=1e-5), 16)  # 5 of 16 are told to go ahead
    minutes = (16 * 5 + 0.98 + 2.48) / 60
    assert found[at, "falls_per_minute"] == (pytest.approx(2 / minutes, rel=1e-3), 18)
    assert len(rows) == 6 and {row.seed for row in rows} == {3}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"walk"}, ["walk, grid of 3 x 3", "walk at 0.3 m/s", "walk at 0.6 m/s", "walk at 0.9 m/s"]),
        ({"dance"}, []),
    ],
)
def test_only_kinds_that_a_kit_knows_are_asked_for(
    kinds: set[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, nobody, orders = actors(monkeypatch, recording(4, [0.0] * 9, (0.6, 0.0), {}))
    rows = command_rows(*nobody, kinds, 1, 4.0, *orders)
    assert list(dict.fromkeys(row.clips for row in rows)) == expected


def test_orders_go_to_the_kits_tracker_unless_to_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    class Robots:
        recording = Recording()

        def __init__(self, model: Any, pilot: Any, tracker: Any, count: int, loop: Any, seed: int) -> None:
            given.append((tracker, count, seed))

        def run(self, orders: Any, seconds: float) -> list[None]:
            return []

        def close(self) -> None:
            given.append("closed")

    monkeypatch.setattr(assessment, "Loop", Robots)
    kit, policy = object.__new__(Kit), object.__new__(CodeTracker)
    object.__setattr__(kit, "reader", Phrasebook({"walk": torch.ones(384)}))
    object.__setattr__(kit, "tracker", tracker := object.__new__(Tracker))
    model, orders = mujoco.MjModel.from_xml_string("<mujoco/>"), (object.__new__(Pilot), LoopConfig(), 3)
    for one in (None, policy):
        assessment.act(kit, model, ["walk"] * 2, None, 1.0, *orders, one)
    assert given == [(tracker, 2, 3), "closed", (policy, 2, 3), "closed"]
