"""The training loop. Randomness and data order are functions of (seed, step), so resuming is running it again."""

import dataclasses
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from daps.clipping import adaptive_clip
from daps.config import Config
from daps.data import Dataset, batch_indices
from daps.evaluate import Protocol, evaluate, subset
from daps.methods import Autoencoder
from daps.optim import optimizers
from daps.pictures import save_comparison
from daps.progress import Interrupted, ProgressLine, interrupts
from daps.run import LOCK, Run, environment, exclusive, load_weights, peak_memory, pick_device, write_json
from daps.scaling import statistics
from daps.schedules import Cosine

MAX_SKIPPED = 100  # consecutive steps without a finite gradient before a training gives up


def resolve(config: Config, dataset: Dataset) -> Config:
    """The config with the shape of the data filled in.

    Raises:
        ValueError: the config names another shape.
    """
    shape = config.nets.data_shape
    if shape and shape != dataset.shape:
        raise ValueError(
            f"nets.data_shape: the run was made for data of shape {list(shape)}, but {dataset.name} now has "
            f"{list(dataset.shape)}; give the same data, or train into another folder"
        )
    nets = dataclasses.replace(config.nets, data_shape=dataset.shape)
    return dataclasses.replace(config, nets=nets)


def build_model(config: Config, dataset: Dataset) -> Autoencoder:
    """The untrained model: its parameters are a function of the seed."""
    torch.manual_seed(config.train.seed)
    moments = statistics(dataset.distinct, least_variance=dataset.least_variance)
    scaling = config.scaling(moments, torch.as_tensor(dataset.peak))
    scaling.fit(dataset.values)
    return config.build(scaling)


class Trainer:
    """A model, its optimizer and its place in the training: all that a checkpoint holds."""

    def __init__(self, config: Config, model: Autoencoder, data_fingerprint: str = "") -> None:
        self.config, self.model, self.data_fingerprint = config, model, data_fingerprint
        train = config.train
        groups = model.parameter_groups(train.learning_rate, train.weight_decay)
        self.optimizers = optimizers(train.optimizer, model, groups, model.device, train.muon_iterations)
        self.first_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.decay = Cosine(1.0, train.learning_rate_decay, train.steps)
        average = get_ema_multi_avg_fn(train.ema) if train.ema else None
        self.average = AveragedModel(model, multi_avg_fn=average) if average else None
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.step = 0  # steps done
        self.skipped = 0  # steps without a finite gradient
        self.skipped_in_a_row = 0
        self.seconds, self.cpu_seconds = 0.0, 0.0  # spent in training steps
        self.sums: dict[str, float] = {}  # of the metrics since the last row
        self.pending: list[dict[str, Tensor | float]] = []

    def advance(self, dataset: Dataset) -> None:
        """One step of training.

        Raises:
            ValueError: too many steps in a row without a finite gradient.
        """
        train, clock, cpu_clock = self.config.train, time.perf_counter(), time.process_time()
        rows = batch_indices(train.seed, self.step, len(dataset), train.batch_size)
        x = torch.as_tensor(dataset[rows], device=self.model.device)
        torch.manual_seed(_mixed(train.seed, self.step))
        self.model.zero_grad()
        self._set_learning_rate()
        # What a step changes by itself: batch statistics, code vectors, frozen copies of networks.
        moved = [*self.model.buffers(), *(p for p in self.model.parameters() if not p.requires_grad)]
        before = [tensor.clone() for tensor in moved]
        loss, metrics = self.model(x, self.step)
        loss.backward()
        gradient_norm = adaptive_clip(self.parameters, train.clip)
        if bool(torch.isfinite(loss.detach() + gradient_norm)):
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
            self.skipped_in_a_row = 0
            self.pending.append({"loss": loss.detach(), "gradient_norm": gradient_norm, **metrics})
        else:
            for tensor, old in zip(moved, before, strict=True):
                tensor.copy_(old)
            self.skipped += 1
            self.skipped_in_a_row += 1
        self.step += 1
        self.seconds += time.perf_counter() - clock
        self.cpu_seconds += time.process_time() - cpu_clock
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise ValueError(
                f"training: {MAX_SKIPPED} steps in a row had no finite gradient (now step {self.step}); the last "
                "checkpoint is kept; lower train.learning_rate or raise the floor of nets.variance"
            )

    @property
    def result(self) -> Autoencoder:
        """The model to evaluate and to keep: the moving average of the weights if there is one."""
        return self.model if self.average is None else cast(Autoencoder, self.average.module)

    def _set_learning_rate(self) -> None:
        """That of this step: a linear rise, times the decay."""
        rate = self.decay(self.step) * min(1.0, (self.step + 1) / max(self.config.train.warmup, 1))
        for optimizer, firsts in zip(self.optimizers, self.first_rates, strict=True):
            for group, first in zip(optimizer.param_groups, firsts, strict=True):
                group["lr"] = first * rate

    def row(self) -> dict[str, Any]:
        """The means of the metrics since the last row, which a new window begins after."""
        self.fold()
        count = self.sums.pop("count", 0.0)
        means = {name: total / count for name, total in self.sums.items()} if count else {}
        self.sums = {}
        peak = peak_memory(self.model.device)
        return {
            "step": self.step,
            **means,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            **({} if peak is None else {"peak_mb": round(peak, 1)}),
        }

    def fold(self) -> None:
        """Adds the pending metrics to the sums, fetching them from the device at once."""
        for metrics in self.pending:
            for name, value in metrics.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.sums["count"] = self.sums.get("count", 0.0) + 1
        self.pending = []

    def save(self, run: Run) -> None:
        """Writes the resumable state, then the weights."""
        self.fold()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for which, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{which}.{index}.{name}": tensor for name, tensor in state.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        counters = {name: getattr(self, name) for name in _COUNTERS}
        run.save_state(tensors, {"data": self.data_fingerprint, **counters})
        run.save_model(self.result, self.step)

    def restore(self, run: Run) -> bool:
        """Takes up the state of a run folder; False where there is none.

        Raises:
            ValueError: damaged, or of another model.
        """
        loaded = run.load_state()
        if loaded is None:
            return False
        tensors, counters = loaded
        if counters["data"] != self.data_fingerprint:
            raise ValueError(
                f"data: {run.path} was trained on other data (fingerprint {counters['data']}, now "
                f"{self.data_fingerprint}); give the same data, or another folder with --run"
            )
        weights = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        load_weights(self.model, weights, run.state_path)
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.optimizers]
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, which, index, key = name.split(".")
                states[int(which)].setdefault(int(index), {})[key] = tensor
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        if self.average is not None:
            averaged = {name[8:]: tensor for name, tensor in tensors.items() if name.startswith("average.")}
            self.average.load_state_dict(averaged)
        for name in _COUNTERS:
            setattr(self, name, counters[name])
        return True


