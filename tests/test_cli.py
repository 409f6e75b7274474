"""The command line as a user meets it: every command end to end, every complaint in one line with exit code 2."""

import json
import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import daps
from daps.cli import main

TINY = [
    *("--device", "cpu", "--train.steps", "4", "--train.batch-size", "4", "--nets.width", "8", "--nets.heads", "2"),
    *("--nets.hidden", "16", "--runtime.log-every", "2", "--runtime.eval-size", "8", "--runtime.threads", "1"),
]


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What main says on stderr before it leaves with code 2: one line."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    assert message.startswith("daps: error: ") and message.count("\n") == 1 and "Traceback" not in message
    return message


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the default preset, trained for four steps."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    main(["train", "digits", "--run", str(folder), *TINY])
    return folder


def test_train_writes_a_run_folder(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    wanted = {"config.json", "metrics.jsonl", "model.safetensors", "state.safetensors", "environment.json", "samples"}
    assert wanted <= names
    assert [path.name for path in (run / "samples").iterdir()] == ["step_00000004.png"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 4]
    assert {"log_p", "elbo", "kl", "ess", "eta", "beta", "bits", "skipped"} <= rows[0].keys()
    assert {"val_psnr", "val_elbo"} <= rows[2].keys()
    assert json.loads((run / "environment.json").read_text())["torch"]


def test_dry_run_prints_the_resolved_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["train", "mnist", "--dry-run", "--method.samples", "4", "--run", str(tmp_path / "r")]
    main(arguments)
    shown = json.loads(capsys.readouterr().out)
    assert shown["method"]["samples"] == 4 and shown["nets"]["vocab_size"] == 256 and not (tmp_path / "r").exists()


def test_eval_prints_and_stores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", str(run), "--samples", "2", "--device", "cpu"])
    shown = capsys.readouterr().out
    figures = json.loads((run / "evaluation.json").read_text())
    assert figures["split"] == "validation" and figures["n"] == 360 and figures["seed"] == 0
    for text in ("validation split", "n = 360", "stochastic", "greedy", f"{figures['elbo']:,.2f}", "PSNR", "SSIM"):
        assert text in shown
    assert figures["elbo"] == pytest.approx(figures["log_p"] - figures["kl"])


def test_report_is_one_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    main(["report", str(run), "-o", str(page)])
    assert str(page) in capsys.readouterr().out
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")


def test_arrays_to_codes_and_back(run: Path, tmp_path: Path) -> None:
    x = daps.data.load("digits", "validation")[:7]
    np.save(tmp_path / "x.npy", x)
    main(["encode", str(run), str(tmp_path / "x.npy"), "-o", str(tmp_path / "c.npz"), "--batch-size", "3"])
    main(["decode", str(run), str(tmp_path / "c.npz"), "-o", str(tmp_path / "y.npy"), "--batch-size", "2"])
    model = daps.load(run)
    codes = np.load(tmp_path / "c.npz")["codes"]
    assert np.array_equal(codes, model.encode(x).numpy()) and codes.shape == (7, model.num_tokens)
    expected = model.decode(model.encode(x)).mean.numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-5)


