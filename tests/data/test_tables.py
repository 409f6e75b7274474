import io
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from daps.data import load

COLUMNS = {"mnist": "image", "cifar10": "img"}
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def pictures(name: str, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *SHAPES[name]), dtype=np.uint8)


def table(name: str, values: np.ndarray) -> pa.Table:
    rows = []
    for value in values:
        stream = io.BytesIO()
        if name == "mnist":
            Image.fromarray(value[0]).save(stream, "PNG")
        else:
            Image.fromarray(value.transpose(1, 2, 0)).save(stream, "WEBP", lossless=True)
        rows.append({"bytes": stream.getvalue(), "path": None})
    return pa.table({COLUMNS[name]: rows, "label": [i % 10 for i in range(len(values))]})


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize("pieces", [False, True])
def test_local_parquet_is_read_exactly(tmp_path, name, pieces):
    train, test = pictures(name, 23, 0), pictures(name, 12, 1)
    for stem, values in (("train", train), ("test", test)):
        if pieces:
            for part, rows in enumerate((values[:5], values[5:])):
                whole = table(name, values)
                cut = whole.slice(0, 5) if part == 0 else whole.slice(5)
                assert len(cut) == len(rows)
                pq.write_table(cut, tmp_path / f"{stem}-{part:05d}-of-00002.parquet")
        else:
            pq.write_table(table(name, values), tmp_path / f"{stem}.parquet", row_group_size=4)
    for split, values in (("train", train), ("validation", test)):
        for _ in ("fresh", "cached"):
            data = load(name, split, path=tmp_path)
            assert np.array_equal(data.values, values) and data.values.dtype == np.uint8
            assert data.labels.tolist() == [i % 10 for i in range(len(values))]
            assert (data.name, data.split, data.peak) == (name, split, 255.0)
            assert "validation its test split" in data.about


def test_bad_rows_are_left_out_with_their_labels(tmp_path):
    values = pictures("mnist", 4, 0)
    rows = table("mnist", values).to_pylist()
    rows[1]["image"]["bytes"] = b"junk"
    stream = io.BytesIO()
    Image.new("L", (5, 5)).save(stream, "PNG")
    rows[2]["image"]["bytes"] = stream.getvalue()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    with pytest.warns(UserWarning, match="left out 2: train#1: not a picture .*; train#2: must be"):
        data = load("mnist", "train", path=tmp_path)
    assert np.array_equal(data.values, values[[0, 3]]) and data.labels.tolist() == [0, 3]
    assert data.skipped[1] == "train#2: must be 28x28, got 5x5"


def test_bad_folders_are_refused_in_one_line(tmp_path):
    for name in ("empty", "columns", "junk", "none", "text", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    good = table("mnist", pictures("mnist", 2, 0))
    pq.write_table(good.rename_columns(["img", "label"]), tmp_path / "columns" / "train.parquet")
    (tmp_path / "junk" / "train.parquet").write_bytes(b"junk")
    pq.write_table(good.slice(0, 0), tmp_path / "none" / "train.parquet")
    text = pa.table({"image": ["a"], "label": [1]})
    pq.write_table(text, tmp_path / "text" / "train.parquet")
    labels = good.set_column(1, "label", pa.array(["one", "two"]))
    pq.write_table(labels, tmp_path / "labels" / "train.parquet")
    cases = {
        "missing": "does not exist: want a folder with train.parquet",
        "file": "is a file: want a folder with train.parquet",
        "empty": "holds no train.parquet (nor train-*.parquet)",
        "columns": "has no column 'image': its columns are 'img', 'label'",
        "junk": "not a readable parquet file",
        "none": "has no rows",
        "text": "column 'image' must hold encoded pictures",
        "labels": "column 'label' must hold one whole number a row",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError) as error:
            load("mnist", "train", path=tmp_path / name)
        assert message in str(error.value), name
        assert str(error.value).startswith("data 'mnist'") and "\n" not in str(error.value)


def test_the_hub_out_of_reach_is_one_line(monkeypatch):
    def load_dataset(*arguments, **options):
        raise ConnectionError("Couldn't reach the hub\nat all")

    fake = SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(__import__("sys").modules, "datasets", fake)
    with pytest.raises(ValueError) as error:
        load("cifar10", "train")
    assert str(error.value) == (
        "data 'cifar10': uoft-cs/cifar10 cannot be had from the hub (ConnectionError: Couldn't "
        "reach the hub at all): pass a folder with train.parquet and test.parquet with --data.path"
    )


def test_the_hub_gives_the_same_as_its_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    values = pictures("mnist", 30, 2)
    pq.write_table(table("mnist", values), tmp_path / "test.parquet")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    whole = datasets.Dataset.from_parquet(
        str(tmp_path / "test.parquet"), features=features, cache_dir=str(tmp_path / "hub")
    )
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return whole

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub, local = load("mnist", "validation"), load("mnist", "validation", path=tmp_path)
    assert asked == [("ylecun/mnist", "test")]
    assert np.array_equal(hub.values, values) and np.array_equal(local.values, values)
    assert hub.labels.tolist() == local.labels.tolist() and "ylecun/mnist" in hub.about


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "counts"), [("mnist", (60_000, 10_000)), ("cifar10", (50_000, 10_000))])
def test_real_validation_split(real_data, name, counts):
    data = load(name, "validation", path=real_data / name)
    assert data.values.shape == (counts[1], *SHAPES[name]) and not data.skipped
    assert np.bincount(data.labels).min() > 800 and data.values.max() == 255
    train = pq.ParquetFile(real_data / name / "train.parquet")
    assert train.metadata.num_rows == counts[0]
    column = pq.read_table(real_data / name / "test.parquet").column(COLUMNS[name])
    for row in (0, 1, 9_999):
        image = Image.open(io.BytesIO(column[row]["bytes"].as_py()))
        want = np.asarray(image).reshape(*SHAPES[name][1:], -1).transpose(2, 0, 1)
        assert np.array_equal(data[row], want)
