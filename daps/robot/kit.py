"""What drives the robot, as one folder: tokenizer, planner and tracker, a sub-folder each, and the words it knows.

    tokenizer/   a run of daps train (config.json, model.safetensors)
    planner/     of daps robot plan  (config.json, weights.safetensors, phrases.safetensors)
    tracker/     of daps robot track (config.json, weights.safetensors)
    codes/       of daps robot distil (the same): codes to torques, which a kit may go without

`daps robot train` makes one; one comes with the package.
"""

import dataclasses
import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from daps.atomic import replacing
from daps.methods.base import Autoencoder
from daps.motion import G1_JOINTS
from daps.robot.code_tracker import CodeTracker
from daps.robot.planner import Planner, PlannerConfig
from daps.robot.stage import WEIGHTS, read_settings, read_weights
from daps.robot.text import Phrasebook, Reader, SentenceEncoder, has_weights
from daps.robot.tracker import Tracker, TrackerConfig
from daps.run import Run, write_json

TOKENIZER, PLANNER, TRACKER, CODES, PHRASES = "tokenizer", "planner", "tracker", "codes", "phrases.safetensors"
MODEL = "model.safetensors"  # of a tokenizer
SHIPPED = Path(__file__).with_name("weights")

C = TypeVar("C")


@dataclass(frozen=True)
class Kit:
    """All that a robot needs to be told what to do."""

    tokenizer: Autoencoder
    planner: Planner
    tracker: Tracker
    reader: Reader
    """Sentences -> vectors: the sentence encoder, or, without its package, the phrases of the planner's training."""


def load_kit(folder: Path | None = None, sentences: Path | None = None) -> Kit:
    """A kit from a folder, or the one that comes with the package.

    Args:
        folder: of the kit.
        sentences: folder of all-MiniLM-L6-v2; without one the package with it, or the phrases of the training.

    Raises:
        ValueError: a part is missing or damaged, or the planner writes codes of another tokenizer.
    """
    folder = SHIPPED if folder is None else folder
    for name in (TOKENIZER, PLANNER, TRACKER):
        if not (folder / name).is_dir():
            raise ValueError(f"kit: {folder} has no folder {name}; pass a folder that daps robot train wrote")
    known = sentences is None and not has_weights()
    reader: Reader = Phrasebook.load(folder / PLANNER / PHRASES) if known else SentenceEncoder(sentences)
    tokenizer, sizes = load_tokenizer(folder / TOKENIZER), _settings(folder / PLANNER, "planner", "plan")["sizes"]
    if (sizes["num_tokens"], sizes["vocab_size"]) != (tokenizer.num_tokens, tokenizer.vocab_size):
        raise ValueError(
            f"kit: the planner in {folder} writes {sizes['num_tokens']} tokens of {sizes['vocab_size']} symbols, the "
            f"tokenizer reads {tokenizer.num_tokens} of {tokenizer.vocab_size}; train the planner on this tokenizer"
        )
    for name in (PLANNER, CODES):
        if (folder / name / "config.json").is_file():
            check_codes(folder / name, folder / TOKENIZER)
    return Kit(tokenizer, load_planner(folder / PLANNER)[0], load_tracker(folder / TRACKER)[0], reader)


def check_codes(stage: Path, tokenizer: Path) -> None:
    """Whether a stage was trained on the codes of a tokenizer, as far as its settings tell.

    Raises:
        ValueError: it was trained on those of another.
    """
    made_for, there = read_settings(stage).get("tokenizer"), digest(tokenizer)
    if isinstance(made_for, str) and re.fullmatch("[0-9a-f]{12}", made_for) and made_for != there:
        raise ValueError(
            f"kit: {stage} was trained on another tokenizer ({made_for}, {tokenizer} is {there}); train it on this one"
        )


def digest(folder: Path) -> str:
    """12 hexadecimal digits that change with the weights that a training in this folder made.

    Raises:
        ValueError: it made none yet.
    """
    for name in (MODEL, WEIGHTS):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()[:12]
    raise ValueError(f"run: {folder} holds no weights: its training is not done; the same command continues it")


