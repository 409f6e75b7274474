"""A training of the tracker may begin with another one's, or with the policy of a kit, which has no world model."""

import copy
import json
from pathlib import Path

import mujoco
import pytest
import torch
from safetensors.torch import load_file

from daps.cli import main
from daps.data.clips import write_clip
from daps.data.gait import gait
from daps.robot.model import build
from daps.robot.reference import References
from daps.robot.tracker import TrackerConfig
from daps.robot.tracking import Tracking, TrackingConfig
from robot.stick import write_stick

SIZES = "--tracking.robots 4 --tracking.segment 4 --tracking.capacity 8 --tracking.foresight 2 --tracking.horizon 2"
TINY = f"{SIZES} --tracking.batch-size 4 --tracking.world-hidden 8 --tracker.hidden 8 --tracker.lookahead 1 2".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robot")
    (folder / "clips").mkdir()
    for seed in range(3):
        write_clip(folder / "clips" / f"walk{seed}.csv", gait(seed, 60))
    write_stick(folder)
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> mujoco.MjModel:
    return build(place / "stick.xml", light=True)


def training(model: mujoco.MjModel, seed: int, settle: float = 0.5) -> Tracking:
    """Six rounds of eight robots."""
    sizes = TrackingConfig(192, 8, 0.3, 4, 16, foresight=2, horizon=3, world_hidden=(16,), batch_size=8, settle=settle,
                           seed=seed)  # fmt: skip
    walk = References.of({"a": torch.from_numpy(gait(0, 60))})
    return Tracking(model, walk, sizes, TrackerConfig((16,), (1, 3)))


def test_a_policy_waits_for_its_world_model(model: mujoco.MjModel) -> None:
    first, second = training(model, 0), training(model, 1)
    list(first.run())
    given = copy.deepcopy(first.weights())
    second.take_over({"tracker": given})
    units = second.world.net[0].weight.clone()
    for number, figures in enumerate(second.run()):
        same = all(torch.equal(value, given[name]) for name, value in second.weights().items())
        assert same == (number < 3) and figures["cost"] > 0  # half of the rounds
        if number == 0:
            assert not torch.equal(second.world.net[0].weight, units)  # which learns from the first round on
            assert second.world.inputs.mean.abs().max() > 0  # in units of its own
    assert torch.equal(second.tracker.inputs.mean, given["inputs.mean"])
    both = training(model, 1)
    both.take_over(first.state_dict())
    next(iter(both.run()))
    assert any(not torch.equal(value, given[name]) for name, value in both.weights().items())  # nothing to wait for


def test_a_stopped_training_goes_on_waiting(model: mujoco.MjModel) -> None:
    first = training(model, 0)
    whole, part = training(model, 1), training(model, 1)
    for one in (whole, part):
        one.take_over({"tracker": copy.deepcopy(first.weights())})
    list(whole.run())
    for _ in zip(range(2), part.run(), strict=False):
        pass
    rest = training(model, 1)
    rest.load_state_dict(copy.deepcopy(part.state_dict()))
    list(rest.run())
    assert all(torch.equal(value, rest.weights()[name]) for name, value in whole.weights().items())


def test_from_a_kits_folder(place: Path) -> None:
    clips, stick = str(place / "clips"), ["--model", str(place / "stick.xml")]
    main(["robot", "track", clips, "--run", str(place / "first"), *stick, *TINY, "--tracking.samples", "32"])
    (place / "first" / "state.pt").unlink()  # as a kit has it
    more = ["--run", str(place / "second"), "--start", str(place / "first"), "--tracking.samples", "64"]
    main(["robot", "track", clips, *more, *stick, *TINY, "--tracking.settle", "1.0"])
    settings = json.loads((place / "second" / "config.json").read_text())
    assert settings["start"] and str(place) not in settings["start"]
    begun, ended = (load_file(place / name / "weights.safetensors") for name in ("first", "second"))
    assert all(torch.equal(ended[name], value) for name, value in begun.items())  # it waited to the end


def test_a_start_that_is_finished_later_is_the_same_start(place: Path) -> None:
    clips, stick = str(place / "clips"), ["--model", str(place / "stick.xml")]
    half = ["--run", str(place / "half"), *stick, *TINY, "--tracking.samples", "32"]
    main(["robot", "track", clips, *half])
    weights = (place / "half" / "weights.safetensors").read_bytes()
    (place / "half" / "weights.safetensors").unlink()  # as of a training that was stopped
    more = ["--run", str(place / "third"), "--start", str(place / "half"), "--tracking.samples", "64", *stick, *TINY]
    main(["robot", "track", clips, *more])
    assert json.loads((place / "third" / "config.json").read_text())["start"] == str(place / "half")
    (place / "half" / "weights.safetensors").write_bytes(weights)
    (place / "third" / "weights.safetensors").unlink()
    main(["robot", "track", clips, *more])  # goes on
    assert (place / "third" / "weights.safetensors").is_file()
