"""People's files to integer codes and back: what `daps encode` and `daps decode` do.

A code file is an .npz with `codes` [N, T], `num_tokens`, `vocab_size`, `model` (a fingerprint of the weights) and
`names` (of the N data). Bytes as short as the codes' entropy are the codec's business, not this file's.
"""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from daps.atomic import replacing
from daps.data import read_input, write_output
from daps.methods import Autoencoder
from daps.run import Run, pick_device


def encode_files(
    folder: Path,
    source: Path,
    target: Path,
    temperature: float,
    seed: int,
    batch_size: int,
    device: str,
    effort: int = 0,
) -> tuple[int, float]:
    """Encodes an array file, a picture or a folder of pictures into a code file; temperature and effort as encode's.

    Returns:
        how many data, and the nominal bits of each.

    Raises:
        ValueError: not a run, unreadable or unfitting input, a target that is no .npz.
    """
    if target.suffix != ".npz":
        raise ValueError(f"output: codes are written as .npz, got {target}; end it in .npz")
    _refuse_overwrite(source, target)
    model = Run.open(folder).load_model(pick_device(device))
    values, names = read_input(source, model.data_shape, peak=float(model.scaling.peak))
    generator = torch.Generator().manual_seed(seed)
    batches = range(0, len(values), batch_size)
    parts = [
        model.encode(values[start : start + batch_size], temperature, generator, effort).cpu().numpy()
        for start in track(batches, "encoding", console=Console(stderr=True), disable=len(batches) < 2)
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as file:
        np.savez_compressed(
            file,
            codes=np.concatenate(parts).astype(np.uint32),
            num_tokens=model.num_tokens,
            vocab_size=model.vocab_size,
            model=fingerprint(model),
            names=np.array(names, dtype=np.str_),
        )
    return len(values), model.bits


def decode_files(folder: Path, source: Path, target: Path, batch_size: int, device: str) -> int:
    """Decodes a code file into an array file, a picture or a folder of pictures; returns how many data.

    Raises:
        ValueError: not a run, an unreadable code file, or codes of another model.
    """
    _refuse_overwrite(source, target)
    model = Run.open(folder).load_model(pick_device(device))
    codes, names = read_codes(source, model)
    parts = [
        model.decode(codes[start : start + batch_size]).mean.cpu().numpy() for start in range(0, len(codes), batch_size)
    ]
    write_output(target, np.concatenate(parts), names, peak=float(model.scaling.peak))
    return len(codes)


def read_codes(source: Path, model: Autoencoder) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes [N, T] and names from a code file.

    Raises:
        ValueError: unreadable, or of another model.
    """
    if source.suffix != ".npz":
        raise ValueError(f"codes: {source} is not a code file of daps encode, which end in .npz")
    try:
        with open(source, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            codes, names = file["codes"].astype(np.int64), tuple(str(name) for name in file["names"])
            made_by = str(file["model"])
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"codes: {source} is not a code file of daps encode ({error})") from error
    if made_by != fingerprint(model):
        raise ValueError(
            f"codes: {source} was encoded by another model (fingerprint {made_by}, this run has "
            f"{fingerprint(model)}); decode it with the run that encoded it"
        )
    return codes, names


def _refuse_overwrite(source: Path, target: Path) -> None:
    if source.resolve() == target.resolve():
        raise ValueError(f"output: {target} is the input itself; write to another file")


def fingerprint(model: Autoencoder) -> str:
    """16 hexadecimal digits that change with any weight."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
