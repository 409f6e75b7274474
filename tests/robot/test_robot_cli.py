"""The robot's commands as a user gives them, on synthetic walks and a stick figure."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from daps.cli import main
from daps.data.clips import write_clip
from daps.data.gait import gait
from daps.motion import pose_features
from daps.robot import training_commands
from daps.robot.film import watch
from daps.robot.kit import load_kit, load_tracker
from daps.robot.model import build
from daps.robot.world import State
from robot.stick import write_stick

TINY = (
    "--tracking.samples 64 --tracking.robots 4 --tracking.segment 4 --tracking.capacity 8 --tracking.foresight 2 "
    "--tracking.horizon 2 --tracking.batch-size 4 --tracking.world-hidden 8 --tracker.hidden 8 --tracker.lookahead 1 2"
)


PLANNER = "--planning.steps 3 --planning.batch-size 4 --planning.stride 9 --planner.width 8 --planner.heads 2"
DISTIL = "--distilling.windows 40"
KIT = f"--steps 2 {PLANNER} --planner.trunk-layers 1 --planner.token-layers 1 --imagined 2 {TINY} {DISTIL}"


class Words:
    """Reads sentences without weights: directions that are functions of the words."""

    def __init__(self, folder: Path | None = None) -> None:
        pass

    def encode(self, sentences: Sequence[str]) -> torch.Tensor:
        rows = [torch.randn(384, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in sentences]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips of four names, of which one is held out by a hash, and a robot."""
    folder = tmp_path_factory.mktemp("robot")
    (folder / "clips").mkdir()
    for seed in range(4):
        write_clip(folder / "clips" / f"walk{seed}.csv", gait(seed, 120))
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
        (["play", "walk", "--kit", "nowhere"], "kit: nowhere has no folder tokenizer"),
        (["play", "walk", "--velocity", "1", "0", "0", "--waypoint", "1", "0"], "pass --velocity or --waypoint"),
        (["eval", "CLIPS", "--parts", "looks"], "parts: choose from tokenizer, tracker"),
        (["track", "CLIPS", "--planner", "p"], "tokenizer: plans of p are codes; pass --tokenizer RUN"),
        (["play", "walk", "--seconds", "0.005"], "seconds: must be >= 0.02, a control step, and finite, got 0.005"),
        (["play", "walk", "--seconds", "inf"], "seconds: must be >= 0.02, a control step, and finite, got inf"),
        (["play", "walk", "--velocity", "nan", "0", "0"], "velocity: wants finite numbers, got nan 0.0 0.0"),
        (["play", "walk", "--pace", "-1"], "pace: must be > 0 and finite, got -1"),
        (["play", "walk", "--video", "x.avi"], "video: wants a name that ends in .mp4, got x.avi"),
        (["play", "walk", "--record", "x.csv"], "record: wants a name that ends in .npz, got x.csv"),
        (["play", "walk", "--loop.frames", "33"], "loop.frames: wants frames that are whole control steps"),
        (["eval", "CLIPS", "--trials", "0"], "trials: must be >= 1 and finite, got 0"),
        (["trial", "run", "CLIPS", "--trials", "-1"], "trials: must be >= 1 and finite, got -1"),
        (["trial", "run", "CLIPS", "--seconds", "inf"], "seconds: must be >= 0.02 and finite, got inf"),
        (["trial", "run", "CLIPS", "--push", "nan"], "push: must be >= 0 and finite, got nan"),
        (["train", "CLIPS", "--imagined", "-1"], "imagined: must be >= 0, got -1; 0 is none"),
        (["plan", "CLIPS", "--tokenizer", "x", "--planner.heads", "0"], "planner.heads: must be >= 1, got 0"),
        (["track", "CLIPS", "--tracking.memory", "1.5"], "tracking.memory: must lie in [0, 1), got 1.5"),
        (["track", "CLIPS", "--tracking.push", "-1"], "tracking.push: must be >= 0, got -1"),
        (["play", "walk", "--sentences", "nowhere"], "text: nowhere has no model.safetensors"),
        (["jump"], "no command 'robot jump'; choose play, train, plan, track, distil"),
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
    track(place)
    mine = place / "mine"
    mine.mkdir()
    write_clip(mine / "walk7.csv", gait(7, 60))
    with pytest.raises(SystemExit):
        main(["robot", "trial", str(place / "run"), str(mine), "--model", str(place / "stick.xml")])
    said = capsys.readouterr().err
    assert "lacks 3 of 3 clips that the tracker was trained on, such as walk" in said and "by --only" in said
    with pytest.raises(SystemExit):
        track(place, "--tracking.seed", "1")
    assert "holds another training: tracking.seed (there 0, now 1)" in capsys.readouterr().err


