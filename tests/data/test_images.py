import io
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from daps.data import load


def fill(folder: Path, names: list[str]) -> Path:
    """A picture of its own colour for each name."""
    for i, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (i, 255 - i, 100)).save(file)
    return folder


def colours(values: np.ndarray) -> list[int]:
    return values[:, 0, 0, 0].tolist()


def encoded(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


NAMES = [f"{folder}/{i}.png" for folder in ("a", "b/c") for i in range(15)]


def test_a_plain_folder_is_split_by_names_wherever_it_lies(tmp_path):
    here = fill(tmp_path / "here", NAMES)
    there = tmp_path / "else" / "where"
    shutil.copytree(here, there)
    splits = {}
    for place in (here, there):
        train, validation = (load("images", s, path=place, size=8) for s in ("train", "validation"))
        assert train.values.dtype == np.uint8 and train.shape == (3, 8, 8) and train.peak == 255.0
        assert not set(train.names) & set(validation.names)
        assert set(train.names) | set(validation.names) == set(NAMES)
        assert len(validation) >= 1 and f"{len(validation)} of 30 pictures" in train.about
        for data in (train, validation):
            assert colours(data.values) == [NAMES.index(name) for name in data.names]
        splits[place] = (train.names, validation.names)
    assert splits[here] == splits[there]
    assert load("images", "train", path=here).shape == (3, 64, 64)


def test_two_pictures_are_one_each_and_one_is_too_few(tmp_path):
    fill(tmp_path, ["x.png", "y.jpg"])
    assert len(load("images", "train", path=tmp_path)) == 1
    assert len(load("images", "validation", path=tmp_path)) == 1
    (tmp_path / "y.jpg").unlink()
    with pytest.raises(ValueError) as error:
        load("images", "train", path=tmp_path)
    assert str(error.value) == f"{tmp_path}: a split needs at least 2 readable pictures, got 1"


@pytest.mark.parametrize("held_out", ["validation", "val", "test"])
def test_named_folders_are_the_splits(tmp_path, held_out):
    fill(tmp_path, ["train/a.png", "train/b/c.png", f"{held_out}/d.png", "other/e.png"])
    train = load("images", "train", path=tmp_path, size=4)
    validation = load("images", "validation", path=tmp_path, size=4)
    assert train.names == ("train/a.png", "train/b/c.png") and colours(train.values) == [0, 1]
    assert validation.names == (f"{held_out}/d.png",) and colours(validation.values) == [2]
    assert f"train and {held_out}" in train.about


def test_bad_pictures_are_named_and_left_out(tmp_path):
    fill(tmp_path, NAMES)
    (tmp_path / "a" / "3.png").write_bytes(b"junk")
    whole = (tmp_path / "a" / "4.png").read_bytes()
    (tmp_path / "a" / "4.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not a picture, and not called one")
    for split in ("train", "validation"):
        with pytest.warns(UserWarning, match=r"left out 2: .*a/[34]\.png: ") as caught:
            data = load("images", split, path=tmp_path, size=4)
        assert len([w for w in caught if "left out" in str(w.message)]) == 1
        assert {line.split(":")[0] for line in data.skipped} == {"a/3.png", "a/4.png"}
        assert not {"a/3.png", "a/4.png"} & set(data.names)
        assert colours(data.values) == [NAMES.index(name) for name in data.names]


def test_strange_names_are_no_trouble(tmp_path):
    names = ["a b.png", "caf\u00e9.png", "#1.PNG", "100%.png"]
    fill(tmp_path, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [*load("images", "train", path=tmp_path).names]
        found += load("images", "validation", path=tmp_path).names
    assert len(found) == 4


def test_bad_folders_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    fill(tmp_path / "both", ["a.png"])
    (tmp_path / "both" / "b.parquet").write_bytes(b"")
    fill(tmp_path / "hollow", ["train/a.png", "train/b.png"])
    (tmp_path / "hollow" / "validation").mkdir()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.png").write_bytes(b"junk")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    pq.write_table(pa.table({"picture": [b"x"]}), tmp_path / "column.parquet")
    pq.write_table(pa.table({"image": ["x"]}), tmp_path / "text.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "none.parquet")
    cases = {
        "missing": "there is no such folder",
        "file.txt": "is a file: images wants a folder of pictures, or a .parquet",
        "empty": "holds no picture: want .png, .jpg, .webp and the like",
        "both": "holds 1 pictures and 1 parquet files: pass a folder with one kind",
        "hollow": "its folder validation holds no picture",
        "junk": "none of 1 pictures could be decoded, the first: a.png: not a picture",
        "junk.parquet": "not a readable parquet file",
        "column.parquet": "has no column 'image': its columns are 'picture'",
        "text.parquet": "must hold encoded pictures (binary, or a struct with a field 'bytes'), got string",
        "none.parquet": "its parquet files have no rows",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError) as error:
            load("images", "train", path=tmp_path / name)
        assert message in str(error.value), name
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_rows_are_split_by_their_names(tmp_path, nested):
    blobs = [encoded(i) for i in range(40)]
    blobs[7] = b"junk"
    rows = [{"bytes": blob, "path": None} for blob in blobs] if nested else blobs
    rows[9] = None
    pq.write_table(pa.table({"image": rows[:25], "x": [0] * 25}), tmp_path / "p.parquet")
    pq.write_table(pa.table({"image": rows[25:], "x": [0] * 15}), tmp_path / "q.parquet")
    seen = []
    for split in ("train", "validation"):
        with pytest.warns(UserWarning, match="left out 2"):
            data = load("images", split, path=tmp_path, size=8)
        assert {line.split(":")[0] for line in data.skipped} == {"p.parquet#7", "p.parquet#9"}
        numbers = [int(n[10:]) + (25 if n[0] == "q" else 0) for n in data.names]
        assert colours(data.values) == numbers and numbers
        seen += numbers
    assert sorted(seen) == [i for i in range(40) if i not in (7, 9)]


def test_parquet_files_named_after_splits(tmp_path):
    (tmp_path / "data").mkdir()
    for name, colour in (("train-00000-of-00001", 1), ("validation-00000-of-00001", 2)):
        table = pa.table({"image": [encoded(colour)] * 3})
        pq.write_table(table, tmp_path / "data" / f"{name}.parquet")
    assert colours(load("images", "train", path=tmp_path, size=8).values) == [1] * 3
    assert colours(load("images", "validation", path=tmp_path, size=8).values) == [2] * 3


@pytest.mark.realdata
def test_real_photographs(real_data):
    path = real_data / "photos256"
    train = load("images", "train", path=path, size=64)
    validation = load("images", "validation", path=path, size=64)
    assert len(train) + len(validation) == 1514 and train.shape == (3, 64, 64)
    assert 100 < len(validation) < 200 and not train.skipped
    assert not set(train.names) & set(validation.names)