_COUNTERS = ("step", "skipped", "skipped_in_a_row", "seconds", "cpu_seconds", "sums")


def _take_up(trainer: Trainer, run: Run) -> bool:
    """Brings a new trainer to where the run folder stands and readies the folder; whether there was anything to resume.

    Raises:
        ValueError: a damaged state, one of other data, or weights without a state.
    """
    resumed = trainer.restore(run)
    if not resumed and run.model_path.is_file():
        raise ValueError(
            f"run: {run.path} holds weights but no {run.state_path.name} to resume from; choose another folder with "
            f"--run, or delete {run.model_path.name} to start over"
        )
    if trainer.step < trainer.config.train.steps:
        write_json(run.config_path, trainer.config.to_dict())
        _record_environment(run, trainer.model.device, trainer.step)
        run.rewind_metrics(trainer.step)
    if resumed and run.trained_steps() != trainer.step:  # killed between the two files of a save
        run.save_model(trainer.result, trainer.step)
    return resumed


def _record_environment(run: Run, device: torch.device, step: int) -> None:
    """environment.json: where the run began, and where it was taken up again."""
    path, now = run.path / "environment.json", environment(device)
    if step == 0 or not path.is_file():
        write_json(path, now)
    else:
        first = run.read_json(path.name)
        write_json(path, {**first, "resumed": [*first.get("resumed", []), {"step": step, **now}]})


def train(config: Config, folder: Path, data: tuple[Dataset, Dataset], device: str = "auto") -> Run:
    """Trains into a run folder, or continues the training that it holds.

    Args:
        config: the experiment; the same one again resumes.
        folder: of the run.
        data: training and validation split.
        device: cpu, cuda, mps, or auto: the first accelerator found.

    Raises:
        ValueError: contradicting settings, another experiment in the folder, a damaged checkpoint.
        Interrupted: Ctrl-C or SIGTERM; all is saved.
    """
    run, config = Run(folder), resolve(config, data[0])
    _check_folder(config, run)
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    # Settings that contradict each other show here, before the folder is touched.
    trainer = Trainer(config, build_model(config, data[0]).to(pick_device(device)), data[0].fingerprint)
    with exclusive(run.path):
        _loop(trainer, run, data, resumed=_take_up(trainer, run))
    return run


