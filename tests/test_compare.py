"""Comparisons: what is trained, what is not trained again, and every figure from the file that it stands in."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps import compare as comparison
from daps.cli import main
from daps.compare import Contestant, Plan, compare
from daps.compare_table import BETA, markdown, table
from daps.evaluate import Protocol
from daps.report import DASH
from daps.run import Run, exclusive, peak_memory, pick_device, portable_command


def test_a_contestant_is_a_method_of_a_preset_with_options() -> None:
    assert Contestant.parse("fsq", "mnist") == Contestant("fsq", "mnist", "fsq", ())
    paper = Contestant.parse("mnist-paper:daps --method.samples 4", "mnist")
    assert (paper.preset, paper.method, paper.options) == ("mnist-paper", "daps", ("--method.samples", "4"))
    assert paper.slug == "mnist-paper-daps-method.samples-4"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("fsk", "method: no 'fsk' for preset mnist"), ("minst:fsq", "preset: no 'minst'"), ("", "method: no ''")],
)
def test_a_contestant_must_exist(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Contestant.parse(text, "mnist")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"contestants": ()}, "needs a method and a seed"),
        ({"seeds": ()}, "needs a method and a seed"),
        ({"seeds": (1, 1)}, "each seed once"),
        ({"contestants": (Contestant.parse("fsq", "mnist"),) * 2}, "got fsq twice"),
        ({"steps": 3, "seconds": 2.0}, "exclude each other"),
        ({"steps": 0}, "must be > 0 and finite, got 0"),
        ({"seconds": -1.0}, "must be > 0 and finite, got -1"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changes: dict[str, Any], complaint: str) -> None:
    whole = {"contestants": (Contestant.parse("fsq", "mnist"),), "seeds": (0,), "folder": Path("x")}
    with pytest.raises(ValueError, match=complaint):
        Plan(**{**whole, **changes})


def row(method: str, seed: int, **figures: Any) -> dict[str, Any]:
    names = ("steps", "peak_mb", "params", "tokens_sampled", "log_p", "beta_elbo", "psnr", "psnr_greedy", "ssim")
    names += ("rfid", "frechet_efficientnet_lite0", "top1_agreement_efficientnet_lite0", "joint_rms")
    names += ("joint_rms_greedy", "mpjpe", "mpjpe_greedy", "nominal_bits", "information_bits")
    names += ("usage_per_position", "perplexity_per_position")
    blank = dict.fromkeys(names)
    some = {"steps": 10, "cpu_s": 0.5, "gpu_s": None, "tokens_sampled": 2_000_000, "device": "a CPU"}
    return {"method": method, "seed": seed, **blank, **some, **figures}


def test_the_table_holds_means_over_seeds_and_half_their_range() -> None:
    rows = [row("a", 0, psnr=10.0), row("a", 1, psnr=11.0), row("b", 0, psnr=9.0, cpu_s=None, gpu_s=2.0)]
    assert table(rows) == [
        ["method", "seeds", "steps", "CPU-s", "GPU-s", "ms a step", "tokens sampled, M", "PSNR, dB"],
        ["a", "2", "10", "0", DASH, "50.0", "2.0", "10.50 ± 0.50"],
        ["b", "1", "10", DASH, "2", "200.0", "2.0", "9.00"],
    ]
    assert markdown(rows).splitlines()[1] == "| --- | --- | --- | --- | --- | --- | --- | --- |"
    rows[1]["device"], rows[2]["device"] = "another", "a GPU"  # seconds of several compare in order only
    assert [line[2] for line in table(rows)] == ["device", "a CPU, another", "a GPU"]


def test_a_comparison_from_training_to_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two methods; each row is what its run folder says, and the same call again trains nothing."""
    contestants = tuple(Contestant.parse(text, "digits") for text in ("daps --train.batch-size 8", "fsq"))
    plan = Plan(
        contestants, (0,), tmp_path, steps=3, options=("--runtime.threads", "1"), protocol=Protocol(2), device="cpu"
    )
    rows = compare(plan)
    assert rows == json.loads((tmp_path / "compare.json").read_text())
    for one, found in zip(contestants, rows, strict=True):
        run = Run.open(plan.run_of(one, 0))
        config, figures = run.config(), run.read_json("evaluation.json")
        assert (found["method"], found["steps"], found["seed"]) == (one.label, 3, 0)
        assert found["psnr"] == figures["stochastic"]["psnr"] and found["n"] == 360
        assert found["beta_elbo"] == pytest.approx(figures["log_p"] - BETA * figures["kl"])
        assert found["params"] == sum(p.numel() for p in run.load_model().parameters() if p.ndim)  # all but log eta
        assert found["tokens_sampled"] == 3 * config.train.batch_size * 8 * (16 if config.method_name == "daps" else 1)
        assert 50 < found["peak_mb"] < 50_000 and found["cpu_s"] > 0 and found["gpu_s"] is None
        assert str(tmp_path) not in found["command"] and "--train.steps 3" in found["command"]
    page = (tmp_path / "compare.html").read_text()
    assert 'id="comparison"' in page and "daps --train.batch-size 8" in page
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/evaluation.json")}
    assert compare(plan) == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/evaluation.json")} == before
    assert "trained already: 3 steps" in capfd.readouterr().out
    (plan.run_of(contestants[1], 0) / "evaluation.json").unlink()
    assert compare(plan, train=False) == rows[:1]  # what is not evaluated is left out