def test_pictures_to_codes_and_back(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(
            folder / f"{name}.png"
        )
    main(["encode", str(run), str(folder), "-o", str(tmp_path / "c.npz")])
    main(["decode", str(run), str(tmp_path / "c.npz"), "-o", str(tmp_path / "out")])
    assert [picture_size(path) for path in sorted((tmp_path / "out").iterdir())] == [(8, 8), (8, 8)]
    main(["encode", str(run), str(folder / "a.png"), "-o", str(tmp_path / "one.npz")])
    main(["decode", str(run), str(tmp_path / "one.npz"), "-o", str(tmp_path / "one.png")])
    assert picture_size(tmp_path / "one.png") == (8, 8)


def test_stochastic_codes_follow_the_seed(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", daps.data.load("digits", "validation")[:20])
    codes = []
    for i, seed in enumerate("001"):
        target = tmp_path / f"{i}.npz"
        main(["encode", str(run), str(tmp_path / "x.npy"), "-o", str(target), "--temperature", "1", "--seed", seed])
        codes.append(np.load(target)["codes"])
    assert np.array_equal(codes[0], codes[1]) and not np.array_equal(codes[0], codes[2])


def test_effort_raises_the_likelihood_of_the_codes(run: Path, tmp_path: Path) -> None:
    x, model, log_p = daps.data.load("digits", "validation")[:20], daps.load(run), []
    np.save(tmp_path / "x.npy", x)
    for effort in ("0", "2"):
        target = tmp_path / f"effort{effort}.npz"
        main(["encode", str(run), str(tmp_path / "x.npy"), "-o", str(target), "--effort", effort])
        log_p.append(model.decode(np.load(target)["codes"].astype(np.int64)).log_prob(torch.as_tensor(x)))
    assert bool((log_p[1] >= log_p[0] - 1e-3).all()) and float(log_p[1].mean()) > float(log_p[0].mean())


def test_images_preset_reports_bad_files_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        Image.new("L", (12 + i, 9), 40 * i).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    sizes = ["--data.size", "16", "--nets.patches", "2", "2", "--nets.decoder-grid", "2", "2", "--nets.num-tokens", "4"]
    tiny = [*TINY[:12], *TINY[14:], "--nets.hidden", "8"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main(["train", "images", "--data.path", str(folder), "--run", str(tmp_path / "r"), *sizes, *tiny])
    assert "broken.png" in capsys.readouterr().err
    assert daps.load(tmp_path / "r").data_shape == (3, 16, 16)


@pytest.mark.parametrize("shape", [(20, 11), (20, 8, 3)])
def test_array_preset_takes_vectors_and_sequences(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    extra = [] if len(shape) == 2 else ["--nets.decoder-kind", "transformer"]
    main(["train", "array", "--data.path", str(tmp_path / "x.npy"), "--run", str(tmp_path / "r"), *TINY, *extra])
    main(["eval", str(tmp_path / "r"), "--device", "cpu"])
    model = daps.load(tmp_path / "r")
    assert model.decode(model.encode(np.load(tmp_path / "x.npy")[:2])).mean.shape == (2, *shape[1:])


ERRORS = {
    "no command 'trian'; choose train.*did you mean train": "trian digits",
    "no 'digitz'; choose digits.*did you mean digits": "train digitz",
    "no 'vqvea' for preset digits; choose daps, ": "train digits --method vqvea",
    "--method: wants a value": "train digits --method",
    "no option '--train.step'.*did you mean --train.steps": "train digits --train.step 3",
    "train.steps: invalid literal": "train digits --train.steps many",
    "train.steps: must be > 0 and finite, got 0": "train digits --train.steps 0",
    "method.samples: K must be at least 2, got 0": "train digits --method.samples 0",
    r"ess_fraction: the ESS target.*in \(1, K\] = \(1, 16\], got 0.05 x 16": "train digits --method.ess-fraction 0.05",
    r"ess_fraction: the ESS target.*got 1.5 x 16 = 24": "train digits --method.ess-fraction 1.5",
    "invalid choice 'guess'.*'solve', 'gradient'": "train digits --method.eta guess",
    "nets.heads: must divide nets.width": "train digits --nets.heads 5",
    r"method.levels.*make 15 symbols, but nets.vocab_size is 16": "train digits --method fsq --method.levels 3 5",
    "aligned encoder needs one patch per token, got .3, 3. .*or set nets.aligned to false": (
        "train digits --nets.encoder-kind autoregressive --nets.patches 3 3"
    ),
    "nets.patches: a 3 x 3 grid does not divide 8 x 8": (
        "train digits --nets.encoder-kind autoregressive --nets.no-aligned --nets.patches 3 3"
    ),
    "device: must be auto, cpu, cuda, cuda:N or mps, got 'cuda:7x'": "train digits --device cuda:7x",
    "device: cuda:99 is not available": "train digits --device cuda:99",
    "needs a path": "train images",
    "does not exist|no such": "train mnist --data.path nowhere",
    "no folder nowhere": "eval nowhere",
    "Missing from daps eval": "eval",
    "name one run folder": "report",
}


@pytest.mark.parametrize("pattern", ERRORS)
def test_complaints_are_one_line(pattern: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ERRORS[pattern].split()
    if arguments[0] == "train":
        arguments += ["--run", str(tmp_path / "run")]
    message = complaint(arguments, capsys)
    assert re.search(pattern, message), message
    assert not (tmp_path / "run").exists()


def test_bad_data_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.zeros((10, 4), dtype=np.float32)
    x[3, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "empty").mkdir()
    base = ["--run", str(tmp_path / "run")]
    assert "NaN" in complaint(["train", "array", "--data.path", str(tmp_path / "x.npy"), *base], capsys)
    complaint(["train", "images", "--data.path", str(tmp_path / "empty"), *base], capsys)
    assert not (tmp_path / "run").exists()


def test_bad_code_and_input_files_are_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 9, 8), dtype=np.uint8))
    message = complaint(["encode", str(run), str(tmp_path / "x.npy"), "-o", str(tmp_path / "c.npz")], capsys)
    assert "[1, 8, 8]" in message and "[1, 9, 8]" in message.replace("[2, 1, 9, 8]", "[1, 9, 8]")
    assert ".npz" in complaint(["encode", str(run), str(tmp_path / "x.npy"), "-o", str(tmp_path / "c.bin")], capsys)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    torn = complaint(["decode", str(run), str(tmp_path / "torn.npz"), "-o", str(tmp_path / "y.npy")], capsys)
    assert "not a code file" in torn
    assert "input itself" in complaint(
        ["decode", str(run), str(tmp_path / "torn.npz"), "-o", str(tmp_path / "torn.npz")], capsys
    )
    np.savez(tmp_path / "other.npz", codes=np.zeros((1, 8), int), names=["a"], model="0" * 16)
    other = complaint(["decode", str(run), str(tmp_path / "other.npz"), "-o", str(tmp_path / "y.npy")], capsys)
    assert "another model" in other and not (tmp_path / "y.npy").exists()


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["train"], ["--version"]):
        main(arguments)
    shown = capsys.readouterr().out
    assert "usage: daps" in shown and "MNIST, binarised" in shown and daps.__version__ in shown


@pytest.mark.parametrize(("given", "found"), [(None, "10000"), ("7", "7")])
def test_threads_that_wait_soon_leave_the_cores_to_others(given: str | None, found: str) -> None:
    """The command says so before PyTorch is there to read it; what the user says stands."""
    code = """
import os, sys
told = {}
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            told["count"] = os.environ.get("GOMP_SPINCOUNT")
sys.meta_path.insert(0, Watch())
import daps.__main__, torch
print(told["count"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {} if given is None else {"GOMP_SPINCOUNT": given}
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert shown.stdout.split() == [found]
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["daps"] == "daps.__main__:main"
