import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from daps.data import decoding
from daps.data.decoding import Plan, cached, npy_header, read_cache
from daps.data.pictures import decode_picture


def plan_of(folder: Path, count: int = 5, bad: tuple[int, ...] = (), reverse: bool = True) -> Plan:
    """Pictures whose row number is their colour; decoded last to first, unless told otherwise."""
    for row in range(count):
        file = folder / f"{row}.png"
        if row in bad:
            file.write_bytes(b"junk")
        else:
            Image.new("L", (4, 4), row).save(file)
    rows = list(range(count))[:: -1 if reverse else 1]
    return Plan(
        names=tuple(f"{row}.png" for row in range(count)),
        shape=(1, 4, 4),
        items=lambda: ((row, folder / f"{row}.png") for row in rows),
        decode=partial(decode_picture, channels=1, height=4, width=4),
        labels=tuple(10 * row for row in range(count)),
    )


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def never() -> Plan:
    raise AssertionError("decoded anew")


@pytest.mark.parametrize("bad", [(), (0,), (4,), (1, 3), (0, 1, 2, 4)])
@pytest.mark.parametrize("reverse", [True, False])
def test_cache_memory_and_plan_agree(tmp_path, cache, bad, reverse):
    plan = plan_of(tmp_path, bad=bad, reverse=reverse)
    good = [row for row in range(5) if row not in bad]
    in_memory = decoding.decode_in_memory(plan)
    fresh = cached("x", files_of(tmp_path), lambda: plan)
    again = cached("x", files_of(tmp_path), never)
    for decoded in (in_memory, fresh, again):
        assert decoded.values[:, 0, 0, 0].tolist() == good
        assert decoded.values.shape == (len(good), 1, 4, 4)
        assert decoded.names == tuple(f"{row}.png" for row in good)
        assert decoded.labels == tuple(10 * row for row in good)
        assert [line.split(":")[0] for line in decoded.skipped] == [f"{row}.png" for row in bad]
    assert isinstance(again.values, np.memmap) and not again.values.flags.writeable
    assert not list(cache.glob("*.part")) and not list(cache.glob(".*"))


def test_many_chunks_keep_their_rows(tmp_path):
    blobs = [bytes([row % 251]) for row in range(1000)]
    plan = Plan(
        names=tuple(map(str, range(1000))),
        shape=(1,),
        items=lambda: iter(list(enumerate(blobs))),
        decode=lambda blob: np.frombuffer(blob, np.uint8),
    )
    assert cached("x", [], lambda: plan).values[:, 0].tobytes() == b"".join(blobs)


def test_a_changed_file_or_size_is_decoded_anew(tmp_path):
    make = partial(plan_of, tmp_path)
    plan = make()
    cached("x", files_of(tmp_path), lambda: plan)
    Image.new("L", (4, 4), 200).save(tmp_path / "2.png")
    os.utime(tmp_path / "2.png", ns=(1, 1))
    changed = cached("x", files_of(tmp_path), lambda: plan)
    assert changed.values[2].max() == 200
    os.utime(tmp_path / "2.png", ns=(2, 2))
    with pytest.raises(AssertionError, match="decoded anew"):
        cached("x", files_of(tmp_path), never)
    cached("x", files_of(tmp_path), lambda: plan)
    with pytest.raises(AssertionError, match="decoded anew"):
        cached("y", files_of(tmp_path), never)
    with pytest.raises(AssertionError, match="decoded anew"):
        cached("x", files_of(tmp_path)[:4], never)


@pytest.mark.parametrize("harm", ["cut array", "junk array", "junk json", "no json", "wrong count"])
def test_a_broken_cache_is_made_anew(tmp_path, cache, harm):
    plan = plan_of(tmp_path)
    cached("x", files_of(tmp_path), lambda: plan)
    array, facts = next(cache.glob("*.npy")), next(cache.glob("*.json"))
    if harm == "cut array":
        array.write_bytes(array.read_bytes()[:-3])
    elif harm == "junk array":
        array.write_bytes(b"junk")
    elif harm == "junk json":
        facts.write_text("{")
    elif harm == "no json":
        facts.unlink()
    else:
        facts.write_text(json.dumps({"names": ["a"], "skipped": [], "labels": None}))
    assert read_cache(array) is None
    assert cached("x", files_of(tmp_path), lambda: plan).values[:, 0, 0, 0].tolist() == [*range(5)]
    assert read_cache(array) is not None


def test_an_unwritable_cache_costs_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DAPS_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written .*DAPS_CACHE names another folder"):
        decoded = cached("x", [], lambda: plan_of(tmp_path))
    assert decoded.values[:, 0, 0, 0].tolist() == [*range(5)]


def test_a_disk_that_fills_up_costs_a_warning(tmp_path, cache, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        decoded = cached("x", [], lambda: plan_of(tmp_path))
    assert len(decoded.values) == 5 and not list(cache.iterdir())


def test_all_bad_is_an_error_and_leaves_no_cache(tmp_path, cache):
    plan = plan_of(tmp_path, bad=(0, 1, 2, 3, 4))
    with pytest.raises(ValueError) as error:
        cached("x", files_of(tmp_path), lambda: plan)
    assert str(error.value) == (
        "none of 5 pictures could be decoded, the first: 0.png: "
        "not a picture that pillow reads (UnidentifiedImageError)"
    )
    assert not list(cache.iterdir())


def test_cache_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("DAPS_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert decoding.cache_folder() == tmp_path / ".cache" / "daps"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert decoding.cache_folder() == tmp_path / "xdg" / "daps"
    monkeypatch.setattr("sys.platform", "darwin")
    assert decoding.cache_folder() == tmp_path / "Library" / "Caches" / "daps"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert decoding.cache_folder() == tmp_path / "local" / "daps" / "cache"


@given(st.integers(0, 10**12), st.lists(st.integers(1, 10**4), min_size=1, max_size=4))
def test_the_header_is_numpys(count, shape):
    header = npy_header(count, tuple(shape))
    assert len(header) == 128
    import io

    stream = io.BytesIO(header)
    assert np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0(stream)
    assert read == ((count, *shape), False, np.dtype(np.uint8)) and stream.tell() == 128
