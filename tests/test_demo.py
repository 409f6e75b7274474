"""What the default preset promises, by training it: slow, so `make test-slow` runs it."""

from pathlib import Path

import pytest
from sklearn.neighbors import KNeighborsClassifier

import daps
from daps.cli import main
from daps.run import Run


@pytest.mark.slow
def test_the_demo_leaves_digits_readable_and_symbols_alive(tmp_path: Path) -> None:
    main(["train", "digits", "--run", str(tmp_path / "run"), "--device", "cpu"])
    main(["eval", str(tmp_path / "run"), "--device", "cpu"])
    model, figures = daps.load(tmp_path / "run"), Run(tmp_path / "run").read_json("evaluation.json")
    train, held_out = daps.data.load("digits", "train"), daps.data.load("digits", "validation")
    classifier = KNeighborsClassifier().fit(train.values.reshape(len(train), -1), train.labels)
    decoded = model.decode(model.encode(held_out[:])).mean.numpy()
    assert 24 <= model.bits <= 32
    assert classifier.score(decoded.reshape(len(held_out), -1), held_out.labels) >= 0.9
    assert min(figures["greedy"]["usage_per_position"]) >= 0.8
