"""One picture: any file that pillow reads -> uint8 [C, H, W] of a given size."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from daps.data.dataset import one_line

SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
))  # fmt: skip
WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def decode_picture(
    source: bytes | Path, channels: int, height: int, width: int, exact: bool = False
) -> NDArray[np.uint8]:
    """The picture as uint8 [channels, height, width], channels 1 (grey) or 3 (RGB).

    Turned upright by its EXIF tag, first frame if animated, transparent parts over white, 16-bit
    values scaled to 8; then resized (bicubic, antialiased) so that it just covers height x width,
    and cropped in the centre. With `exact`, another size is an error instead. Raises ValueError
    with the reason in one line for whatever is not a readable picture.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if not exact:
                # A JPEG is decoded at a smaller scale where that leaves 3 times what is needed.
                # Its sides may yet be swapped, so both get the longer one.
                side = 3 * max(height, width)
                image.draft(None, (side, side))
            image.load()
            upright = ImageOps.exif_transpose(image) if image.getexif() else image
            plain = flatten(upright, "L" if channels == 1 else "RGB")
    except Exception as error:  # a damaged file can raise almost anything inside a decoder
        reason = one_line(error) or "damaged"
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture that pillow reads"
        raise ValueError(f"{reason} ({type(error).__name__})") from None
    if plain.size != (width, height):
        if exact:
            raise ValueError(f"must be {width}x{height}, got {plain.size[0]}x{plain.size[1]}")
        box = crop_box(*plain.size, width, height)
        plain = plain.resize((width, height), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(plain)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def flatten(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode` ("L" or "RGB"), transparency over white."""
    if image.mode in WIDE_MODES:
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError(f"grey values must lie in 0..65535, got {wide.min()}..{wide.max()}")
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no stated range: save as 8 or 16 bits")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode not in (mode, "L"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def crop_box(width: int, height: int, new_width: int, new_height: int) -> tuple[float, float, float, float]:
    """The largest centred (left, top, right, bottom) in the shape of new_width x new_height."""
    scale = min(width / new_width, height / new_height)
    left = max(0.0, (width - scale * new_width) / 2)
    top = max(0.0, (height - scale * new_height) / 2)
    return left, top, min(width - left, float(width)), min(height - top, float(height))


def find_files(folder: Path, wanted: Callable[[Path], bool]) -> tuple[list[tuple[str, Path]], list[str]]:
    """Files below `folder` that are `wanted`: sorted (relative posix name, path), and skipped.

    Follows links, once each; leaves hidden files and folders alone; says which folders it could
    not read.
    """
    found: list[tuple[str, Path]] = []
    skipped: list[str] = []
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        skipped.append(f"{one_line(error.filename)}: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(place, name)
            if not name.startswith(".") and wanted(path):
                found.append((path.relative_to(folder).as_posix(), path))
    return sorted(found), skipped


def is_picture(path: Path) -> bool:
    """Whether the name ends like a picture's."""
    return path.suffix.lower() in SUFFIXES
