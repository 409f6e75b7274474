"""A run: one folder that holds all there is to know of a training.

    config.json        settings; alone it rebuilds the model
    metrics.jsonl      one row per `log_every` steps, and the validations
    model.safetensors  the weights
    state.safetensors  all that resuming needs: weights, optimizer, counters
    environment.json   versions, machine, command
    samples/           pictures of originals over reconstructions
    evaluation.json    figures of the whole validation set, from `daps eval`, with pictures in evaluation.npz
    .lock              held by the process that trains

Every file is written under a temporary name, flushed to disk, then renamed: a kill or a full disk in the middle
of a save leaves the last good one.
"""

import contextlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from daps.atomic import replacing
from daps.config import FORMAT, Config
from daps.methods import Autoencoder
from daps.version import VERSION

MODEL = "model.safetensors"
LOCK = ".lock"


def write_json(path: Path, content: Any) -> None:
    """Writes readable JSON, all or nothing; null stands for NaN and infinities."""
    with replacing(path) as file:
        file.write((json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def _finite(content: Any) -> Any:
    """Content with null for what JSON cannot hold: NaN and infinities."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds a folder against other processes; the system lets go of it when this one ends, however it ends.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"run: another process trains in {folder}; wait for it, or choose another folder"
            ) from error
        yield


@dataclass(frozen=True)
class Run:
    """A run folder by its path."""

    path: Path

    @staticmethod
    def open(path: str | Path) -> "Run":
        """A folder that holds a run.

        Raises:
            ValueError: no such folder, or no config.json in it.
        """
        run = Run(Path(path))
        if not run.path.is_dir():
            raise ValueError(f"run: no folder {path}; train one first: daps train PRESET --run {path}")
        if not run.config_path.is_file():
            raise ValueError(f"run: {path} holds no config.json, so it is not a run folder; check the path")
        return run

    @property
    def config_path(self) -> Path:
        """config.json."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def model_path(self) -> Path:
        """model.safetensors."""
        return self.path / MODEL

    @property
    def state_path(self) -> Path:
        """state.safetensors."""
        return self.path / "state.safetensors"

    @property
    def samples_path(self) -> Path:
        """samples/."""
        return self.path / "samples"

    def config(self) -> Config:
        """The settings.

        Raises:
            ValueError: not JSON, or of another version.
        """
        return Config.from_dict(self.read_json("config.json"))

    def read_json(self, name: str) -> Any:
        """One of the folder's JSON files.

        Raises:
            ValueError: missing or not JSON.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"run: {self.path} holds no {name}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"run: {self.path / name} is not valid JSON ({error}); restore it") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; what is no row, such as a last one torn by a kill, is left out."""
        if not self.metrics_path.is_file():
            return []
        rows = []
        for line in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                if isinstance(row, dict) and "step" in row:
                    rows.append(row)
        return rows

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row), allow_nan=False) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Drops the rows after `step`, which a resumed training writes again."""
        rows = [json.dumps(row) + "\n" for row in self.metrics() if row["step"] <= step]
        with replacing(self.metrics_path) as file:
            file.write("".join(rows).encode())

    def save_state(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Writes the resumable state, all or nothing."""
        _save(self.state_path, tensors, metadata)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The resumable state (tensors on the CPU, metadata), or None where there is none.

        Raises:
            ValueError: damaged.
        """
        return _load(self.state_path) if self.state_path.is_file() else None

    def save_model(self, model: Autoencoder, step: int) -> None:
        """Writes the weights."""
        _save(self.model_path, model.state_dict(), {"step": step})

    def trained_steps(self) -> int | None:
        """Steps that the weights have seen; None without weights.

        Raises:
            ValueError: damaged.
        """
        return int(_load(self.model_path)[1]["step"]) if self.model_path.is_file() else None

    def load_model(self, device: str | torch.device = "cpu") -> Autoencoder:
        """The trained model, ready for use (eval mode, no gradients needed).

        Raises:
            ValueError: no weights yet, damaged, or other than config.json describes.
        """
        if not self.model_path.is_file():
            raise ValueError(f"run: {self.path} holds no model.safetensors yet; train it first")
        tensors, _ = _load(self.model_path)
        model = self.config().build(_scaling_like(self.config(), tensors))
        load_weights(model, tensors, self.model_path)
        return model.to(device).eval()


def load_weights(model: Autoencoder, tensors: dict[str, Tensor], path: Path) -> None:
    """Fills a model.

    Raises:
        ValueError: the names or shapes do not fit.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"{path}: does not fit the model of config.json ({first})") from error


def _scaling_like(config: Config, tensors: dict[str, Tensor]) -> Any:
    """A scaling with buffers of the shapes that were saved; the weights fill it."""
    shift = tensors.get("scaling.shift", torch.zeros(()))
    return config.scaling((shift, torch.ones_like(shift)), torch.ones_like(tensors.get("scaling.peak", torch.ones(()))))


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    cpu = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    content = safetensors.torch.save(cpu, {"daps": json.dumps({"format": FORMAT, **metadata})})
    with replacing(path) as file:
        file.write(content)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["daps"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: damaged or not of this program ({error}); put back a good copy; without one, delete "
            f"{'it and run daps train again, which writes it anew' if path.name == MODEL else 'the run and start over'}"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: this version reads run format {FORMAT}, the file has {metadata.get('format')}; open it "
            "with the version of daps named in environment.json"
        )
    return tensors, metadata


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine and command, for the record."""
    return {
        "daps": VERSION,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "command": " ".join(["daps", *sys.argv[1:]]),
    }


def portable_command(command: str) -> str:
    """A recorded command without the paths of the machine that it ran on."""
    words = shlex.split(command)
    hidden = {"--data.path": "FOLDER", "--run": "RUN"}
    return " ".join([*words[:1], *(hidden.get(before, word) for before, word in zip(words, words[1:], strict=False))])


def peak_memory(device: torch.device) -> float | None:
    """MB that this process has held at most, on the GPU if it computes there; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.is_file():  # Linux hands the peak that getrusage tells down to child processes
        peaks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if peaks:
            return int(peaks[0].split()[1]) * 1.024e-3
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kilobytes * 1.024e-3


def _commit() -> str | None:
    """The commit of the checkout that this package is imported from, "-dirty" with changes; None without one."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True, timeout=10)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            check=True,
            capture_output=True,
            timeout=10,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _processor() -> str:
    """The processor's name, which platform.processor() leaves out on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def pick_device(name: str) -> torch.device:
    """cpu, cuda, cuda:1, mps, or auto: the first accelerator found, else the CPU.

    Raises:
        ValueError: unknown, or not on this machine.
    """
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there()))
    kind, _, index = name.partition(":")
    if kind not in available or not (index.isdecimal() or name == kind):
        raise ValueError(f"device: must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    if not available[kind]() or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise ValueError(f"device: {name} is not available on this machine; use --device auto or cpu")
    return torch.device(name)
