"""Clips of motion: files and windows, there and back, and what is wrong with a file."""

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from daps.data.clips import Tiles, find_clips, join, read_clip, read_tiles, tile, write_clip, write_clips
from daps.data.gait import gait
from daps.motion import pose_features

MICROMETRE = 5.1e-7  # half of a file's last digit


def columns(frames: int = 40) -> np.ndarray:
    """A clip as its file has it."""
    poses = gait(0, frames)
    return np.column_stack((poses[:, :3], poses[:, [4, 5, 6, 3]], poses[:, 7:]))


def save(path: Path, values: np.ndarray) -> Path:
    np.savetxt(path, values, delimiter=",", fmt="%.8f")
    return path


def test_files_have_the_scalar_last_and_poses_have_it_first(tmp_path: Path) -> None:
    values = columns()
    poses = read_clip(save(tmp_path / "walk.csv", values))
    np.testing.assert_allclose(poses[:, 3], values[:, 6], atol=1e-7)
    np.testing.assert_allclose(poses[:, 4:7], values[:, 3:6], atol=1e-7)
    np.testing.assert_allclose(poses[:, :3], values[:, :3], atol=1e-7)
    np.testing.assert_allclose(poses[:, 7:], values[:, 7:], atol=1e-7)


def test_clips_are_written_as_they_are_read_plain_and_compressed(tmp_path: Path) -> None:
    poses = gait(1, 50)
    write_clip(tmp_path / "new" / "walk.csv", poses)
    np.testing.assert_allclose(read_clip(tmp_path / "new" / "walk.csv"), poses, atol=MICROMETRE)
    packed = tmp_path / "walk.csv.xz"
    packed.write_bytes(lzma.compress((tmp_path / "new" / "walk.csv").read_bytes()))
    np.testing.assert_array_equal(read_clip(packed), read_clip(tmp_path / "new" / "walk.csv"))


def test_quaternions_get_norm_one_and_continuous_signs(tmp_path: Path) -> None:
    values = columns()
    values[10:20, 3:7] *= -1.004
    poses = read_clip(save(tmp_path / "walk.csv", values))
    np.testing.assert_allclose(
        poses, gait(0, 40) * np.r_[1, 1, 1, [np.sign(gait(0, 40)[0, 3])] * 4, [1] * 29], atol=1e-7
    )


def test_clips_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv.xz", ".hidden.csv", "notes.txt"):
        (tmp_path / name).write_text("")
    assert list(find_clips(tmp_path).items()) == [("a", tmp_path / "a.csv.xz"), ("b", tmp_path / "b.csv")]
    assert find_clips(tmp_path / "b.csv") == {"b": tmp_path / "b.csv"}


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        ([], "", "holds no clip: want .csv or .csv.xz files of 36 columns"),
        (["a.csv", "a.csv.xz"], "", "holds a.csv and a.csv.xz, two clips of one name: keep one"),
        ([], "nowhere", "there is no such file or folder; pass a clip or a folder of clips"),
        (["a.txt"], "a.txt", "is no .csv or .csv.xz file; pass a clip or a folder of clips"),
    ],
)
def test_folders_without_clips_are_told(tmp_path: Path, names: list[str], path: str, message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=message):
        find_clips(tmp_path / path)


