"""Pictures of data as grids of pixels, with nothing but numpy and pillow."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from daps.atomic import replacing


def to_pixels(values: NDArray[np.generic], peak: float) -> NDArray[np.uint8]:
    """Data [N, *shape] as 8-bit pixels [N, H, W, 3]; a vector is one row, a sequence one row per channel.

    Images are scaled by `peak`; vectors and sequences from their own smallest to their own largest value.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 4:
        x = np.moveaxis(x / peak, 1, -1)
    else:
        low, high = (x.min(), x.max()) if x.size else (0.0, 1.0)
        x = (x - low) / max(high - low, 1e-12)
        x = (x.transpose(0, 2, 1) if x.ndim == 3 else x[:, None, :])[..., None]
    pixels = (x.clip(0, 1) * 255).round().astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]


def comparison(rows: list[NDArray[np.uint8]], gap: int = 2, least: int = 32) -> Image.Image:
    """Pixels [N, H, W, 3] of each row side by side, row under row, enlarged to at least `least` pixels."""
    count, height, width, _ = rows[0].shape
    zoom = max(1, -(-least // max(height, width)))
    cell_height, cell_width = height * zoom + gap, width * zoom + gap
    canvas = np.full((len(rows) * cell_height + gap, count * cell_width + gap, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            top, left = r * cell_height + gap, c * cell_width + gap
            canvas[top : top + height * zoom, left : left + width * zoom] = np.kron(
                cell, np.ones((zoom, zoom, 1), dtype=np.uint8)
            )
    return Image.fromarray(canvas)


def save_comparison(
    path: Path, originals: NDArray[np.generic], reconstructions: NDArray[np.generic], peak: float
) -> None:
    """A PNG of originals over reconstructions."""
    count = len(originals)
    pixels = to_pixels(np.concatenate([np.asarray(originals, float), reconstructions]), peak)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        comparison([pixels[:count], pixels[count:]]).save(file, format="PNG")
