import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from daps.data.pictures import crop_box, decode_picture, find_files, is_picture


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return stream.getvalue()


def pixel(data: bytes, channels: int = 3) -> list[int]:
    """The one colour of a picture that has one."""
    values = decode_picture(data, channels, 4, 4)
    assert values.dtype == np.uint8 and values.shape == (channels, 4, 4)
    assert (values == values[:, :1, :1]).all()
    return values[:, 0, 0].tolist()


def palette(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, *colour])
    return image


@pytest.mark.parametrize(
    ("data", "rgb"),
    [
        (encoded(Image.new("RGB", (6, 6), (10, 200, 30))), [10, 200, 30]),
        (encoded(Image.new("L", (6, 6), 77)), [77] * 3),
        (encoded(Image.new("1", (6, 6), 1)), [255] * 3),
        (encoded(palette((9, 8, 7))), [9, 8, 7]),
        (encoded(palette((9, 8, 7)), transparency=1), [255] * 3),
        (encoded(palette((9, 8, 7)), "GIF"), [9, 8, 7]),
        (encoded(Image.new("L", (6, 6), 77), transparency=77), [255] * 3),
        (encoded(Image.new("RGB", (6, 6), (1, 2, 3)), transparency=(1, 2, 3)), [255] * 3),
        # over white: 255 + (value - 255) * alpha / 255
        (encoded(Image.new("RGBA", (6, 6), (0, 100, 255, 51))), [204, 224, 255]),
        (encoded(Image.new("RGBA", (6, 6), (0, 100, 255, 0))), [255, 255, 255]),
        (encoded(Image.new("RGBA", (6, 6), (0, 100, 255, 255))), [0, 100, 255]),
        (encoded(Image.new("LA", (6, 6), (0, 51))), [204] * 3),
        # 65535 -> 255, 0 -> 0, to the nearest: 40000 / 257 = 155.6
        (encoded(Image.fromarray(np.full((6, 6), 40000, np.uint16))), [156] * 3),
        (encoded(Image.fromarray(np.full((6, 6), 65535, np.uint16))), [255] * 3),
        (encoded(Image.fromarray(np.full((6, 6), 40000, np.int32)), "TIFF"), [156] * 3),
        (encoded(Image.new("CMYK", (6, 6), (255, 0, 0, 0)), "TIFF"), [0, 255, 255]),
        (encoded(Image.new("RGB", (6, 6), (10, 200, 30)), "WEBP", lossless=True), [10, 200, 30]),
        (encoded(Image.new("RGB", (6, 6), (10, 200, 30)), "BMP"), [10, 200, 30]),
    ],
)
def test_every_mode_has_its_known_colour(data, rgb):
    assert pixel(data) == rgb
    red, green, blue = rgb
    grey = pixel(data, channels=1)[0]
    assert abs(grey - (0.299 * red + 0.587 * green + 0.114 * blue)) <= 0.51


def test_the_first_frame_is_taken():
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert pixel(data) == [255, 0, 0], form


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(form):
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, :40] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise: left becomes top
    data = encoded(Image.fromarray(pixels), form, exif=exif)
    upright = decode_picture(data, 1, 80, 40)[0].astype(int)
    assert upright[:36].min() > 240 and upright[44:].max() < 15


def test_same_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels))
    assert np.array_equal(decode_picture(data, 3, 5, 7), pixels.transpose(2, 0, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 120), st.integers(8, 120), st.integers(4, 24), st.integers(4, 24))
def test_resize_and_crop_geometry(width, height, new_width, new_height):
    """On a ramp an interior pixel shows the place in the source where its centre lies."""
    step = 255 / 120
    scale = min(width / new_width, height / new_height)
    for axis, (old, new) in enumerate([(height, new_height), (width, new_width)]):
        ramp = np.round(np.arange(old) * step).astype(np.uint8)
        pixels = np.broadcast_to(ramp[:, None] if axis == 0 else ramp, (height, width))
        data = encoded(Image.fromarray(np.ascontiguousarray(pixels)))
        result = decode_picture(data, 1, new_height, new_width)[0].astype(float)
        line = result[:, 0] if axis == 0 else result[0]
        place = old / 2 + (np.arange(new) + 0.5 - new / 2) * scale - 0.5
        reach = 2 * max(scale, 1.0) + 1  # the bicubic kernel is clipped at the borders
        inside = (place > reach) & (place < old - 1 - reach)
        # the ramp is rounded to 0.5, the result too; the kernel's lobes add up to 1.3 in size
        assert np.abs(line - place * step)[inside].max(initial=0) <= 1.3


@given(*[st.integers(1, 5000)] * 4)
def test_crop_box_is_the_largest_centred_one(width, height, new_width, new_height):
    left, top, right, bottom = crop_box(width, height, new_width, new_height)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert left + right == pytest.approx(width) and top + bottom == pytest.approx(height)
    ratio = new_width / new_height
    assert (right - left) / (bottom - top) == pytest.approx(ratio, rel=1e-6)
    assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)


def test_shrinking_is_antialiased():
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode_picture(encoded(Image.fromarray(checker)), 1, 8, 8)
    assert np.abs(small.astype(int) - 127.5).max() < 6


def test_a_large_jpeg_decoded_at_a_smaller_scale_is_the_same_picture():
    y, x = np.mgrid[:1200, :1600]  # waves of 4 to 5 pixels of the result
    waves = (127.5 + 60 * np.sin(x / 7) + 60 * np.cos(y / 6)).astype(np.uint8)
    quick = decode_picture(encoded(Image.fromarray(waves), "JPEG", quality=95), 1, 128, 128)
    whole = decode_picture(encoded(Image.fromarray(waves)), 1, 128, 128)
    assert np.abs(quick.astype(int) - whole).max() <= 6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a picture that pillow reads (UnidentifiedImageError)"),
        (b"hello", "not a picture that pillow reads (UnidentifiedImageError)"),
        (encoded(Image.effect_noise((64, 64), 50))[:-2000], "(OSError)"),
        (encoded(Image.new("F", (6, 6)), "TIFF"), "floating-point pixels have no stated range"),
        (
            encoded(Image.fromarray(np.full((6, 6), 70000, np.int32)), "TIFF"),
            "grey values must lie in 0..65535, got 70000..70000",
        ),
        (Path("no such file.png"), "(FileNotFoundError)"),
    ],
)
def test_bad_pictures_are_refused_in_one_line(data, message):
    with pytest.raises(ValueError) as error:
        decode_picture(data, 3, 4, 4)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_exact_refuses_another_size():
    with pytest.raises(ValueError, match=r"^must be 4x4, got 6x6$"):
        decode_picture(encoded(Image.new("L", (6, 6))), 1, 4, 4, exact=True)


def test_find_files_is_recursive_sorted_and_survives_loops(tmp_path):
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    for name in ("z.PNG", "b/a.jpg", "b/.hidden/c.png", "._z.png", "notes.txt", "b/.d.png"):
        (tmp_path / name).write_bytes(b"")
    try:
        (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "c").symlink_to(tmp_path / "b", target_is_directory=True)
    except OSError:
        pytest.skip("this system lets us make no links")
    found, skipped = find_files(tmp_path, is_picture)
    assert [name for name, _ in found] == ["b/a.jpg", "z.PNG"] and skipped == []
