import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from daps.data import read_input, write_output
from daps.data.files import safe_name, safe_names

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
GREY = RNG.integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
DIGITS = RNG.integers(0, 17, (3, 1, 8, 8), dtype=np.uint8)
NAMES = ("a.png", "b/c.jpg", "d")


@pytest.mark.parametrize(("values", "peak"), [(RGB, 255.0), (GREY, 255.0), (DIGITS, 16.0)])
@pytest.mark.parametrize("form", ["out.npy", "out.npz", "out", "v1.0"])
def test_what_is_written_is_read(tmp_path, values, peak, form):
    files = write_output(tmp_path / form, values, NAMES, peak)
    back, names = read_input(tmp_path / form, values.shape[1:], peak)
    assert back.dtype == np.uint8 and np.array_equal(back, values)
    assert all(file.is_file() for file in files)
    if form in ("out", "v1.0"):
        assert names == tuple(file.name for file in files) == ("a.png", "b_c.png", "d.png")
    if form == "out.npz":
        assert names == NAMES
    left = [file for file in tmp_path.rglob("*") if ".part" in file.name]
    assert not left


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "PNG"])
@pytest.mark.parametrize(("values", "peak"), [(RGB, 255.0), (GREY, 255.0), (DIGITS, 16.0)])
def test_one_picture_file(tmp_path, values, peak, suffix):
    file = tmp_path / "new" / f"one.{suffix}"
    assert write_output(file, values[:1], ["x"], peak) == (file,)
    back, names = read_input(file, values.shape[1:], peak)
    assert np.array_equal(back, values[:1]) and names == (file.name,)


def test_means_are_rounded_and_clipped_in_pictures_and_kept_in_arrays(tmp_path):
    means = np.array([-3.0, 0.4, 8.0, 16.0, 17.0, 15.97], np.float32).reshape(1, 1, 2, 3)
    write_output(tmp_path / "x.png", means, ["x"], 16.0)
    # 0.4 * 255 / 16 = 6.4; 8 -> 127.5, to even 128; 15.97 -> 254.5
    assert np.asarray(Image.open(tmp_path / "x.png")).tolist() == [[0, 6, 128], [255, 255, 255]]
    write_output(tmp_path / "x.npy", means, ["x"], 16.0)
    assert np.array_equal(np.load(tmp_path / "x.npy"), means)


def test_pictures_are_brought_to_the_models_shape(tmp_path):
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (7, 9), 128).save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("left alone")
    values, names = read_input(tmp_path, (1, 8, 8), 16.0)
    assert values.shape == (2, 1, 8, 8) and names == ("a.png", "b.png")
    # red is 0.299 of white: 76.2 -> 76, and 76 * 16 / 255 = 4.8
    assert np.unique(values[0]).tolist() == [5] and np.unique(values[1]).tolist() == [8]
    assert read_input(str(tmp_path), (3, 5, 6))[0].shape == (2, 3, 5, 6)


def test_bad_pictures_are_named_and_left_out(tmp_path):
    Image.new("L", (8, 8), 9).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"junk")
    with pytest.warns(UserWarning, match=r"^left out 1: bad\.png: not a picture that pillow reads"):
        values, names = read_input(tmp_path, (1, 8, 8))
    assert names == ("good.png",) and np.unique(values).tolist() == [9]


@pytest.mark.parametrize("shape", [(4,), (5, 2)])
def test_vectors_and_sequences(tmp_path, shape):
    values = RNG.normal(size=(12, *shape))
    for form in ("npy", "npz"):
        write_output(tmp_path / f"x.{form}", values, [f"row {i}" for i in range(12)])
        back, names = read_input(tmp_path / f"x.{form}", shape)
        assert back.dtype == np.float32 and np.array_equal(back, values.astype(np.float32))
        assert names[3] == ("03" if form == "npy" else "row 3")
    np.save(tmp_path / "one.npy", values[0])
    one, names = read_input(tmp_path / "one.npy", shape)
    assert np.array_equal(one[0], values[0].astype(np.float32)) and names == ("0",)
    np.savez(tmp_path / "any.npz", anything=values)
    assert len(read_input(tmp_path / "any.npz", shape)[0]) == 12


def test_whole_numbers_of_any_dtype_are_pictures(tmp_path):
    for dtype in (np.uint8, np.int64, np.float64):
        np.save(tmp_path / "x.npy", RGB.astype(dtype))
        back, _ = read_input(tmp_path / "x.npy", (3, 8, 8))
        assert back.dtype == np.uint8 and np.array_equal(back, RGB)


def saved(file, values):
    np.save(file, values)
    return file