def test_seconds_become_steps_by_the_pace_of_a_short_training(tmp_path: Path) -> None:
    arguments = ["compare", "digits", "--methods", "fsq", "--run", str(tmp_path), "--threads", "1", "--device", "cpu"]
    main([*arguments, "--seconds", "0.5", "--", "--train.batch-size", "4"])
    (found,) = json.loads((tmp_path / "compare.json").read_text())
    assert Run.open(tmp_path / "pace" / "fsq").trained_steps() == 60
    assert found["steps"] == Run.open(tmp_path / "fsq_0").config().train.steps
    assert 0.1 < found["wall_s"] < 2.5  # a busy machine paces unevenly


def test_the_pace_is_of_the_options_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps fill the seconds at the median of a short training's intervals, measured anew under other options."""
    begun: list[list[str]] = []
    really = comparison._run_daps

    def counted(arguments: Sequence[str]) -> int:
        begun.append(list(arguments))
        return really(arguments)

    monkeypatch.setattr(comparison, "_run_daps", counted)

    def steps(*options: str) -> int:
        one = Contestant.parse("fsq", "digits")
        options = ("--runtime.threads", "1", *options)
        return comparison._steps_within(
            Plan((one,), (0,), tmp_path, seconds=5.0, options=options, device="cpu"), one, 5.0
        )

    first = steps("--train.batch-size", "4")
    rows = [row for row in Run(tmp_path / "pace" / "fsq").metrics() if "loss" in row]
    paces = np.diff([row["cpu_seconds"] for row in rows]) / np.diff([row["step"] for row in rows])
    assert first == round(5 / float(np.median(paces))) and len(begun) == 1
    assert steps("--train.batch-size", "4") == first and len(begun) == 1  # measured once
    assert steps("--train.batch-size", "256") != first and len(begun) == 2
    steps("--train.batch-size", "256", "--train.warmup", "100")  # longer than the short training
    assert len(begun) == 2


def test_who_fails_does_not_take_the_others_along(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "daps_0"
    blocked.mkdir()
    (blocked / "photo.txt").write_text("of the user")
    arguments = ["compare", "digits", "--methods", "daps", "fsq", "--run", str(tmp_path), "--steps", "2"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--device", "cpu", "--threads", "1"])
    told = capfd.readouterr().err
    assert stop.value.code == 2 and "compare: 1 of the runs failed: daps, seed 0 (exit code 2)" in told
    assert [row["method"] for row in json.loads((tmp_path / "compare.json").read_text())] == ["fsq"]
    assert (tmp_path / "compare.html").is_file() and (blocked / "photo.txt").is_file()


def test_runs_of_an_earlier_comparison_do_not_stand_in_for_those_that_failed(tmp_path: Path) -> None:
    """More steps in the same folder: the first method refuses, for its run is of fewer; that is no row of these."""
    arguments = ["compare", "digits", "--run", str(tmp_path), "--device", "cpu", "--threads", "1"]
    main([*arguments, "--methods", "fsq", "--steps", "1"])
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--methods", "fsq", "lfq", "--steps", "2"])
    rows = json.loads((tmp_path / "compare.json").read_text())
    assert stop.value.code == 2 and [(row["method"], row["steps"]) for row in rows] == [("lfq", 2)]


def test_who_diverges_has_a_row_without_figures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "digits", "--device", "cpu", "--threads", "1", "--methods"]
    wild = "fsq --train.learning-rate 1e30"
    main([*arguments, wild, "fsq", "--steps", "2", "--run", str(tmp_path / "a")])
    first, second = json.loads((tmp_path / "a" / "compare.json").read_text())
    assert first["log_p"] is None and first["beta_elbo"] is None and second["beta_elbo"] < 0
    assert wild in (tmp_path / "a" / "compare.html").read_text()
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*arguments, wild, "--seconds", "1", "--run", str(tmp_path / "b")])
    shown = capfd.readouterr()
    assert stop.value.code == 2 and "seed 0: no finite step in a short training that measures its pace" in shown.out
    assert "compare: no evaluated run" in shown.err and "Traceback" not in shown.err