def test_a_kit_from_clips_to_play_and_tables(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every stage by one command; a sentence and a velocity move the robot; the figures are kept."""
    monkeypatch.setattr(training_commands, "SentenceEncoder", Words)
    monkeypatch.setattr("daps.robot.kit.has_weights", lambda: False)
    clips, kit, stick = str(place / "clips"), str(place / "kit"), ["--model", str(place / "stick.xml")]
    main(["robot", "train", clips, "--run", kit, *stick, *KIT.split()])
    shown = capsys.readouterr().out
    assert (
        all(f"stage {stage} of 4" in shown for stage in (1, 2, 3, 4))
        and 'next: daps robot play "walk forward"' in shown
    )
    parts = load_kit(Path(kit))
    assert parts.reader.encode(["walk"]).shape == (1, 384) and parts.tokenizer.num_tokens == 64
    with monkeypatch.context() as patch:
        for name in ("decoded", "planning_data", "Tracking", "Distilling"):
            patch.setattr(training_commands, name, None)
        main(["robot", "train", clips, "--run", kit, *stick, *KIT.split()])  # all is done: nothing is made again
    capsys.readouterr()

    play = ["robot", "play", "walk", "--kit", kit, *stick, "--seconds", "1"]
    main([*play, "--velocity", "0.5", "0", "0"])
    assert "mean velocity, forward and left" in capsys.readouterr().out
    main([*play, "--waypoint", "1", "0", "1", "1", "--codes", "--record", str(place / "made.npz")])
    with np.load(place / "made.npz") as made:
        assert {name: made[name].shape for name in ("poses", "references", "torque", "foot_force", "power")} == {
            "poses": (51, 36), "references": (51, 36), "torque": (50, 29), "foot_force": (50, 2), "power": (50,)
        }  # fmt: skip
    with pytest.raises(SystemExit):
        main([*play[:2], "flap your wings", *play[3:]])
    assert "'flap your wings' is not among the" in capsys.readouterr().err

    main(["robot", "pack", kit, str(place / "small")])
    assert "MB" in capsys.readouterr().out
    small = load_kit(place / "small")
    poses = torch.from_numpy(gait(0, 32))[None]
    assert torch.equal(small.reader.encode(["walk"]), parts.reader.encode(["walk"]))
    features = pose_features(poses).float()
    codes = parts.tokenizer.encode(features)
    torch.testing.assert_close(
        small.tokenizer.decode(codes).mean, parts.tokenizer.decode(codes).mean, rtol=1e-2, atol=1e-2
    )
    texts = [path.read_text() for path in (place / "small").rglob("config.json")]
    assert len(texts) == 4 and not any(str(place) in text for text in texts)

    rows = place / "rows.json"
    measure = ["robot", "eval", clips, "--kit", kit, *stick, "--out", str(rows), "--trials", "2", "--seconds", "2"]
    main([*measure, "--repeats", "1", "--pushes", "0.5"])
    kept = json.loads(rows.read_text())
    found = {(row["stage"], row["clips"], row["metric"]): row["value"] for row in kept}
    assert ("tracker", "training clips, pushes of 0.5 m/s", "success") in found
    assert ("tracker", "held-out clips, decoded", "mpjpe") in found
    assert found["tokenizer", "all held-out clips", "joint_rms"] > 0 and np.isfinite(
        found["tokenizer", "all held-out clips", "psnr"]
    )
    assert all(("closed loop", f"walk, grid of 3 x 3{by}", "velocity_error") in found for by in ("", ", from codes"))
    assert ("tracker", "held-out clips, plan by plan, from codes", "joint_error") in found
    assert found["planner", "64 tokens", "milliseconds"] > 0
    assert {row["tokenizer"] for row in kept} == {"daps"} and str(place) not in rows.read_text()
    main([*measure, "--parts", "latency"])
    assert len(json.loads(rows.read_text())) == len(kept)
    _kits_and_tokenizers_have_names(place, measure, rows, capsys)
    _changed_inputs_are_noticed(place, kit, capsys)


def _kits_and_tokenizers_have_names(
    place: Path, measure: list[str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures of another tokenizer of the same method, or of a kit called otherwise, take nobody's place."""
    capsys.readouterr()
    main([*measure, "--parts", "tokenizer", "--tokenizers", str(place / "small" / "tokenizer")])
    mine, other = (
        [row for row in json.loads(rows.read_text()) if row["stage"] == "tokenizer" and row["tokenizer"] == name]
        for name in ("daps", "daps (tokenizer)")
    )
    assert len(mine) == len(other) > 3 and "codes" in capsys.readouterr().out
    main([*measure, "--parts", "latency", "--name", "another"])
    assert [row["tokenizer"] for row in json.loads(rows.read_text()) if row["stage"] == "planner"] == [
        "daps",
        "another",
    ]
    with pytest.raises(SystemExit):
        main([*measure, "--parts", "tokenizer", "--tokenizers", *[str(place / "small" / "tokenizer")] * 2])
    assert "would be called 'daps (tokenizer)', as another is; rename its folder" in capsys.readouterr().err


def _changed_inputs_are_noticed(place: Path, kit: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Other poses of a clip, other weights of the tokenizer, a planner of other codes."""

    def complaint(*words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["robot", *words, *KIT.split()] if words[0] == "train" else ["robot", *words])
        return capsys.readouterr().err

    clips = place / "moved"
    shutil.copytree(place / "clips", clips)
    options = ["--kit", kit, *DISTIL.split()]
    write_clip(clips / "walk1.csv", gait(9, 120))
    assert "holds another training: motion (there" in complaint("distil", str(clips), *options)
    tokenizer = Path(kit) / "tokenizer" / "model.safetensors"
    weights = safetensors.torch.load_file(tokenizer)
    with safe_open(tokenizer, "pt") as file:
        about = file.metadata()
    changed = {name: value + 1e-3 if value.is_floating_point() else value for name, value in weights.items()}
    safetensors.torch.save_file(changed, tokenizer, about)
    assert "holds another training: tokenizer (there" in complaint("distil", str(place / "clips"), *options)
    assert "was trained on another tokenizer" in complaint("play", "walk", "--kit", kit)
    stages = ["--model", str(place / "stick.xml"), "--run", str(place / "other run")]
    other = ["--tokenizer", str(Path(kit) / "tokenizer"), "--planner", str(Path(kit) / "planner")]
    assert "was trained on another tokenizer" in complaint("track", str(place / "clips"), *stages, *other)
    start = ["--start", str(Path(kit) / "codes")]
    assert "codes is no tracker; pass a folder that" in complaint("track", str(place / "clips"), *stages, *start)
    planner = Path(kit) / "planner" / "config.json"
    planner.write_text(planner.read_text().replace('"vocab_size": 1024', '"vocab_size": 512'))
    assert "writes 64 tokens of 512 symbols, the tokenizer reads 64 of 1024" in complaint("play", "walk", "--kit", kit)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves pipes open
def test_a_film_of_the_stick_figure(place: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    from daps.robot.film import Film, write_film

    model = build(place / "stick.xml")
    try:
        Film(model).renderer.close()
    except ValueError as error:
        pytest.skip(str(error))
    poses = [torch.from_numpy(pose) for pose in gait(0, 20)]
    write_film(place / "walk.mp4", model, poses, rate=30.0, fps=15.0)
    frames = list(imageio.get_reader(place / "walk.mp4").iter_data())
    assert len(frames) == 10 and frames[0].shape == (360, 640, 3)
    assert np.abs(frames[0].astype(float) - frames[-1]).mean() > 0.1  # it moves
    with pytest.raises(ValueError, match="wants a name that ends in .mp4, got"):
        write_film(place / "walk.gif", model, poses, 30.0)


@pytest.mark.parametrize("closed_after", [3, 100])
def test_the_viewer_shows_every_state_and_ends_with_its_window(
    closed_after: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for MuJoCo's window, which wants a display."""
    import mujoco.viewer

    model, shown = build(place / "stick.xml"), []

    class Window:
        def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, **panels: bool) -> None:
            self.data, self.cam = data, mujoco.MjvCamera()

        def __enter__(self) -> "Window":
            return self

        def __exit__(self, *error: object) -> None:
            shown.append("closed")

        def is_running(self) -> bool:
            return len(shown) < closed_after

        def sync(self) -> None:
            assert model.body(self.cam.trackbodyid).name == "pelvis" and 1 < self.cam.distance < 5
            shown.append(self.data.qpos.copy())

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(mujoco.viewer, "launch_passive", Window)
    poses = torch.from_numpy(gait(0, 8))
    watch(model, iter([State(pose[None], torch.zeros(1, 35)) for pose in poses]), rate=1e4)
    assert shown.pop() == "closed" and len(shown) == min(closed_after, 8)
    for pose, seen in zip(poses, shown, strict=False):
        np.testing.assert_array_equal(seen, pose.numpy())

    def refuse(*inputs: object, **panels: bool) -> None:
        raise RuntimeError("`launch_passive` requires that the Python script be run under `mjpython` on macOS")

    monkeypatch.setattr(mujoco.viewer, "launch_passive", refuse)
    with pytest.raises(ValueError, match="view: .*mjpython -m daps robot play"):
        watch(model, iter([]), 50.0)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform == "linux":
        with pytest.raises(ValueError, match="view: no display here; write a film with --video"):
            watch(model, iter([]), 50.0)
