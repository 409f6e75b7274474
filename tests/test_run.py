"""Run folders: what is written comes back, and what is damaged or foreign is told in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import daps
from daps.cli import main
from daps.pictures import comparison, to_pixels
from daps.run import Run, pick_device, write_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    tiny = ["--train.steps", "2", "--train.batch-size", "4", "--nets.width", "8", "--nets.heads", "2"]
    main(["train", "digits", "--run", str(folder), "--device", "cpu", *tiny])
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy to spoil."""
    for path in trained.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return Run(tmp_path)


def test_load_gives_the_model_with_its_face(trained: Path) -> None:
    model = daps.load(trained)
    assert (model.num_tokens, model.vocab_size, model.bits, model.data_shape) == (8, 16, 32.0, (1, 8, 8))
    assert not model.training and model.encoder is not None and model.decoder is not None
    x = daps.data.load("digits", "validation")[:3]
    codes = model.encode(x)
    x_hat = model.decode(codes).mean
    assert x_hat.shape == x.shape and not x_hat.requires_grad
    assert torch.equal(codes, daps.load(trained).encode(x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((8, 8)), r"x: must have shape \[B, 1, 8, 8\], got \[8, 8\]; for one datum pass x\[None\]"),
        (np.zeros((2, 1, 8, 9)), r"got \[2, 1, 8, 9\]"),
        (np.full((1, 1, 8, 8), np.nan), "x: must be finite, got 64 NaN or infinite"),
    ],
)
def test_encode_tells_bad_data(trained: Path, x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        daps.load(trained).encode(x)


def test_decode_tells_bad_codes(trained: Path) -> None:
    model = daps.load(trained)
    with pytest.raises(ValueError, match=r"codes: must have shape \[..., "):
        model.decode(torch.zeros(model.num_tokens, dtype=torch.long))
    with pytest.raises(ValueError, match=r"symbols must lie in 0\.\."):
        model.decode(torch.full((1, model.num_tokens), model.vocab_size))
    with pytest.raises(ValueError, match=r"symbols must lie in 0\.\."):
        model.decode(torch.full((1, model.num_tokens), -1))


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_truncated_weights_are_told(run: Run, keep: int) -> None:
    run.model_path.write_bytes(run.model_path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged or not of this program") as caught:
        daps.load(run.path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_told(run: Run) -> None:
    settings = json.loads(run.config_path.read_text())
    settings["nets"]["width"] = 16
    write_json(run.config_path, settings)
    with pytest.raises(ValueError, match="does not fit the model of config.json") as caught:
        daps.load(run.path)
    assert "\n" not in str(caught.value)


def test_a_run_of_another_version_is_told(run: Run) -> None:
    settings = json.loads(run.config_path.read_text())
    write_json(run.config_path, settings | {"format": 3})
    with pytest.raises(ValueError, match="reads run format 2, the folder has 3; open it with the version"):
        daps.load(run.path)


def test_config_that_is_no_json_is_told(run: Run) -> None:
    run.config_path.write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        daps.load(run.path)


def test_missing_parts_are_told(run: Run, tmp_path: Path) -> None:
    run.model_path.unlink()
    with pytest.raises(ValueError, match="holds no model.safetensors yet"):
        daps.load(run.path)
    run.config_path.unlink()
    with pytest.raises(ValueError, match="holds no config.json"):
        daps.load(run.path)
    with pytest.raises(ValueError, match="no folder"):
        daps.load(tmp_path / "nowhere")


def test_metrics_survive_a_torn_last_row_and_rewind(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": step / 3})
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    run.rewind_metrics(2)
    assert run.metrics_path.read_text() == "".join(json.dumps({"step": s, "loss": s / 3}) + "\n" for s in (1, 2))


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cuda:x", "", "cpu:"):
        with pytest.raises(ValueError, match="device: must be auto"):
            pick_device(name)


def test_pictures_put_originals_over_reconstructions() -> None:
    images = np.zeros((3, 1, 2, 2))
    images[:, 0, 0, 0] = [0, 8, 16]
    pixels = to_pixels(images, 16.0)
    assert pixels.shape == (3, 2, 2, 3) and pixels[:, 0, 0, 0].tolist() == [0, 128, 255]
    sheet = np.asarray(comparison([pixels, 255 - pixels], gap=1, least=4))
    assert sheet.shape == (2 * 5 + 1, 3 * 5 + 1, 3)
    assert sheet[1, 11, 0] == 255 and sheet[6, 11, 0] == 0 and sheet[3, 11, 0] == 0


def test_pictures_of_vectors_and_sequences(tmp_path: Path) -> None:
    assert to_pixels(np.arange(6.0).reshape(2, 3), 1.0).shape == (2, 1, 3, 3)
    assert to_pixels(np.arange(24.0).reshape(2, 4, 3), 1.0).shape == (2, 3, 4, 3)
    Image.fromarray(to_pixels(np.arange(24.0).reshape(2, 4, 3), 1.0)[0]).save(tmp_path / "x.png")
