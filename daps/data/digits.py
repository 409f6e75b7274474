"""The embedded default: scikit-learn's handwritten digits."""

import numpy as np

from daps.data.dataset import Dataset, permutation_split

VALIDATION = 360


def load_digits(split: str) -> Dataset:
    """scikit-learn's digits: uint8 [1, 8, 8] in 0..16 with labels, 1,437 train, 360 validation."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    rows = permutation_split(len(images), VALIDATION, split)
    return Dataset(
        values=images[rows].reshape(-1, 1, 8, 8).astype(np.uint8),
        name="digits",
        split=split,
        peak=16.0,
        about=f"scikit-learn's {len(images):,} digits; {VALIDATION} of them, drawn by a "
        "permutation of fixed seed, are validation, the others train",
        labels=labels[rows].astype(np.int64),
    )
