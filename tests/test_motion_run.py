"""Motion from clips to codes and back, through the commands that people type."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import daps
from daps.cli import main
from daps.data.clips import read_clip, read_tiles, write_clip
from daps.data.gait import gait
from daps.kinematics import Kinematics
from daps.motion import G1_JOINTS, feature_poses
from daps.motion_metrics import UNITS, motion_errors

TINY = "--train.steps 2 --train.batch-size 4 --nets.width 8 --nets.heads 2 --device cpu --runtime.eval-size 4".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motion") / "run"
    main(["train", "gait", "--run", str(folder), *TINY])
    return folder


@pytest.fixture
def robot(tmp_path: Path) -> Path:
    """A chain of rods with the joints of the G1."""
    body = '<body name="{0}" pos="0 0 0.1"><joint name="{0}" axis="0 1 0"/>'
    chain = "".join(body.format(joint) for joint in G1_JOINTS) + "</body>" * len(G1_JOINTS)
    path = tmp_path / "rods.xml"
    path.write_text(f'<mujoco><worldbody><body name="root"><freejoint/>{chain}</body></worldbody></mujoco>')
    return path


def test_eval_has_the_errors_of_motion(run: Path, robot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", str(run), "--samples", "1", "--robot", str(robot), "--device", "cpu", "--batch-size", "20"])
    figures = json.loads((run / "evaluation.json").read_text())["motion"]
    model, x = daps.load(run), daps.data.load("gait", "validation")[:]
    decoded = model.decode(model.encode(x)).mean.double()
    poses = [feature_poses(features) for features in (torch.from_numpy(x).double(), decoded)]
    expected = motion_errors(poses[0], poses[1], Kinematics.from_mjcf(robot))
    assert set(figures) == {"stochastic", "greedy"} and set(figures["greedy"]) == set(expected) == set(UNITS)
    for name, error in expected.items():
        assert figures["greedy"][name] == pytest.approx(error.mean().item(), rel=1e-4), name
    shown = capsys.readouterr().out
    assert "errors of the motion" in shown and f"{figures['greedy']['joint_rms']:.4g}" in shown


def test_an_evaluation_keeps_what_an_earlier_one_measured(run: Path, robot: Path) -> None:
    """Errors with a robot stay when the same protocol runs without one, and go when it is another protocol."""

    def figures(*more: str) -> dict[str, float]:
        main(["eval", str(run), "--samples", "1", "--device", "cpu", "--batch-size", "25", *more])
        greedy: dict[str, float] = json.loads((run / "evaluation.json").read_text())["motion"]["greedy"]
        return greedy

    first = figures("--robot", str(robot))
    assert "mpjpe" in first and figures() == first
    assert "mpjpe" not in figures("--seed", "1")


def test_without_a_robot_positions_are_left_out_and_the_report_draws_joints(run: Path, tmp_path: Path) -> None:
    main(["eval", str(run), "--samples", "1", "--device", "cpu"])
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert set(evaluation["motion"]["greedy"]) == set(UNITS) - {"mpjpe", "mpjpe_global"}
    main(["report", str(run), "-o", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert page.count("left knee, rad, over its frames") == 3 and "window 3, right elbow" in page
    assert "joint angles, RMS error" in page and f"{evaluation['motion']['greedy']['joint_rms']:.4g}" in page
    assert "MPJPE" not in page and "a row per channel" not in page


@pytest.mark.parametrize("names", [("walk",), ("walk", "another")])
def test_clips_become_codes_and_clips_again(run: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    """The decoded clip is as long as the original, starts where it does, and is what the model makes of each window."""
    source, codes = tmp_path / "clips", tmp_path / "codes.npz"
    for seed, name in enumerate(names):
        write_clip(source / f"{name}.csv", gait(seed, 75))
    given = source if len(names) > 1 else source / "walk.csv"
    main(["encode", str(run), str(given), "-o", str(codes), "--device", "cpu"])
    with np.load(codes) as file:
        assert file["codes"].shape == (3 * len(names), 16) and file["lengths"].tolist() == [32, 32, 11] * len(names)
        assert file["names"][1] == f"{sorted(names)[0]}:32"
    target = tmp_path / ("out" if len(names) > 1 else "walk_decoded.csv")
    main(["decode", str(run), str(codes), "-o", str(target), "--device", "cpu"])
    decoded = read_clip(target / "walk.csv" if len(names) > 1 else target)
    original = read_clip(source / "walk.csv")
    assert decoded.shape == original.shape == (75, 36)
    np.testing.assert_allclose(decoded[0, :2], original[0, :2], atol=1e-5)
    model, tiles = daps.load(run), read_tiles(source / "walk.csv")
    means = model.decode(model.encode(tiles.values)).mean.double().numpy()
    np.testing.assert_allclose(decoded[:, 7:], means.reshape(-1, 36)[:75, 7:], atol=1e-5)
    np.testing.assert_allclose(decoded[:, 2], means.reshape(-1, 36)[:75, 3], atol=1e-5)


def test_codes_without_places_start_at_the_origin(run: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "walk.csv", gait(0, 64))
    main(["encode", str(run), str(tmp_path / "walk.csv"), "-o", str(tmp_path / "codes.npz"), "--device", "cpu"])
    with np.load(tmp_path / "codes.npz") as file:
        kept = {name: file[name] for name in file if name not in ("starts", "lengths")}
        cut = dict(file) | {"starts": file["starts"][:1]}
    np.savez(tmp_path / "bare.npz", **kept)
    main(["decode", str(run), str(tmp_path / "bare.npz"), "-o", str(tmp_path / "bare.csv"), "--device", "cpu"])
    np.testing.assert_array_equal(read_clip(tmp_path / "bare.csv")[0, :2], 0)
    np.savez(tmp_path / "cut.npz", **cut)
    with pytest.raises(SystemExit):
        main(["decode", str(run), str(tmp_path / "cut.npz"), "-o", str(tmp_path / "cut.csv"), "--device", "cpu"])


def test_windows_of_features_go_through_arrays(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "windows.npy", daps.data.load("gait", "validation")[:3])
    main(["encode", str(run), str(tmp_path / "windows.npy"), "-o", str(tmp_path / "codes.npz"), "--device", "cpu"])
    main(["decode", str(run), str(tmp_path / "codes.npz"), "-o", str(tmp_path / "back.npy"), "--device", "cpu"])
    assert np.load(tmp_path / "back.npy").shape == (3, 32, 36)
    main(["decode", str(run), str(tmp_path / "codes.npz"), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.csv", "1.csv", "2.csv"]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--device", "cpu"])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_robots_that_do_not_fit_are_told(
    run: Path, robot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot.write_text(robot.read_text().replace("left_knee_joint", "left_knee"))
    assert "must have the 29 joints of the Unitree G1 in their order" in told(
        capsys, "eval", str(run), "--robot", str(robot)
    )
    digits = tmp_path / "digits"
    main(["train", "digits", "--run", str(digits), *TINY])
    message = told(capsys, "eval", str(digits), "--robot", str(robot))
    assert "robot: belongs to motion (lafan1, gait), the data are digits; leave it out" in message


def test_what_is_no_clip_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = told(capsys, "encode", str(run), str(tmp_path), "-o", str(tmp_path / "codes.npz"))
    assert "holds no clip: want .csv or .csv.xz files" in message
