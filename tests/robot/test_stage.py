"""A stage can be stopped anywhere, goes on with the same command, and guards what its folder holds."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from daps.progress import Interrupted
from daps.robot.stage import read_settings, read_weights, train_stage
from daps.run import Run


class Counting:
    """Adds up random numbers that are functions of the step."""

    def __init__(self, total: int, stop: int | None = None) -> None:
        self.done, self.total, self.stop, self.sum = 0, total, stop, torch.zeros(1)

    def run(self) -> Iterator[dict[str, float]]:
        while self.done < self.total:
            self.sum += torch.rand(1, generator=torch.Generator().manual_seed(self.done))
            self.done += 1
            if self.done == self.stop:
                os.kill(os.getpid(), signal.SIGINT)
            yield {"step": self.done, "cost": float(self.sum)}

    def weights(self) -> dict[str, torch.Tensor]:
        return {"sum": self.sum}

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "sum": self.sum}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.done, self.sum = saved["done"], saved["sum"]


SETTINGS = {"kind": "counting", "sizes": {"total": 10, "hidden": (3, 4)}}


def test_a_stopped_stage_ends_where_an_unstopped_one_does(tmp_path: Path) -> None:
    train_stage(tmp_path / "whole", Counting(10), SETTINGS, log_every=2)
    with pytest.raises(Interrupted, match="stopped at 5 of 10 steps; the same command resumes it"):
        train_stage(tmp_path / "part", Counting(10, stop=5), SETTINGS, log_every=2)
    with pytest.raises(ValueError, match=r"part holds no weights.safetensors: its training is not done"):
        read_weights(tmp_path / "part")
    train_stage(tmp_path / "part", Counting(10), SETTINGS, log_every=2)
    whole, part = (read_weights(tmp_path / name)["sum"] for name in ("whole", "part"))
    assert torch.equal(whole, part) and whole > 1
    rows = Run(tmp_path / "whole").metrics()
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10]
    assert [row["step"] for row in Run(tmp_path / "part").metrics()] == [2, 4, 5, 7, 9, 10]
    numbers = [float(torch.rand(1, generator=torch.Generator().manual_seed(step))) for step in range(2)]
    assert rows[0]["cost"] == pytest.approx(numbers[0] + numbers[1] / 2)
    assert read_settings(tmp_path / "whole")["sizes"] == {"total": 10, "hidden": [3, 4]}
    train_stage(tmp_path / "whole", Counting(10), SETTINGS)  # done already: nothing changes
    assert torch.equal(read_weights(tmp_path / "whole")["sum"], whole)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_stage(folder, Counting(2), SETTINGS)
    other = {"kind": "counting", "sizes": {"total": 11, "hidden": (3, 4)}}
    with pytest.raises(
        ValueError, match=r"holds another training: sizes.total \(there 10, now 11\); give the same options"
    ):
        train_stage(folder, Counting(2), other)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="full exists and is no folder of this stage; choose another"):
        train_stage(full, Counting(2), SETTINGS)
    assert [path.name for path in full.iterdir()] == ["letter.txt"]
    (folder / "state.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"state.pt is damaged \(.*\); delete it to begin anew"):
        train_stage(folder, Counting(2), SETTINGS)
