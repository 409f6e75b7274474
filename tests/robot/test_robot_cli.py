"""The robot's commands as a user gives them, on synthetic walks and a stick figure."""

import json
from pathlib import Path

import pytest

from daps.cli import main
from daps.data.clips import write_clip
from daps.data.gait import gait
from daps.robot.cli import load_tracker
from robot.stick import write_stick

TINY = (
    "--tracking.samples 64 --tracking.robots 4 --tracking.segment 4 --tracking.capacity 8 --tracking.foresight 2 "
    "--tracking.horizon 2 --tracking.batch-size 4 --tracking.world-hidden 8 --tracker.hidden 8 --tracker.lookahead 1 2"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips of four names, of which one is held out by a hash, and a robot."""
    folder = tmp_path_factory.mktemp("robot")
    (folder / "clips").mkdir()
    for seed in range(4):
        write_clip(folder / "clips" / f"walk{seed}.csv", gait(seed, 60))
    write_stick(folder)
    return folder


def track(place: Path, *more: str) -> None:
    run = ["--run", str(place / "run"), "--model", str(place / "stick.xml")]
    main(["robot", "track", str(place / "clips"), *run, *TINY.split(), *more])


def test_from_clips_to_a_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    track(place)
    shown = capsys.readouterr().out
    assert "sample 64/64" in shown and "next: daps robot trial" in shown
    tracker, settings = load_tracker(place / "run")
    assert len(settings["clips"]) == 3 and tracker.config.lookahead == (1, 2) and not tracker.training
    trial = ["robot", "trial", str(place / "run"), str(place / "clips"), "--model", str(place / "stick.xml")]
    main([*trial, "--trials", "3", "--seconds", "0.3", "--push", "0.5"])
    shown = capsys.readouterr().out
    assert "training clips" in shown and "held-out clips" in shown and "MPJPE, mm" in shown
    kept = json.loads((place / "run" / "trial.json").read_text())
    assert [row["clips"] for row in kept["outcomes"]] == ["training clips", "held-out clips"]
    assert kept["outcomes"][0]["trials"] == 3 and kept["protocol"]["push"] == 0.5
    main([*trial, "--only", "walk1", "--trials", "2", "--seconds", "0.2", "--light"])
    assert "chosen clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["track", "CLIPS", "--only", "walk9"], "only: no clip 'walk9' in CLIPS (did you mean walk"),
        (["track", "CLIPS", "--tracking.robots", "0"], "tracking.robots: must be >= 1, got 0"),
        (["track", "nowhere"], "nowhere"),
        (["trial", "nowhere", "CLIPS"], "run: no folder nowhere"),
        (["jump"], "no command 'robot jump'; choose track, trial"),
    ],
)
def test_complaints_are_one_line(
    place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = str(place / "clips")
    with pytest.raises(SystemExit) as stop:
        main(["robot", *(clips if word == "CLIPS" else word for word in arguments)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and message.replace("CLIPS", clips) in said


def test_a_folder_of_another_kind_is_no_tracker(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = place / "other"
    other.mkdir()
    (other / "config.json").write_text('{"stage": "planner"}')
    with pytest.raises(ValueError, match="is no tracker; pass the folder that daps robot track wrote"):
        load_tracker(other)
    with pytest.raises(SystemExit):
        track(place, "--tracking.seed", "1")
    assert "holds another training: tracking.seed (there 0, now 1)" in capsys.readouterr().err
