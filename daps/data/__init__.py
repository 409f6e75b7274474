"""Data rooms: everything is an indexable set of arrays in natural units.

Pictures are uint8 [C, H, W] in 0..255, digits uint8 [1, 8, 8] in 0..16, arrays float32 [D] or
[F, C], motion float32 windows [32, 36].
"""

from daps.data.dataset import Dataset
from daps.data.files import read_input, write_output
from daps.data.sampler import batch_indices
from daps.data.sources import MOTION, NAMES, load

__all__ = ["MOTION", "NAMES", "Dataset", "batch_indices", "load", "read_input", "write_output"]
