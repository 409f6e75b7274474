"""Windows become codes with what came before them and what they are; training goes on bit for bit."""

import io
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from daps.data.gait import gait
from daps.methods.base import Autoencoder
from daps.motion import pose_features
from daps.presets import preset
from daps.robot.labels import measured
from daps.robot.planner import PlannerConfig
from daps.robot.planning import Planning, PlanningConfig, planning_data
from daps.scaling import Affine

TINY = PlannerConfig(width=16, heads=2, trunk_layers=1, token_layers=1, structure="free")
CLIPS = {"walk1": torch.from_numpy(gait(0, 80)), "run1": torch.from_numpy(gait(1, 50))}


@pytest.fixture(scope="module")
def tokenizer() -> Autoencoder:
    torch.manual_seed(0)
    config = preset("gait", "fsq")
    nets = replace(config.nets, width=16, heads=2, hidden=(8,), data_shape=(32, 36))
    return config.method.build(nets, Affine(), 10).eval()


def read(sentences: Sequence[str]) -> torch.Tensor:
    """Vectors that are functions of the words."""
    rows = [torch.randn(384, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in sentences]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def test_data_are_the_windows_of_the_clips(tokenizer: Autoencoder) -> None:
    data = planning_data(tokenizer, CLIPS, stride=3, batch=4)
    starts = [*range(2, 80 - 32 + 1, 3)]
    assert len(data) == len(starts) + len(range(2, 50 - 32 + 1, 3)) and data.codes.shape[1] == 16
    features = pose_features(CLIPS["walk1"]).float()
    for row, start in enumerate(starts):
        torch.testing.assert_close(data.past[row], pose_features(CLIPS["walk1"][start - 2 : start]).float())
        assert torch.equal(data.codes[row], tokenizer.encode(features[start : start + 32][None])[0])
        command = measured(CLIPS["walk1"][start - 1 : start + 32])
        assert data.commands[row].tolist() == pytest.approx([command.forward, command.left, command.turn])
    assert {each.kind for each in data.labels[: len(starts)]} <= {"walk", "stand"}
    assert {each.kind for each in data.labels[len(starts) :]} <= {"run", "stand"}
    with pytest.raises(ValueError, match="a plan needs clips of at least 34 frames"):
        planning_data(tokenizer, {"walk": CLIPS["walk1"][:33]}, 1)


def test_a_training_goes_on_bit_for_bit_and_learns(tokenizer: Autoencoder) -> None:
    data = planning_data(tokenizer, CLIPS, stride=3)
    config = PlanningConfig(steps=40, batch_size=8, learning_rate=3e-3)
    whole = Planning(data, tokenizer.vocab_size, read, config, TINY)
    figures = list(whole.run())
    assert figures[-1]["step"] == 40
    assert 0.05 < whole.optimizers[0].param_groups[0]["lr"] / 3e-3 < 0.06  # a step before the end of the decay
    assert sum(f["nats"] for f in figures[-5:]) < 0.8 * sum(f["nats"] for f in figures[:5])
    part, file = Planning(data, tokenizer.vocab_size, read, config, TINY), io.BytesIO()
    for _ in zip(range(15), part.run(), strict=False):
        pass
    torch.save(part.state_dict(), file)
    file.seek(0)
    rest = Planning(data, tokenizer.vocab_size, read, replace(config), TINY)
    rest.load_state_dict(torch.load(file))
    assert list(rest.run()) == figures[part.step :]
    same = zip(whole.planner.state_dict().values(), rest.planner.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_captions_of_a_window_vary(tokenizer: Autoencoder) -> None:
    data = planning_data(tokenizer, CLIPS, stride=3)
    training = Planning(data, tokenizer.vocab_size, read, PlanningConfig(steps=1), TINY)
    chance, rows = random.Random(0), torch.zeros(50, dtype=torch.long)
    found = training.conditions(rows, chance).text
    allowed = read(list(data.labels[0].wordings()))
    assert len(found.unique(dim=0)) > 5
    assert all(any(torch.equal(text, other) for other in allowed) for text in found)
    with pytest.raises(ValueError, match="planning.stride: must be >= 1, got 0"):
        PlanningConfig(stride=0)