READ = {
    "missing file": (lambda p: p / "x.png", (3, 8, 8), "there is no such file or folder"),
    "missing array": (lambda p: p / "x.npy", (4,), "there is no such file"),
    "picture for vectors": (lambda p: p, (4,), "takes arrays of shape [4]: pass a .npy or .npz"),
    "empty folder": (lambda p: p, (3, 8, 8), "holds no picture"),
    "channels": (
        lambda p: (Image.new("L", (8, 8)).save(p / "a.png"), p)[1],
        (2, 8, 8),
        "pictures have 1 or 3 channels, the model takes 2",
    ),
    "all bad": (
        lambda p: ((p / "a.png").write_bytes(b"junk"), p)[1],
        (3, 8, 8),
        "none of 1 pictures could be decoded, the first: a.png: not a picture",
    ),
    "no picture": (
        lambda p: ((p / "a.txt").write_bytes(b"junk"), p / "a.txt")[1],
        (3, 8, 8),
        "none of 1 pictures could be decoded, the first: a.txt: not a picture",
    ),
    "shape": (
        lambda p: saved(p / "x.npy", RGB),
        (1, 8, 8),
        "data must have shape [1, 8, 8], that is [N, 1, 8, 8] in all, got [3, 3, 8, 8]",
    ),
    "none": (
        lambda p: saved(p / "x.npy", np.zeros((0, 4))),
        (4,),
        "holds no data, its shape is [0, 4]",
    ),
    "range": (
        lambda p: saved(p / "x.npy", RGB),
        (3, 8, 8),
        f"pictures must hold whole numbers in 0..16, got uint8 in {RGB.min()}..{RGB.max()}",
    ),
    "fractions": (
        lambda p: saved(p / "x.npy", np.full((1, 3, 8, 8), 0.5)),
        (3, 8, 8),
        "pictures must hold whole numbers in 0..16, got float64 in 0.5..0.5",
    ),
    "nan": (
        lambda p: saved(p / "x.npy", np.array([[1.0, 2.0], [np.nan, 3.0]])),
        (2,),
        "values must be finite float32, got 1 NaN or infinite, the first in row 1",
    ),
}


@pytest.mark.parametrize("case", READ)
def test_bad_input_is_refused_in_one_line(tmp_path, case):
    make, shape, message = READ[case]
    with pytest.raises(ValueError) as error:
        read_input(make(tmp_path), shape, 16.0)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_npz_keys_are_checked(tmp_path):
    np.savez(tmp_path / "two.npz", train=np.ones((2, 4)), validation=np.ones((2, 4)))
    with pytest.raises(ValueError, match="or one called values, got 'train', 'validation'"):
        read_input(tmp_path / "two.npz", (4,))
    np.savez(tmp_path / "names.npz", values=np.ones((2, 4)), names=np.array(["a"]))
    with pytest.raises(ValueError, match=r"wants 2 names, got shape \[1\]"):
        read_input(tmp_path / "names.npz", (4,))


def test_bad_output_is_refused_in_one_line_and_nothing_is_lost(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "b_c.png").write_text("kept")
    vectors, nan = np.ones((3, 4)), np.full((1, 1, 2, 2), np.nan)
    cases = [
        ("x.png", RGB, "one picture file holds exactly one picture, got 3: pass a folder, .npy"),
        ("x.png", vectors, "data of shape [4] are no pictures: write them to a .npy or .npz file"),
        ("x", vectors, "data of shape [4] are no pictures"),
        ("x.avif", RGB[:1], ".avif is not written: use .png"),
        ("x.png", nan, "pictures must be finite, got NaN or infinite values"),
        ("file", RGB, "is a file: pass a folder, or an ending like .png or .npz"),
        ("full", RGB, "b_c.png is already there (1 of 3 files): pass a new folder"),
        ("file/x.npy", RGB, "cannot be written: "),
    ]
    for name, values, message in cases:
        with pytest.raises(ValueError) as error:
            write_output(tmp_path / name, values, NAMES[: len(values)])
        assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^names must be one for each of 3 data, got 2$"):
        write_output(tmp_path / "x", RGB, NAMES[:2])
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["b_c.png", "file", "full"]
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "b_c.png").read_text() == "kept"


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    file = saved(tmp_path / "x.npy", np.ones(3))

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match=r"x\.npy: cannot be written: No space left on device$"):
        write_output(file, RGB, NAMES)
    assert np.load(file).tolist() == [1, 1, 1] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.png", "a"),
        ("v1.0", "v1.0"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\x\\y.jpg", "C__x_y"),
        ("con.png", "_con"),
        ("COM1.txt", "_COM1.txt"),
        ("..", "picture"),
        ("", "picture"),
        (".png", "picture"),
        ("a\nb\x00", "a_b_"),
    ],
)
def test_known_names_are_made_safe(name, safe):
    assert safe_name(name) == safe


@given(st.lists(st.one_of(st.text(), st.sampled_from(["a", "A", "a-2", "a.png", "b/a", "con"]))))
def test_safe_names_are_portable_and_differ(names):
    safe = safe_names(names)
    assert len({name.casefold() for name in safe}) == len(names)
    for name in safe:
        assert name and name == name.strip(" .") and not set(name) & set('<>:"/\\|?*\0\n')
        assert len(f"{name}.png".encode()) < 256
        assert name.split(".")[0].casefold() not in {"con", "nul", "aux", "prn"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_any_names_are_written_inside_the_folder(tmp_path, names):
    target = tmp_path / str(len(list(tmp_path.iterdir())))
    values = np.arange(len(names), dtype=np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)
    files = write_output(target, values, names)
    assert {file.parent for file in files} == {target} and len(set(files)) == len(names)
    for value, file in zip(values, files, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), value[0])
