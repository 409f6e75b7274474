import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daps.data import NAMES, Dataset, load
from daps.data.dataset import (
    hash_order,
    name_hash,
    one_line,
    permutation_split,
    validation_count,
)


def test_digits_are_scikit_learns_in_a_fixed_split():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    train, validation = load("digits", "train"), load("digits", "validation")
    assert (len(train), len(validation)) == (1437, 360)
    assert train.values.dtype == np.uint8 and train.shape == (1, 8, 8) and train.peak == 16.0
    assert train.values.max() == 16 and "1,797" in train.about
    both = np.concatenate([train.values, validation.values]).reshape(-1, 64)
    tags = np.concatenate([train.labels, validation.labels])
    want = np.column_stack([images, labels])
    have = np.column_stack([both, tags])
    assert np.array_equal(want[np.lexsort(want.T)], have[np.lexsort(have.T)])
    assert np.array_equal(validation.values, load("digits", "validation").values)


def test_the_digits_split_is_pinned():
    rows = permutation_split(1797, 360, "validation")
    assert rows[:8].tolist() == [4, 5, 8, 15, 16, 28, 31, 40]


@given(st.integers(2, 300), st.data())
def test_permutation_splits_are_disjoint_and_covering(count, data):
    held_out = data.draw(st.integers(1, count - 1))
    train = permutation_split(count, held_out, "train")
    validation = permutation_split(count, held_out, "validation")
    assert len(validation) == held_out
    assert sorted([*train, *validation]) == list(range(count))


@given(st.lists(st.text(max_size=8), min_size=2, max_size=60, unique_by=name_hash))
def test_hash_splits_are_stable_under_more_files(names):
    ordered = [names[i] for i in hash_order(names)]
    count = validation_count(ordered)
    assert sorted(ordered) == sorted(names) and 1 <= count < len(names)
    validation = set(ordered[:count])
    grown = [*names, "another file.png", "and/one more.png"]
    regrown = [grown[i] for i in hash_order(grown)]
    lowest = {name for name in names if name_hash(name) < 2**64 // 10}
    if lowest and len(lowest) < len(names):  # where the at-least-one rule is not at work
        assert validation == lowest
        assert validation <= set(regrown[: validation_count(regrown)])


def test_a_tenth_is_a_tenth():
    names = [f"{i}.png" for i in range(10_000)]
    ordered = [names[i] for i in hash_order(names)]
    assert abs(validation_count(ordered) - 1000) < 4 * 30  # four standard deviations


def test_hash_does_not_depend_on_the_file_systems_unicode():
    assert name_hash("caf\u00e9.png") == name_hash("cafe\u0301.png")
    assert name_hash("bad\udcff.png") != name_hash("bad.png")


def test_indexing_gives_writable_copies():
    values = np.arange(24, dtype=np.uint8).reshape(4, 1, 2, 3)
    values.flags.writeable = False
    data = Dataset(values, "images", "train", 255.0, "made up")
    assert data.shape == (1, 2, 3) and len(data) == 4
    assert np.array_equal(data[1], values[1]) and np.array_equal(data[-1], values[3])
    assert np.array_equal(data[1:3], values[1:3])
    assert np.array_equal(data[np.array([2, 0, 2])], values[[2, 0, 2]])
    for part in (data[0], data[:], data[np.array([0])]):
        part[...] = 9
    assert values.max() == 23 and len(list(data)) == 4
    with pytest.raises(IndexError):
        data[4]


def test_one_line_is_one_printable_line():
    assert one_line("a\nb\x07\udcff") == "a b??"
    assert len(one_line("x" * 999)) == 200


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("digit", "train"), {}, "data: no data set is called 'digit' (did you mean 'digits'?): "
         "use digits, mnist, cifar10, images, array, lafan1, gait"),
        (("zzz", "train"), {}, "data: no data set is called 'zzz': "
         "use digits, mnist, cifar10, images, array, lafan1, gait"),
        (("digits", "test"), {}, "split must be 'train' or 'validation', got 'test'"),
        (("digits", "train"), {"path": "x"}, "digits is embedded and takes no path, got 'x'"),
        (("mnist", "train"), {"size": 28}, "size belongs to images; mnist has its own, got 28: "
         "leave it out"),
        (("images", "train"), {"path": "x", "size": 0}, "size must be at least 1 pixel, got 0"),
        (("images", "train"), {}, "data 'images' needs a path: pass a folder of pictures with "
         "--data.path"),
        (("array", "train"), {}, "data 'array' needs a path: pass a .npy or .npz file with "
         "--data.path"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError) as error:
        load(*arguments, **options)
    assert str(error.value) == message


def test_names_are_listed():
    assert NAMES == ("digits", "mnist", "cifar10", "images", "array", "lafan1", "gait")


def test_import_is_light():
    code = "import sys, daps.data; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"datasets", "sklearn", "pyarrow", "matplotlib", "rich"}