def load_tokenizer(run: Path) -> Autoencoder:
    """A tokenizer of motion, for use.

    Raises:
        ValueError: no run, or one of other data.
    """
    tokenizer = Run.open(run).load_model().eval().requires_grad_(False)
    if len(tokenizer.data_shape) != 2 or tokenizer.data_shape[1] != len(G1_JOINTS) + 7:
        raise ValueError(
            f"tokenizer: {run} has data of shape {list(tokenizer.data_shape)}, wants windows of motion "
            f"[F, {len(G1_JOINTS) + 7}]; train one with daps train lafan1"
        )
    return tokenizer


def load_planner(folder: Path) -> tuple[Planner, dict[str, Any]]:
    """The planner of a stage, and its settings.

    Raises:
        ValueError: another stage, or one that is not done.
    """
    settings = _settings(folder, "planner", "plan")
    sizes = settings["sizes"]
    planner = Planner(**sizes, config=_config(PlannerConfig, settings["planner"]))
    planner.load_state_dict(read_weights(folder))
    return planner.eval().requires_grad_(False), settings


def load_tracker(folder: Path) -> tuple[Tracker, dict[str, Any]]:
    """The tracker of a stage, and its settings.

    Raises:
        ValueError: another stage, or one that is not done.
    """
    settings = _settings(folder, "tracker", "track")
    tracker = Tracker(len(G1_JOINTS), _config(TrackerConfig, settings["tracker"]))
    tracker.load_state_dict(read_weights(folder))
    return tracker.eval().requires_grad_(False), settings


def load_code_tracker(folder: Path) -> CodeTracker:
    """The policy from codes to torques of a stage.

    Raises:
        ValueError: another stage, or one that is not done.
    """
    settings, weights = _settings(folder, "codes", "distil"), read_weights(folder)
    if "tracker" not in settings:
        raise ValueError(f"run: {folder} is of an earlier version; train it anew with daps robot distil")
    sizes = (settings["num_tokens"], settings["frames"], torch.zeros(weights["table"].shape))
    policy = CodeTracker(*sizes, len(G1_JOINTS), _config(TrackerConfig, settings["tracker"]))
    policy.load_state_dict(weights)
    return policy.eval().requires_grad_(False)


def _settings(folder: Path, stage: str, command: str) -> dict[str, Any]:
    settings = read_settings(folder)
    if settings.get("stage") != stage:
        raise ValueError(f"run: {folder} is no {stage}; pass the folder that daps robot {command} wrote")
    return settings


def _config(kind: type[C], values: dict[str, Any]) -> C:
    """Settings from JSON, where tuples are lists."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names})


def pack(source: Path, target: Path) -> int:
    """Copies what a kit needs, in half precision and without paths, to be given away; its bytes.

    The units of data stay in single precision: the robot's places are read in them.

    Raises:
        ValueError: a part is missing, or the target is there already.
    """
    if target.exists():
        raise ValueError(f"pack: {target} is there already; choose another folder")
    load_kit(source)  # complaints come before the work
    parts = [(name, WEIGHTS) for name in (PLANNER, TRACKER, CODES) if (source / name).is_dir()]
    total = 0
    for name, file in [(TOKENIZER, MODEL), *parts]:
        folder = target / name
        folder.mkdir(parents=True)
        settings = _without_paths(Run.open(source / name).read_json("config.json"))
        for key, part in (("tokenizer", TOKENIZER), ("teacher", TRACKER)):
            if name != TOKENIZER and settings.get(key) == digest(source / part):
                settings[key] = digest(target / part)  # of the weights as they are given away
        write_json(folder / "config.json", settings)
        with safe_open(source / name / file, "pt") as read:
            tensors = {key: read.get_tensor(key) for key in read.keys()}  # noqa: SIM118  is no dictionary
            about = read.metadata()
        with replacing(folder / file) as written:
            written.write(safetensors.torch.save({key: _halved(key, value) for key, value in tensors.items()}, about))
    shutil.copyfile(source / PLANNER / PHRASES, target / PLANNER / PHRASES)
    for path in target.rglob("*.*"):
        total += path.stat().st_size
    return total


def _halved(name: str, tensor: Tensor) -> Tensor:
    exact = name.startswith("scaling.") or not tensor.is_floating_point() or tensor.numel() < 1_000
    return tensor if exact else tensor.half()


def _without_paths(settings: Any) -> Any:
    """JSON with the last part of every absolute path."""
    if isinstance(settings, dict):
        return {key: None if key == "path" else _without_paths(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_without_paths(value) for value in settings]
    return Path(settings).name if isinstance(settings, str) and Path(settings).is_absolute() else settings
