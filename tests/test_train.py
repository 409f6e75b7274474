"""Training: resume is running the command again, bit for bit; a broken save or step loses nothing."""

import dataclasses
import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from daps.atomic import replacing
from daps.config import Config
from daps.data import Dataset
from daps.methods import METHODS
from daps.presets import preset
from daps.progress import Interrupted
from daps.run import Run, exclusive
from daps.scaling import Affine
from daps.train import MAX_SKIPPED, Trainer, build_model, resolve, train

STEPS = 12


def make_data(seed: int = 0, shape: tuple[int, ...] = (1, 8, 8), count: int = 40) -> tuple[Dataset, Dataset]:
    values = np.random.default_rng(seed).integers(0, 17, (count, *shape)).astype(np.uint8)
    about = "random numbers"
    return (
        Dataset(values[8:], "digits", "train", 16.0, about),
        Dataset(values[:8], "digits", "validation", 16.0, about),
    )


def make_config(method: str = "daps", steps: int = STEPS, **method_options: object) -> Config:
    config = preset("digits", method)
    nets = dataclasses.replace(config.nets, width=8, hidden=(16,), heads=2)
    return dataclasses.replace(
        config,
        nets=nets,
        method=dataclasses.replace(config.method, **method_options),
        train=dataclasses.replace(config.train, steps=steps, batch_size=4),
        runtime=dataclasses.replace(config.runtime, log_every=3, eval_every=6, save_every=6),
    )


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C arrives during the given step."""
    advance = Trainer.advance

    def interrupted(self: Trainer, dataset: Dataset) -> None:
        advance(self, dataset)
        if self.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "advance", interrupted)


def rows_without_clocks(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if "seconds" not in k and k != "peak_mb"} for row in run.metrics()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [1, 4, 6, 11])
def test_interrupted_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stop: int
) -> None:
    config, data = make_config(method), make_data()
    whole = train(config, tmp_path / "whole", data, "cpu")
    with monkeypatch.context() as patch:
        interrupt_at(patch, stop)
        with pytest.raises(Interrupted, match=f"step {stop} of {STEPS}"):
            train(config, tmp_path / "parts", data, "cpu")
    parts = train(config, tmp_path / "parts", data, "cpu")
    assert whole.model_path.read_bytes() == parts.model_path.read_bytes()
    one, other = load_file(whole.state_path), load_file(parts.state_path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows_without_clocks(whole) == rows_without_clocks(parts)


def test_gradient_eta_resumes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = make_config(eta="gradient"), make_data()
    whole = train(config, tmp_path / "whole", data, "cpu")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "parts", data, "cpu")
    parts = train(config, tmp_path / "parts", data, "cpu")
    assert whole.model_path.read_bytes() == parts.model_path.read_bytes()
    assert load_file(whole.model_path)["log_eta"] != torch.tensor(100.0).log()


OPTIONS = {"optimizer": "muon", "ema": 0.9, "warmup": 5}
PARTS = {"trained": 4, "fullness": 0.5, "fullness_first": 0.0, "fullness_last": 0.5, "rate": 10.0}


def with_options(config: Config, **options: object) -> Config:
    """Other settings of the training."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **options))


@pytest.mark.parametrize(("stop", "method_options"), [(7, {}), (4, PARTS)], ids=["paper", "parts"])
def test_muon_averages_and_parts_with_a_state_resume_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, method_options: dict[str, object]
) -> None:
    config, data = with_options(make_config(**method_options), **OPTIONS), make_data()
    whole = train(config, tmp_path / "whole", data, "cpu")
    with monkeypatch.context() as patch:
        interrupt_at(patch, stop)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "parts", data, "cpu")
    parts = train(config, tmp_path / "parts", data, "cpu")
    assert whole.model_path.read_bytes() == parts.model_path.read_bytes()
    one, other = load_file(whole.state_path), load_file(parts.state_path)
    assert one.keys() == other.keys()
    assert {name.split(".")[0] for name in one} == {"model", "optimizer", "average"}
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows_without_clocks(whole) == rows_without_clocks(parts)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    config, data = make_config(), make_data()
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=1))
    runs = [train(c, tmp_path / str(i), data, "cpu") for i, c in enumerate((config, other))]
    assert runs[0].model_path.read_bytes() != runs[1].model_path.read_bytes()


