"""The kit that comes with the package: whole, small, and of no machine in particular."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from daps.robot import kit
from daps.robot.labels import Command
from daps.robot.pilot import Orders, Pilot
from daps.robot.text import Phrasebook


def test_the_shipped_kit_plans_motion_that_goes_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "has_weights", lambda: False)
    parts = kit.load_kit()
    assert isinstance(parts.reader, Phrasebook)
    pilot, past = Pilot(parts.planner, parts.tokenizer), None
    text = parts.reader.encode(["walk forward"] * 8)
    speeds = {}
    for speed in (0.0, 0.8):
        past, generator = pilot.rest(8), torch.Generator().manual_seed(0)
        for _ in range(3):
            plan, codes = pilot.plan(past, Orders(text, (Command(speed),) * 8), generator)
            past = plan[:, 19:21]
        assert codes.shape == (8, 64) and bool(torch.isfinite(plan).all())
        speeds[speed] = float((plan[:, -1, :2] - plan[:, 0, :2]).norm(dim=-1).mean()) / (31 / 30)
        height = plan[..., 2]
        assert float(height.min()) > 0.5 and float(height.max()) < 1.0
    assert speeds[0.0] < 0.25 and speeds[0.8] == pytest.approx(0.8, abs=0.2), speeds


def test_it_is_small_and_says_what_it_was_trained_on() -> None:
    files = [path for path in kit.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    configs = {path.parent.name: json.loads(path.read_text()) for path in files if path.name == "config.json"}
    assert {kit.TOKENIZER, kit.PLANNER, kit.TRACKER} <= set(configs)
    assert "walk1_subject1" in configs[kit.TRACKER]["clips"] and "walk2_subject4" not in configs[kit.TRACKER]["clips"]
    assert not any('"/' in path.read_text() for path in files if path.suffix == ".json")


def test_its_codes_are_for_its_parts_and_older_ones_are_named(tmp_path: Path) -> None:
    """The policy from codes reads windows as the tokenizer writes them; its settings name tokenizer and teacher."""
    policy, tokenizer = kit.load_code_tracker(kit.SHIPPED / kit.CODES), kit.load_tokenizer(kit.SHIPPED / kit.TOKENIZER)
    settings = json.loads((kit.SHIPPED / kit.CODES / "config.json").read_text())
    assert settings["tokenizer"] == kit.digest(kit.SHIPPED / kit.TOKENIZER)
    assert settings["teacher"] == kit.digest(kit.SHIPPED / kit.TRACKER)
    codes = torch.randint(tokenizer.vocab_size, (3, tokenizer.num_tokens), generator=torch.Generator().manual_seed(0))
    read = policy.read(codes, torch.zeros(3, 3))
    assert read.lengths.tolist() == [54] * 3 and bool(torch.isfinite(read.poses).all())  # 33 frames at 50 Hz
    old = tmp_path / "codes"
    shutil.copytree(kit.SHIPPED / kit.CODES, old)
    (old / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "tracker"}))
    with pytest.raises(ValueError, match="codes is of an earlier version; train it anew with daps robot distil"):
        kit.load_code_tracker(old)
