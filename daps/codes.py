"""People's files to integer codes and back: what `daps encode` and `daps decode` do.

A code file is an .npz with `codes` [N, T], `num_tokens`, `vocab_size`, `model` (a fingerprint of the weights) and
`names` (of the N data); of motion also `starts` and `lengths`, as daps.data.clips.Tiles has them. Bytes as short as
the codes' entropy are the codec's business, not this file's.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from daps.atomic import replacing
from daps.data import MOTION, arrays, clips, read_input, write_output
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
    """Encodes an array file, a picture, a clip, or a folder of these into a code file.

    Temperature and effort are as encode's. Clips become one datum for every 32 frames.

    Returns:
        how many data, and the nominal bits of each.

    Raises:
        ValueError: not a run, unreadable or unfitting input, a target that is no .npz.
    """
    if target.suffix != ".npz":
        raise ValueError(f"output: codes are written as .npz, got {target}; end it in .npz")
    _refuse_overwrite(source, target)
    run = Run.open(folder)
    model = run.load_model(pick_device(device))
    extra: dict[str, Any] = {}
    values: NDArray[np.generic]
    if run.config().data.name in MOTION and source.suffix not in arrays.SUFFIXES:
        tiles = clips.read_tiles(source)
        values, names, extra = tiles.values, tiles.names, {"starts": tiles.starts, "lengths": tiles.lengths}
    else:
        values, names = read_input(source, model.data_shape, peak=float(model.scaling.peak.max()))
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
            **extra,
        )
    return len(values), model.bits


def decode_files(folder: Path, source: Path, target: Path, batch_size: int, device: str) -> int:
    """Decodes a code file into an array file, a picture, a clip (.csv), or a folder of these; returns how many data.

    Raises:
        ValueError: not a run, an unreadable code file, or codes of another model.
    """
    _refuse_overwrite(source, target)
    run = Run.open(folder)
    model = run.load_model(pick_device(device))
    codes, names = read_codes(source, model)
    parts = [
        model.decode(codes[start : start + batch_size]).mean.cpu().numpy() for start in range(0, len(codes), batch_size)
    ]
    values = np.concatenate(parts)
    if run.config().data.name in MOTION and target.suffix not in arrays.SUFFIXES:
        clips.write_clips(target, clips.join(values, names, *read_places(source, len(codes))))
    else:
        write_output(target, values, names, peak=float(model.scaling.peak.max()))
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


def read_places(source: Path, count: int) -> tuple[NDArray[np.floating], NDArray[np.integer]] | tuple[None, None]:
    """Starts [N, 3] and lengths [N] of the windows of a code file of motion; None where it has none.

    Raises:
        ValueError: not those of `count` windows.
    """
    with open(source, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        if "starts" not in file or "lengths" not in file:
            return None, None
        starts, lengths = file["starts"], file["lengths"]
    if starts.shape != (count, 3) or lengths.shape != (count,):
        raise ValueError(
            f"codes: {source} must have starts [{count}, 3] and lengths [{count}], got {list(starts.shape)} and "
            f"{list(lengths.shape)}; leave both out, or cut them as the codes"
        )
    return starts, lengths


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