def test_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    config, data = make_config(), make_data()
    run = train(config, tmp_path / "run", data, "cpu")
    before = run.state_path.read_bytes(), run.metrics_path.read_bytes()
    train(config, tmp_path / "run", data, "cpu")
    assert (run.state_path.read_bytes(), run.metrics_path.read_bytes()) == before


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the second checkpoint has been written half: at the first sync after the first one."""
    config, data = make_config(), make_data()
    whole = train(config, tmp_path / "whole", data, "cpu")
    run = Run(tmp_path / "run")
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if run.model_path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr("daps.train.save_comparison", lambda *_: None)  # the first to fail would be a picture
        with pytest.raises(OSError, match="No space left"):
            train(config, run.path, data, "cpu")
    loaded = run.load_state()
    assert loaded is not None and loaded[1]["step"] == 6
    assert not list(run.path.glob("*.part")) + list(run.path.glob(".*.part"))
    resumed = train(config, run.path, data, "cpu")
    assert resumed.model_path.read_bytes() == whole.model_path.read_bytes()


def test_kill_between_saves_resumes_bit_for_bit(tmp_path: Path) -> None:
    """A real process, really killed: twice, at a moment nobody chose."""
    command = [
        *(sys.executable, "-m", "daps", "train", "digits", "--device", "cpu", "--train.steps", "60"),
        *("--train.batch-size", "8", "--nets.width", "8", "--nets.heads", "2", "--nets.hidden", "16"),
        *("--runtime.threads", "1", "--runtime.save-every", "5", "--runtime.eval-every", "60"),
    ]
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    subprocess.run([*command, "--run", str(whole.path)], check=True, capture_output=True)
    for _ in range(2):
        process = subprocess.Popen([*command, "--run", str(parts.path)], stdout=subprocess.DEVNULL)
        before = parts.state_path.stat().st_mtime_ns if parts.state_path.exists() else 0
        deadline = time.monotonic() + 60
        while not (parts.state_path.exists() and parts.state_path.stat().st_mtime_ns > before):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
    subprocess.run([*command, "--run", str(parts.path)], check=True, capture_output=True)
    assert whole.model_path.read_bytes() == parts.model_path.read_bytes()
    assert rows_without_clocks(whole) == rows_without_clocks(parts)


def trainer(config: Config | None = None, data: Dataset | None = None) -> tuple[Trainer, Dataset]:
    data = data or make_data()[0]
    resolved = resolve(config or make_config(), data)
    return Trainer(resolved, build_model(resolved, data)), data


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_learning_rate_rises_and_then_decays(optimizer: str) -> None:
    options = {"optimizer": optimizer, "warmup": 4, "learning_rate": 0.01, "learning_rate_decay": 0.1}
    loop, data = trainer(with_options(make_config(eta="gradient"), **options))
    for step in range(6):
        loop.advance(data)
        factor = min(1, (step + 1) / 4) * (0.1 + 0.9 * (1 + math.cos(math.pi * step / STEPS)) / 2)
        rates = {group["lr"] for each in loop.optimizers for group in each.param_groups}
        assert sorted(rates) == pytest.approx([1e-3 * factor, 0.01 * factor], rel=1e-12)  # log eta has its own


def test_the_moving_average_of_the_weights_is_what_is_kept(tmp_path: Path) -> None:
    loop, data = trainer(with_options(make_config(rate=10.0), ema=0.9))
    expected: dict[str, torch.Tensor] = {}
    for _ in range(4):
        loop.advance(data)
        for name, p in loop.model.named_parameters():
            now = p.detach().double()
            expected[name] = 0.9 * expected[name] + 0.1 * now if name in expected else now
    run = Run(tmp_path)
    loop.save(run)
    kept = load_file(run.model_path)
    for name, value in expected.items():
        torch.testing.assert_close(kept[name].double(), value, rtol=1e-6, atol=1e-7)  # float32 at every step
    assert any(not torch.equal(kept[name], p) for name, p in loop.model.named_parameters())
    for name, buffer in loop.model.named_buffers():  # not averaged
        assert name not in kept or torch.equal(kept[name], buffer)
    assert float(kept["beta.log_beta"]) != 0  # its logarithm at the first step


def test_without_an_average_the_weights_themselves_are_kept() -> None:
    loop, _ = trainer()
    assert loop.average is None and loop.result is loop.model


def test_non_finite_steps_are_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, data = trainer()
    forward = type(loop.model).forward

    def spoiled(self: torch.nn.Module, x: torch.Tensor, step: int) -> object:
        loss, metrics = forward(self, x, step)
        return loss * (float("nan") if step == 1 else 1.0), metrics

    monkeypatch.setattr(type(loop.model), "forward", spoiled)
    snapshots = []
    for _ in range(3):
        loop.advance(data)
        snapshots.append({name: tensor.clone() for name, tensor in loop.model.state_dict().items()})
    assert loop.skipped == 1 and loop.skipped_in_a_row == 0 and loop.step == 3
    assert all(torch.equal(snapshots[0][name], snapshots[1][name]) for name in snapshots[0])
    assert any(not torch.equal(snapshots[1][name], snapshots[2][name]) for name in snapshots[0])
    row = loop.row()
    assert row["skipped"] == 1 and np.isfinite(row["loss"])


def test_too_many_skipped_steps_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, data = trainer()
    forward = type(loop.model).forward

    def spoiled(self: torch.nn.Module, x: torch.Tensor, step: int) -> object:
        loss, metrics = forward(self, x, step)
        return loss * float("inf"), metrics

    monkeypatch.setattr(type(loop.model), "forward", spoiled)
    with pytest.raises(ValueError, match=f"{MAX_SKIPPED} steps in a row"):
        for _ in range(MAX_SKIPPED + 1):
            loop.advance(data)
    assert loop.step == MAX_SKIPPED


def test_a_folder_with_another_experiment_is_refused(tmp_path: Path) -> None:
    config, data = make_config(), make_data()
    train(config, tmp_path / "run", data, "cpu")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=STEPS + 1))
    with pytest.raises(ValueError, match=r"another experiment: train.steps \(there 12, now 13\)"):
        train(longer, tmp_path / "run", data, "cpu")
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


def test_how_a_run_is_carried_out_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = make_config(), make_data()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", data, "cpu")
    moved = dataclasses.replace(
        config,
        runtime=dataclasses.replace(config.runtime, log_every=2),
        data=dataclasses.replace(config.data, path="elsewhere"),
    )
    run = train(moved, tmp_path / "run", data, "cpu")
    assert run.config().data.path == "elsewhere"


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is no run folder"):
        train(make_config(), tmp_path, make_data(), "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_data_of_another_shape_are_refused(tmp_path: Path) -> None:
    config = resolve(make_config(), make_data()[0])
    with pytest.raises(ValueError, match=r"shape \[1, 8, 8\].*now has \[1, 8, 4\]"):
        resolve(config, make_data(shape=(1, 8, 4))[0])


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_truncated_checkpoint_is_told_in_one_line(tmp_path: Path, keep: int) -> None:
    config, data = make_config(), make_data()
    run = train(config, tmp_path / "run", data, "cpu")
    run.state_path.write_bytes(run.state_path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged or not of this program") as caught:
        train(config, run.path, data, "cpu")
    assert "\n" not in str(caught.value)


def test_replacing_removes_its_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("good")
    with pytest.raises(RuntimeError), replacing(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert target.read_text() == "good" and list(tmp_path.iterdir()) == [target]


def test_other_data_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    train(make_config(), tmp_path / "run", make_data(), "cpu")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    with pytest.raises(ValueError, match="was trained on other data .*; give the same data, or another folder"):
        train(make_config(), tmp_path / "run", make_data(seed=1), "cpu")
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


def test_a_kill_between_the_files_of_the_last_save_is_mended(tmp_path: Path) -> None:
    run = train(make_config(), tmp_path / "run", make_data(), "cpu")
    weights = run.model_path.read_bytes()
    run.model_path.unlink()
    train(make_config(), tmp_path / "run", make_data(), "cpu")
    assert run.model_path.read_bytes() == weights


def test_weights_without_a_state_are_not_trained_over(tmp_path: Path) -> None:
    run = train(make_config(), tmp_path / "run", make_data(), "cpu")
    weights = run.model_path.read_bytes()
    run.state_path.unlink()
    with pytest.raises(ValueError, match="holds weights but no state.safetensors to resume from; choose another"):
        train(make_config(), tmp_path / "run", make_data(), "cpu")
    assert run.model_path.read_bytes() == weights


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path / "run"), pytest.raises(ValueError, match="another process trains in"):
        train(make_config(), tmp_path / "run", make_data(), "cpu")
    train(make_config(), tmp_path / "run", make_data(), "cpu")


def test_a_diverged_model_does_not_replace_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(steps=200)
    config = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, save_every=5, eval_every=500))
    model = config.method.build(resolve(config, make_data()[0]).nets, Affine(), 1)
    forward = type(model).forward

    def spoiled(self: torch.nn.Module, x: torch.Tensor, step: int) -> object:
        loss, metrics = forward(self, x, step)
        return loss * (1.0 if step < 12 else float("nan")), metrics

    monkeypatch.setattr(type(model), "forward", spoiled)
    with pytest.raises(ValueError, match="the last checkpoint is kept"):
        train(config, tmp_path / "run", make_data(), "cpu")
    loaded = Run(tmp_path / "run").load_state()
    assert loaded is not None and loaded[1]["step"] == 10


def test_a_skipped_step_leaves_the_batch_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config()
    nets = dataclasses.replace(
        config.nets, decoder_kind="conv", decoder_grid=(2, 4), hidden=(8,), norm="batch", num_tokens=8, vocab_size=4
    )
    data = make_data(shape=(1, 8, 16))[0]
    loop, _ = trainer(dataclasses.replace(config, nets=nets), data)
    buffers = {name: buffer.clone() for name, buffer in loop.model.named_buffers()}
    forward = type(loop.model).forward

    def spoiled(self: torch.nn.Module, x: torch.Tensor, step: int) -> object:
        loss, metrics = forward(self, x, step)
        return loss * float("nan"), metrics

    monkeypatch.setattr(type(loop.model), "forward", spoiled)
    loop.advance(data)
    assert loop.skipped == 1
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in loop.model.named_buffers())


def test_environment_remembers_where_a_run_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            train(make_config(), tmp_path / "run", make_data(), "cpu")
    run = train(make_config(), tmp_path / "run", make_data(), "cpu")
    record = run.read_json("environment.json")
    assert [entry["step"] for entry in record["resumed"]] == [4]
    train(make_config(), tmp_path / "run", make_data(), "cpu")
    assert run.read_json("environment.json") == record
