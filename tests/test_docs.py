"""What the documents say runs: code blocks, commands, make targets, links; and the examples keep their promises."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daps.cli import COMMANDS, main
from daps.compare_table import markdown

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> str:
    """All fenced blocks of a language, joined as one program."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the reader has it after `make demo`: a small run in runs/demo, and pictures of their own."""
    folder = tmp_path_factory.mktemp("reader")
    tiny = [
        "--train.steps",
        "2",
        "--train.batch-size",
        "4",
        "--nets.width",
        "8",
        "--nets.heads",
        "2",
        "--device",
        "cpu",
    ]
    main(["train", "digits", "--run", str(folder / "runs" / "demo"), *tiny])
    (folder / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20), (80 * i, 10, 10)).save(folder / "pictures" / f"{i}.png")
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(20, 9)).astype(np.float32))
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader)
    exec(compile(blocks(page, "python"), str(page), "exec"), {"__name__": "__docs__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(
    page: Path, reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make` targets exist, trainings resolve, the robot's commands have their options; others run on the demo's."""
    monkeypatch.chdir(reader)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in blocks(page, "sh").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        elif words[:2] == ["daps", "train"]:
            main([*words[1:], "--dry-run"])
        elif words[:2] == ["daps", "compare"]:
            capsys.readouterr()
            main(["compare", words[2], "--dry-run", *words[3:]])
            for training in capsys.readouterr().out.splitlines():
                main([*shlex.split(training)[1:], "--dry-run"])
        elif words[:2] == ["daps", "robot"]:
            with pytest.raises(SystemExit):
                main(["robot", words[2], "--help"])
            options = capsys.readouterr().out
            assert all(word in options for word in words if word.startswith("--")), line
        elif words[:1] == ["pip"]:
            assert words[1] == "install"
        elif words[:1] == ["daps"]:
            assert words[1] in COMMANDS, line
            main(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_own_networks_fit_in_forty_lines_and_learn() -> None:
    source = ROOT / "examples" / "own_networks.py"
    assert len(source.read_text().splitlines()) < 40
    shown = subprocess.run([sys.executable, str(source)], check=True, capture_output=True, text=True).stdout
    found = re.search(r"12 bits, mean squared error ([\d.]+)", shown)
    assert found and float(found[1]) < 0.1, shown  # predicting the mean gives 1


def test_trust_region_draws_its_picture(tmp_path: Path) -> None:
    picture = tmp_path / "deep" / "toy.png"
    subprocess.run([sys.executable, str(ROOT / "examples" / "trust_region.py"), str(picture)], check=True)
    with Image.open(picture) as drawn:
        assert drawn.width > 500


def test_the_readme_shows_every_file_of_the_package() -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in (ROOT / "daps").iterdir() if path.suffix == ".py" and not path.name.startswith("_")]
    assert [name for name in files if name not in shown] == []


def test_tables_of_the_learning_bench_are_those_of_its_results() -> None:
    """The experiments page has every row, the README some of them, both to the digit."""
    bench = load_benchmark("learning")
    page, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/experiments.md", "README.md"))
    studies = list((ROOT / "docs" / "results").glob("learning_*.json"))
    assert studies
    for path in studies:
        head, _, *lines = bench.table(json.loads(path.read_text()))
        assert head in page and [line for line in lines if line not in page] == [], path.name
    quoted = [line for line in readme.splitlines() if re.match(r"\| `(default|fsq|paper)` \|", line)]
    assert len(quoted) >= 3 and [line for line in quoted if line not in page] == []


def test_search_figures_are_those_of_the_results_file() -> None:
    for row in json.loads((ROOT / "docs" / "results" / "effort_mnist.json").read_text()):
        shown = f"| `{row['run']}` | {row['effort']} | {row['psnr']:.2f} | {row['log_p']:.2f} | "
        for name in ("docs/experiments.md", "README.md"):
            assert shown + f"{1e3 * row['seconds_per_image']:.2f} |" in (ROOT / name).read_text(encoding="utf-8"), shown


def test_tables_of_methods_are_those_of_their_results() -> None:
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    files = list((ROOT / "docs" / "results").glob("compare_*.json"))
    assert files
    for path in files:
        assert markdown(json.loads(path.read_text())) in page, path.name


def test_what_motion_costs_is_what_was_computed() -> None:
    page = (ROOT / "docs" / "learning.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "docs" / "results" / "rate_distortion_lafan1.json").read_text())
    for trained, held_out in zip(rows[::2], rows[1::2], strict=True):
        errors = f"| {trained['joint_rms']:.3f} | {held_out['joint_rms']:.3f} |"
        assert (trained["split"], held_out["split"]) == ("train", "validation")
        assert f"{errors} {held_out['coefficients_above_error']:,} |" in page, errors


def test_the_papers_figures_stand_beside_ours() -> None:
    assert load_benchmark("summary").table() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_was_not_kept_is_shown_as_it_was_measured() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for row in json.loads((ROOT / "docs" / "results" / "not_kept.json").read_text()):
        shown = f"| {row['variant']} | {row['psnr']:.2f} | {row['beta_elbo']:.1f} | {row['information_bits']:.1f} |"
        assert f"| {row['cpu_s']:.0f} {shown}" in page, shown


def load_benchmark(name: str) -> Any:
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_figures_in_the_readme_are_those_of_the_results_files() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    step = json.loads((ROOT / "docs" / "results" / "step_cost_mnist.json").read_text())
    assert f"{step['whole_step_cpu_seconds']:.3f} CPU-seconds" in readme
    for part in step["parts"].values():
        assert f"| {part['cpu_seconds']:.3f} |" in readme
    demo = json.loads((ROOT / "docs" / "results" / "digits_demo.json").read_text())
    for run in demo["runs"]:
        shown = f"| {run['seed']} | {run['readable']['greedy']:.1%} | {run['psnr_greedy']:.2f} | "
        assert shown + f"{min(run['symbols_alive_per_position']):.0%} | {run['train_seconds']:.0f} |" in readme, shown


def test_tables_of_the_robot_are_those_of_its_results() -> None:
    page = (ROOT / "docs" / "robot.md").read_text(encoding="utf-8")
    for table in load_benchmark("robot").tables(json.loads((ROOT / "docs" / "results" / "robot.json").read_text())):
        assert table in page, table
