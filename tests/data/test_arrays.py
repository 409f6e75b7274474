import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from daps.data import load
from daps.data.arrays import check_rows

SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5)


@given(hnp.arrays(st.sampled_from([np.int64, np.float64, np.float16, np.uint8, bool, ">f4"]),
                  SHAPES, elements=st.integers(0, 1)))  # fmt: skip
def test_every_real_dtype_becomes_float32(values):
    rows = check_rows(values, "x")
    assert rows.dtype == np.float32 and rows.dtype.isnative and np.array_equal(rows, values)


@pytest.mark.parametrize("shape", [(23, 4), (23, 5, 3)])
def test_single_array_is_split_by_a_fixed_seed(tmp_path, shape):
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", anything=values)
    for file in ("a.npy", "a.npz"):
        train = load("array", "train", path=tmp_path / file)
        validation = load("array", "validation", path=str(tmp_path / file))
        assert (len(train), len(validation)) == (21, 2)
        both = np.concatenate([train.values, validation.values])
        assert np.array_equal(both[np.argsort(both.reshape(23, -1)[:, 0])], values)
        assert train.shape == shape[1:] and train.values.dtype == np.float32
        assert train.peak == validation.peak == train.values.max() - train.values.min()
        assert "2 of its 23 rows" in train.about and train.name == "array"


def test_npz_with_both_splits(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.arange(6.0).reshape(3, 2), validation=np.full((1, 2), 99))
    train = load("array", "train", path=tmp_path / "a.npz")
    validation = load("array", "validation", path=tmp_path / "a.npz")
    assert np.array_equal(train.values, np.arange(6.0).reshape(3, 2))
    assert validation.values.tolist() == [[99.0, 99.0]] and validation.peak == 5.0


def nan_rows():
    values = np.ones((5, 2, 2))
    values[3] = np.nan
    values[4, 0, 0] = np.inf
    return values


BAD = {
    "vector": (np.zeros(3), "an array has shape [N, D] or [N, F, C], got [3]"),
    "pictures": (np.zeros((2, 3, 4, 4)), "got [2, 3, 4, 4]; for pictures use images"),
    "empty": (np.zeros((4, 0)), "want at least one row and one value in it, got (4, 0)"),
    "text": (np.array([["a"]]), "values must be real numbers, got dtype <U1: convert them first"),
    "complex": (np.ones((2, 2), complex), "values must be real numbers, got dtype complex128"),
    "object": (np.array([[None]]), "holds Python objects (dtype object), which are not read"),
    "nan": (nan_rows(), "must be finite float32, got 5 NaN or infinite, the first in row 3"),
    "huge": (np.array([[1.0], [1e300]]), "got 1 NaN or infinite, the first in row 1"),
    "one": (np.ones((1, 3)), "a split needs at least 2 rows, got 1"),
    "constant": (np.ones((4, 3)), "all training values are 1: there is nothing to learn"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused_in_one_line(tmp_path, case):
    values, message = BAD[case]
    path = tmp_path / "bad.npy"
    np.save(path, values)
    with pytest.raises(ValueError) as error:
        load("array", "train", path=path)
    assert message in str(error.value) and str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_bad_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "text.npy").write_text("hello\nworld")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "table.csv").write_text("1,2")
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "whole.npy", np.ones((99, 9)))
    (tmp_path / "short.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-100])
    np.savez(tmp_path / "three.npz", a=1, b=2, c=3)
    np.savez(tmp_path / "two.npz", train=np.ones((2, 2)), validation=np.ones((2, 3)))
    cases = {
        "missing.npy": "want a .npy or .npz file, but there is no such file",
        "folder.npy": "want a .npy or .npz file, but this is a folder",
        "table.csv": "an array file ends in .npy or .npz, got '.csv'",
        "text.npy": "not a readable array file",
        "empty.npy": "not a readable array file",
        "text.npz": "not a readable array file",
        "short.npy": "not a readable array file",
        "three.npz": "or the two called train and validation, got 'a', 'b', 'c'",
        "two.npz": "train and validation rows must have one shape, got (2,) and (3,)",
    }
    for file, message in cases.items():
        with pytest.raises(ValueError) as error:
            load("array", "train", path=tmp_path / file)
        assert message in str(error.value), file
        assert "\n" not in str(error.value)