def _loop(trainer: Trainer, run: Run, data: tuple[Dataset, Dataset], resumed: bool) -> None:
    """The steps that are left."""
    (dataset, validation), config = data, trainer.config
    runtime, steps = config.runtime, config.train.steps
    held_out = dataclasses.replace(validation, values=subset(validation, runtime.eval_size))
    with interrupts() as interrupted, ProgressLine(trainer.step, steps) as line:
        line.say(_greeting(trainer, run, dataset, resumed))
        while trainer.step < steps:
            trainer.model.train()
            trainer.advance(dataset)
            at_end, step = trainer.step == steps, trainer.step
            if step % runtime.log_every == 0 or at_end:
                row = trainer.row()
                run.append_metrics(row)
                line.update(step, row)
            if step % runtime.eval_every == 0 or at_end:
                line.update(step, _validate(trainer, run, held_out))
            due = step % runtime.save_every == 0 and not trainer.skipped_in_a_row  # keep the last good one
            if due or at_end or interrupted():
                trainer.save(run)
            if interrupted() and not at_end:
                raise Interrupted(f"stopped at step {step} of {steps}; the same command resumes it")


def _validate(trainer: Trainer, run: Run, held_out: Dataset) -> dict[str, float]:
    """Figures of a part of the validation split, into metrics.jsonl, and a picture."""
    figures, arrays = evaluate(trainer.result, held_out, Protocol(samples=1, ssim=False))
    names = ("log_p", "kl", "elbo", "beta_elbo", "information_bits")
    row = {f"val_{name}": figures[name] for name in names}
    row |= {"val_psnr": figures["stochastic"]["psnr"], "val_bits": figures["greedy"]["code_bits"]}
    clocks = {"seconds": round(trainer.seconds, 3), "cpu_seconds": round(trainer.cpu_seconds, 3)}
    run.append_metrics({"step": trainer.step, **row, **clocks})
    path = run.samples_path / f"step_{trainer.step:08d}.png"
    save_comparison(
        path, arrays["originals"][:16], arrays["reconstructions"][:16], float(trainer.model.scaling.peak.max())
    )
    return row


def _greeting(trainer: Trainer, run: Run, dataset: Dataset, resumed: bool) -> str:
    model, config = trainer.model, trainer.config
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
    if trainer.step == config.train.steps:
        return f"{run.path} is trained already: {trainer.step} steps"
    return (
        f"{'resuming' if resumed else 'training'} {config.preset} by {config.method_name} in {run.path} from step "
        f"{trainer.step} on {model.device}: {len(dataset):,} data of shape {list(dataset.shape)}, "
        f"{model.num_tokens} tokens of {model.vocab_size} symbols = {model.bits:.0f} bits, "
        f"{sizes[0]:,} + {sizes[1]:,} parameters"
    )


def _check_folder(here: Config, run: Run) -> None:
    """An old folder must be empty or hold this experiment, but for how it is carried out and where its data lie."""
    if not run.config_path.is_file():
        foreign = run.path.is_dir() and any(path.name != LOCK for path in run.path.iterdir())
        if foreign or (run.path.exists() and not run.path.is_dir()):
            raise ValueError(f"run: {run.path} exists and is no run folder; choose another with --run FOLDER")
        return
    there = run.config()
    old, new = _identity(there), _identity(here)
    changed = [f"{key} (there {old.get(key)}, now {new.get(key)})" for key in old | new if old.get(key) != new.get(key)]
    if changed:
        raise ValueError(
            f"run: {run.path} holds another experiment: {'; '.join(changed)}; choose another folder with --run, or "
            "give the same options"
        )


def _identity(config: Config) -> dict[str, Any]:
    groups = config.to_dict()
    flat = {"preset": groups["preset"], "method": groups["method_name"]}
    for group in ("data", "nets", "method", "train"):
        flat |= {f"{group}.{name}": value for name, value in groups[group].items()}
    del flat["data.path"]
    return flat


def _mixed(seed: int, step: int) -> int:
    """A seed for one step, unrelated to those of other steps and seeds."""
    return int(np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))