def broken(what: str) -> np.ndarray:
    values = columns()
    if what == "columns":
        return values[:, :30]
    if what == "short":
        return values[:31]
    if what == "nan":
        values[[7, 9], 12] = np.nan
    if what == "norm":
        values[5, 3:7] *= 0.5
    return values


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("columns", "a clip has 36 columns, .* and 29 joints of the G1, got 30: convert it first"),
        ("short", "a clip needs at least 32 frames, got 31: take it out of the folder"),
        ("nan", "values must be finite, got NaN or infinite ones in 2 rows, the first is row 7: remove or fill them"),
        ("norm", "must have norm 1, got 0.5 in row 5: normalise them, or check the order of the columns"),
    ],
)
def test_broken_clips_are_told(tmp_path: Path, what: str, message: str) -> None:
    path = save(tmp_path / "walk.csv", broken(what))
    with pytest.raises(ValueError, match=message) as caught:
        read_clip(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("header.csv", b"x,y,z\n0,0,0\n"),
        ("damaged.csv.xz", b"not compressed"),
        ("torn.csv.xz", lzma.compress(b"0,0\n" * 500)[:-20]),
        ("binary.csv", bytes(range(256))),
        ("ragged.csv", b"1,2\n1,2,3\n"),
        ("missing.csv", None),
    ],
)
def test_files_that_are_no_numbers_are_told(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ValueError, match="not readable as numbers .*: want commas between them and no header"
    ) as caught:
        read_clip(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("\n\n")
    with pytest.raises(ValueError, match="at least 32 frames, got 0"):
        read_clip(tmp_path / "empty.csv")


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [32, 64, 75, 33])
def test_tiles_make_the_clip_again(frames: int) -> None:
    poses = gait(2, frames)
    tiles = tile("walk", poses)
    count = -(-frames // 32)
    assert tiles.values.shape == (count, 32, 36) and tiles.values.dtype == np.float32
    assert tiles.names == tuple(f"walk:{32 * i}" for i in range(count))
    assert tiles.lengths.sum() == frames
    (name, back), *others = join(tiles.values, tiles.names, tiles.starts, tiles.lengths).items()
    assert name == "walk" and others == []
    back[:, 3:7] *= np.sign(back[0, 3] * poses[0, 3])
    np.testing.assert_allclose(back, poses, atol=1e-4)


def test_tiles_are_the_features_of_the_whole_clip() -> None:
    poses = gait(2, 64)
    np.testing.assert_allclose(
        tile("walk", poses).values.reshape(64, 36), pose_features(torch.from_numpy(poses)).numpy(), atol=1e-6
    )


def test_a_clip_that_is_filled_up_stands_still_at_its_end() -> None:
    values = tile("walk", gait(2, 40)).values[1]
    assert not values[8:, :3].any() and (values[8:, 3:] == values[7, 3:]).all()


def test_windows_without_starts_begin_at_the_origin_and_follow_each_other() -> None:
    poses = gait(2, 64)
    tiles = tile("walk", poses)
    back = join(tiles.values, tiles.names)["walk"]
    assert not back[0, :2].any()
    steps = np.linalg.norm(np.diff(back[:, :2], axis=0), axis=1)
    np.testing.assert_allclose(steps, np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1), atol=1e-5)


def test_windows_of_several_clips_and_without_clips_are_told_apart() -> None:
    one, two = tile("a:b", gait(0, 64)), tile("c", gait(1, 32))
    values = np.concatenate((one.values, two.values, two.values))
    clips = join(values, (*one.names, *two.names, "7"))
    assert {name: len(poses) for name, poses in clips.items()} == {"a:b": 64, "c": 32, "7": 32}


def test_folders_of_clips_become_tiles(tmp_path: Path) -> None:
    for seed, frames in ((0, 40), (1, 64)):
        write_clip(tmp_path / f"clip{seed}.csv", gait(seed, frames))
    tiles = read_tiles(tmp_path)
    assert isinstance(tiles, Tiles) and tiles.names == ("clip0:0", "clip0:32", "clip1:0", "clip1:32")
    assert tiles.lengths.tolist() == [32, 8, 32, 32] and tiles.starts.shape == (4, 3)


def test_clips_go_into_a_file_or_a_folder(tmp_path: Path) -> None:
    motions = {"a/b": gait(0, 40), "c": gait(1, 40)}
    files = write_clips(tmp_path / "out", motions)
    assert [file.name for file in files] == ["a_b.csv", "c.csv"]
    np.testing.assert_allclose(read_clip(files[1])[:, 7:], motions["c"][:, 7:], atol=MICROMETRE)
    assert write_clips(tmp_path / "one.csv", {"c": motions["c"]}) == (tmp_path / "one.csv",)
    for path, message in (
        ("out", "a_b.csv is already there .2 of 2 files.: pass a new folder"),
        ("one.csv", "one file holds exactly one clip, got 2"),
        ("x.png", "motion is written as .csv, .npy or .npz, or into a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            write_clips(tmp_path / path, motions)