def test_evaluations_of_another_protocol_are_made_anew(tmp_path: Path) -> None:
    one = Contestant.parse("fsq", "digits")
    plan = Plan((one,), (0,), tmp_path, steps=1, options=("--runtime.threads", "1"), protocol=Protocol(2), device="cpu")
    (row,) = compare(plan)
    stored, run = tmp_path / "fsq_0" / "evaluation.json", str(tmp_path / "fsq_0")
    first = stored.stat().st_mtime_ns
    for other in (["--seed", "5"], ["--batch-size", "50"], ["--samples", "3"]):
        main(["eval", run, *other, "--device", "cpu"])
        assert stored.stat().st_mtime_ns != first
        assert compare(plan) == [row]
        first = stored.stat().st_mtime_ns
    assert compare(plan) == [row] and stored.stat().st_mtime_ns == first
    figures = json.loads(stored.read_text())
    stored.write_text(json.dumps(figures | {"psnr": 0, "data_path": "elsewhere"}))
    assert compare(plan) == [row] and json.loads(stored.read_text())["data_path"] is None


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_comparison_that_is_ended_ends_its_training(tmp_path: Path) -> None:
    """SIGTERM to the comparison: the training saves and leaves, and the same command goes on from there."""
    command = [sys.executable, "-m", "daps", "compare", "digits", "--methods", "fsq", "--run", str(tmp_path)]
    command += ["--steps", "100000", "--threads", "1", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "fsq_0" / "metrics.jsonl"
    due = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size):
        assert time.monotonic() < due and process.poll() is None
        time.sleep(0.1)
    process.terminate()
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "the same command continues" in shown
    with exclusive(tmp_path / "fsq_0"):  # nobody trains there any more
        assert (tmp_path / "fsq_0" / "state.safetensors").is_file()


def test_what_goes_wrong_is_told_in_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, complaint in (
        (["--collect"], "compare: no evaluated run in"),
        (["--", "--train.batch-size", "0"], "train.batch_size: must be > 0"),
        (["--", "--train.seed", "1"], "compare: --train.seed is set by the comparison; give it as --seeds"),
        (["--", "--run=x"], "compare: --run is set by the comparison; give it as --run before --"),
        (["--", "--train.steps", "9"], "compare: --train.steps is set by the comparison; give it as --steps"),
        (["--methods", "fsq", "fsq --device cpu"], "compare: --device is set by the comparison"),
        (["--methods", "daps", "daps --method.sampels 8"], "sampels"),
        (["--methods", "daps", "array:fsq"], "compare: all must learn the same data, got array, digits"),
        (["--methods", "daps", "array:fsq", "--dry-run"], "compare: all must learn the same data"),
        (
            ["--methods", "fsq", "daps --data.path x", "lfq --data.scaling binarise --nets.likelihood-kind bernoulli"],
            "compare: all must learn the same data, got digits, digits binarised, digits in ",
        ),
        (["--robot", "g1.xml"], "robot: belongs to motion"),
        (["--lpips", "alex.pth"], "lpips: "),
        (["--methods", "fsq", "--", "--nets.encoder-kind", "autoregressive"], "nets.encoder_kind: fsq has a parallel"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["compare", "digits", "--run", str(tmp_path / "c"), "--steps", "2", *arguments])
        assert stop.value.code == 2
        shown = capfd.readouterr()
        assert complaint in shown.err and "step" not in shown.out  # before anything is trained


def test_memory_and_commands_are_recorded_without_the_machine() -> None:
    peak = peak_memory(pick_device("cpu"))
    assert peak is None or 50 < peak < 100_000
    assert (
        portable_command("daps train x --run /a/b --data.path '/c d' -q")
        == "daps train x --run RUN --data.path FOLDER -q"
    )


def test_a_process_does_not_inherit_the_peak_of_its_parent() -> None:
    """As getrusage tells it on Linux, a child has held what its parent held when it was begun."""
    code = """
import subprocess, sys
big = b"x" * 1_500_000_000
import torch
from daps.run import peak_memory
if len(sys.argv) < 2:
    subprocess.run([sys.executable, "-c", "import torch; from daps.run import peak_memory; "
                    "print(peak_memory(torch.device('cpu')))"], check=True)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "None" or float(found) < 1_400
