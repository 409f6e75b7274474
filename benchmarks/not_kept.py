"""Four ideas that are not in the package, each against the same training without it at equal CPU time.

    OMP_NUM_THREADS=1 python benchmarks/not_kept.py {reuse,replay,revive,attribution} [FOLDER_OF_MNIST_PARQUET]
                                                    [--seconds 120]
                                                    [--seeds 0] [--presets mnist mnist-paper] [--output FILE]

    reuse   R = 1, 2, 4 updates for every rollout, by importance weights: presets mnist-paper (exact dual, learning
            rate 1e-3; a rollout is a third of a step) and mnist (parallel encoder)
    replay  the best code that was ever found for a training datum is one more sample of it: preset digits
    revive  symbols that fall out of use become noisy copies of symbols in use: preset mnist with unrelated symbols
            and no reward for rare ones, where codes collapse
    attribution  a weight per token, though the decoder is not local: log p of a sample, less what the decoder's
            derivative says that its other tokens have added to it: preset mnist

The time is process time of training alone, on one thread, and all schedules (learning rate, beta, reward of rare
symbols) run on it, so every variant ends them as its time ends, however many updates (`step`) it has made. Without
--seconds, a run of replay takes the time of 2,000 plain steps. Other work on the same core slows some variants and
not others: run on an idle machine, and several seeds. Writes docs/results/not_kept.json: for every variant, preset
and seed the last evaluation, of 1,000 images spread over the validation split, and the curve of [CPU-s, PSNR].
"""

import argparse
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from daps.clipping import adaptive_clip
from daps.codebook import RareSymbols
from daps.config import Config
from daps.data import Dataset, batch_indices, load
from daps.decoder import Decoder
from daps.encoder import token_log_prob
from daps.evaluate import Protocol, evaluate, subset
from daps.methods.daps import DAPS
from daps.objective import effective_sample_size, log_weights, policy_loss, solve_eta
from daps.presets import preset
from daps.run import environment, write_json
from daps.selection import recombine, resample, take
from daps.symbols import TableEmbedding
from daps.train import Trainer, build_model, resolve

OUTPUT = Path(__file__).parents[1] / "docs" / "results" / "not_kept.json"
BETA = 0.01  # of the beta-ELBO, for every variant alike
TICKS = 10_000  # of the clock that schedules run on
EVALUATIONS = 10  # a run
SECONDS, STEPS = 120.0, 2_000  # of a run where --seconds does not say; steps of the plain run on digits
HALVINGS = 40  # of the bracket of eta + beta
Settings = dict[str, Any]


@torch.no_grad()
def corrected_log_weights(reward: Tensor, log_q: Tensor, drift: Tensor, beta: float, target: float) -> Tensor:
    """Log-weights [K, B] of the target around q for samples of another policy, with the multiplier solved.

    w^k = softmax_k((reward^k - beta log q^k) / (eta + beta) + drift^k), eta >= 0 such that the mean ESS is the target.
    The drift is log q less that of the policy that drew the samples; without any this is `daps.objective`. Where no
    eta is large enough, for the drift alone weighs unevenly, the weights only undo the drift.
    """
    scores = (reward - reward.amax(0)).double() - beta * log_q
    scores, offset = scores - scores.amax(0), drift.double()

    def log_w(log_tau: float) -> Tensor:
        return torch.log_softmax(scores / math.exp(log_tau) + offset, 0)

    def ess(log_tau: float) -> float:
        return float(effective_sample_size(log_w(log_tau)).mean())

    low, high = math.log(beta), math.log(max(2 * beta, 1e6 * float(-scores.amin())))
    if ess(low) >= target:  # the constraint is slack
        high = low
    for _ in range(HALVINGS if high > low else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if ess(middle) < target else (low, middle)
    return log_w(high).to(reward.dtype)


class Plain:
    """DAPS with sequence credit as `DAPS.forward` has it, but R losses a rollout; every idea changes a part of it."""

    def __init__(self, trainer: Trainer, data: Dataset, updates: int = 1) -> None:
        assert isinstance(trainer.model, DAPS)
        self.trainer, self.model, self.settings = trainer, trainer.model, trainer.model.config
        self.updates = updates  # R, for every rollout

    def codes(self, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes of a batch and their log q per sequence; None where q is to be taken as what drew them."""
        codes, log_q = self.model.encoder.sample(y, self.settings.samples)
        return codes, log_q.sum(-1)

    def scored(self, rows: Tensor, codes: Tensor, log_p: Tensor) -> None:
        """Told of every rollout."""

    def losses(self, x: Tensor, rows: Tensor, tick: int) -> Iterator[Tensor]:
        """R losses from one rollout and one reward for each code; the caller updates the parameters after each."""
        model, trained, y = self.model, self.settings.trained, self.model.scaling(x)
        codes, log_q_old = self.codes(y, rows)
        beta, target = model.beta(tick), self.settings.ess_fraction * len(codes)
        with torch.set_grad_enabled(not trained):
            log_p = model.decoder(codes).log_prob(y)
        reward = log_p.detach()
        self.scored(rows, codes, reward)
        if model.rarity is not None:
            reward = reward + model.rarity(codes, tick).sum(-1)
            model.rarity.observe(codes)
        for update in range(self.updates):
            log_q = model.encoder.log_prob(y, codes).sum(-1)
            now = log_q.detach()
            drift = torch.zeros_like(now) if update == 0 or log_q_old is None else now - log_q_old
            log_w = corrected_log_weights(reward, now, drift, beta, target)
            if trained:
                likelihood = model.decoder(take(codes, resample(log_w, trained).chosen)).log_prob(y).mean()
            else:  # of samples of q as it is now
                log_p = model.decoder(codes).log_prob(y) if update else log_p
                likelihood = (drift.softmax(0) * log_p).sum(0).mean()
            yield policy_loss(log_w, log_q) - likelihood


class Replay(Plain):
    """The best code that was ever found for a datum, by the decoder of its last visit, is sample K + 1.

    It is weighed as if q had drawn it, which is a bias: the encoder is pulled to it however unlikely q holds it, and
    1 / (K + 1) of the decoder's likelihood is that of a selected code.
    """

    def __init__(self, trainer: Trainer, data: Dataset) -> None:
        super().__init__(trainer, data)
        self.best = torch.randint(self.model.vocab_size, (len(data), self.model.num_tokens))  # a first guess

    def codes(self, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """K of q, and the stored one."""
        return torch.cat([super().codes(y, rows)[0], self.best[rows].unsqueeze(0)]), None

    def scored(self, rows: Tensor, codes: Tensor, log_p: Tensor) -> None:
        """Keeps the best by the decoder of now: what was stored is scored anew, so it may lose."""
        self.best[rows] = take(codes, log_p.argmax(0, keepdim=True))[0]


class Revive(Plain):
    """Every 200 steps, symbols that hardly occur become copies of those that do, with 10 % noise on their vectors.

    The one copied is drawn by its frequency, so what is split are the most used; original and copies share its
    probability. None in the last tenth of the time, which heals the wounds.
    """

    def __init__(self, trainer: Trainer, data: Dataset) -> None:
        super().__init__(trainer, data)
        self.usage = RareSymbols(self.model.num_tokens, self.model.vocab_size, 0.0, 0.0, 1.0)
        self.steps, self.revived = 0, 0

    def scored(self, rows: Tensor, codes: Tensor, log_p: Tensor) -> None:
        """Counts symbols."""
        self.usage.observe(codes)

    def losses(self, x: Tensor, rows: Tensor, tick: int) -> Iterator[Tensor]:
        """The plain loss, and after its update the revival."""
        yield from super().losses(x, rows, tick)
        self.steps += 1
        if self.steps % 200 == 0 and tick < 0.9 * TICKS:
            self.revive()

    @torch.no_grad()
    def revive(self) -> None:
        """Overwrites the rows of dead symbols: head, bias, decoder embedding, and the optimizers' memory of them."""
        frequency = self.usage.frequency.mean(0)  # pooled over positions
        dead = (frequency < 0.1 / len(frequency)).nonzero().squeeze(-1)
        self.revived += len(dead)
        if not len(dead):
            return
        donors = torch.multinomial(frequency.index_fill(0, dead, 0.0), len(dead), replacement=True)
        head, embedding = self.model.encoder.head, self.model.decoder.embedding
        assert isinstance(head, nn.Linear) and isinstance(embedding, TableEmbedding)
        head.bias.sub_((1 + torch.bincount(donors, minlength=len(frequency))).log())
        for parameter in (head.weight, head.bias, embedding.weight):
            states = [optimizer.state.get(parameter, {}) for optimizer in self.trainer.optimizers]
            memories = [memory for state in states for memory in state.values() if memory.shape == parameter.shape]
            for tensor in (parameter, *memories):
                tensor[dead] = tensor[donors]
            if parameter.ndim == 2:
                size = parameter[dead].square().mean(-1, keepdim=True).sqrt()
                parameter[dead] += 0.1 * size * torch.randn(len(dead), parameter.shape[1])


class Attribution(Plain):
    """Credit per token for any decoder: R^k_t = R^k - a sum_{s != t} c^k_s, with true rewards R.

    c^k_s = (e(z^k_s) - m_s) . (g(m) + g(z^k))_s / 2 is the trapezoid of the derivative g of log p along the line from
    the mean vectors m of the K samples to those of sample k: summed over tokens it predicts R^k - R(m). The factor a
    in [0, 1] is the regression of one on the other over the batch.
    """

    def __init__(self, trainer: Trainer, data: Dataset, samples: int = 0) -> None:
        super().__init__(trainer, data)
        self.samples = samples or self.settings.samples  # K
        self.explained: list[float] = []  # share of the variance of log p within a datum that is predicted

    def losses(self, x: Tensor, rows: Tensor, tick: int) -> Iterator[Tensor]:
        """One loss, as local credit has it."""
        model, settings, y = self.model, self.settings, self.model.scaling(x)
        codes, log_q, _, logits = model.proposal(model.encoder, model.decoder, y, self.samples)
        assert isinstance(model.decoder, Decoder) and logits is not None and model.rarity is not None
        vectors = model.decoder.embedding(codes).detach()
        centre = vectors.mean(0, keepdim=True)
        points = torch.cat([centre, vectors]).requires_grad_()
        log_p = model.decoder.from_vectors(points).log_prob(y)
        slope = torch.autograd.grad(log_p.sum(), points)[0]
        parts = ((vectors - centre) * (slope[:1] + slope[1:]) / 2).sum(-1)  # K B T
        reward, predicted = log_p[1:].detach(), parts.sum(-1)
        true, guess = reward - reward.mean(0), predicted - predicted.mean(0)
        factor = ((true * guess).sum() / guess.square().sum().clamp(min=1e-12)).clamp(0, 1)
        self.explained.append(float(1 - (true - factor * guess).square().sum() / true.square().sum()))
        returns = reward.unsqueeze(-1) - factor * (predicted.unsqueeze(-1) - parts) + model.rarity(codes, tick)
        model.rarity.observe(codes)
        beta, target = model.beta(tick), settings.ess_fraction * len(codes)
        log_w = log_weights(returns, log_q, solve_eta(returns, log_q, beta, target), beta)
        likelihood = model.decoder(recombine(codes, log_w, settings.trained)).log_prob(y).mean()
        yield policy_loss(log_w, token_log_prob(logits, codes)) - likelihood


@dataclass(frozen=True)
class Study:
    """An idea: its variants, the plain one first, and the presets that it is tried on, with what is changed of them."""

    variants: dict[str, Callable[[Trainer, Dataset], Plain]]
    presets: dict[str, dict[str, Settings]]


STUDIES: dict[str, Study] = {
    "reuse": Study(
        {"R = 1": Plain, "R = 2": partial(Plain, updates=2), "R = 4": partial(Plain, updates=4)},
        {"mnist-paper": {"method": {"eta": "solve"}, "train": {"learning_rate": 1e-3}}, "mnist": {}},
    ),
    "replay": Study({"plain": Plain, "replay": Replay}, {"digits": {}}),
    "revive": Study(
        {"plain": Plain, "revive": Revive}, {"mnist": {"nets": {"structure": "free"}, "method": {"fullness": 0.0}}}
    ),
    "attribution": Study(
        {"plain": Plain, "per token": Attribution, "per token, K = 8": partial(Attribution, samples=8)}, {"mnist": {}}
    ),
}


def configured(name: str, changes: dict[str, Settings], seed: int) -> Config:
    """A preset with some settings changed, whose schedules span the ticks of the clock."""
    config = preset(name)
    train = dataclasses.replace(config.train, **changes.get("train", {}), steps=TICKS, seed=seed)
    nets = dataclasses.replace(config.nets, **changes.get("nets", {}))
    method = dataclasses.replace(config.method, **changes.get("method", {}))
    return dataclasses.replace(config, nets=nets, method=method, train=train)


def update(trainer: Trainer, loss: Tensor, tick: int) -> None:
    """One step of the optimizers, as `Trainer.advance` makes it."""
    trainer.model.zero_grad()
    loss.backward()
    norm = adaptive_clip(trainer.parameters, trainer.config.train.clip)
    if not bool(torch.isfinite(loss.detach() + norm)):
        return
    for optimizer, firsts in zip(trainer.optimizers, trainer.first_rates, strict=True):
        for group, first in zip(optimizer.param_groups, firsts, strict=True):
            group["lr"] = first * trainer.decay(tick)
        optimizer.step()


def train(
    config: Config, kind: Callable[[Trainer, Dataset], Plain], data: tuple[Dataset, Dataset], seconds: float | None
) -> list[dict[str, float]]:
    """Figures of all evaluations of a run of so many CPU-seconds; None: of STEPS steps."""
    (dataset, held_out), config = data, resolve(config, data[0])
    trainer = Trainer(config, build_model(config, dataset))
    variant = kind(trainer, dataset)
    rollouts, steps, cpu, done = 0, 0, 0.0, 0.0
    rows: list[dict[str, float]] = []
    while done < 1:
        start, tick = time.process_time(), int(done * TICKS)
        picks = batch_indices(config.train.seed, rollouts, len(dataset), config.train.batch_size)
        for loss in variant.losses(torch.as_tensor(dataset[picks]), torch.as_tensor(picks), tick):
            update(trainer, loss, tick)
            steps += 1
        rollouts += 1
        cpu += time.process_time() - start
        done = cpu / seconds if seconds else rollouts / STEPS
        if done >= 1 or done * EVALUATIONS >= len(rows) + 1:
            figures, _ = evaluate(trainer.model, held_out, Protocol(samples=1, ssim=False))
            row = {name: figures[name] for name in ("log_p", "kl", "information_bits")}
            row |= {"psnr": figures["stochastic"]["psnr"], "beta_elbo": row["log_p"] - BETA * row["kl"]}
            rows.append({"step": steps, "cpu_s": round(cpu, 2), **{key: round(row[key], 4) for key in sorted(row)}})
    told = {
        Revive: lambda v: f"{v.revived} symbols revived",
        Attribution: lambda v: f"{mean(v.explained):.2f} explained",
    }
    print(told.get(type(variant), lambda _: "")(variant), f"{rollouts} rollouts", flush=True)
    return rows


def record(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to the results, in place of the older one of its kind."""
    rows = json.loads(path.read_text()) if path.exists() else []
    kept = [old for old in rows if any(old[key] != row[key] for key in ("idea", "variant", "preset", "seed"))]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [*kept, row])


def main() -> None:
    """Trains every variant on every preset and seed; each writes its row as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("idea", choices=STUDIES)
    parser.add_argument("data", nargs="?", help="folder of MNIST's parquet files; the hub's without it")
    parser.add_argument("--seconds", type=float, help="of CPU a run; 120, or for replay what 2,000 plain steps take")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    names = sorted({name for study in STUDIES.values() for name in study.presets})
    parser.add_argument("--presets", nargs="+", default=names, choices=names, help="of those of the idea; all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="results file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study, about = STUDIES[options.idea], environment(torch.device("cpu"))
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds: must be > 0, got {options.seconds:g}")
    for name, seed in itertools.product((name for name in study.presets if name in options.presets), options.seeds):
        config = configured(name, study.presets[name], seed)
        path = options.data if config.data.name == "mnist" else None
        dataset, validation = (load(config.data.name, split, path=path) for split in ("train", "validation"))
        held_out = dataclasses.replace(validation, values=subset(validation, 1_000))
        seconds = options.seconds or (None if options.idea == "replay" else SECONDS)
        command = f"python benchmarks/not_kept.py {options.idea}{' FOLDER' if path else ''}"
        command += f" --seconds {options.seconds:g}" if options.seconds else ""
        facts = {"device": about["processor"], "commit": about["commit"], "command": f"{command} --seeds {seed}"}
        for variant, kind in study.variants.items():
            rows = train(config, kind, (dataset, held_out), seconds)
            seconds = seconds or rows[-1]["cpu_s"]
            place = {"idea": options.idea, "variant": variant, "preset": name, "seed": seed}
            curve = [[row["cpu_s"], row["psnr"]] for row in rows]
            record(options.output, {**place, **rows[-1], **facts, "curve": curve})
            print({**place, **rows[-1]}, flush=True)


if __name__ == "__main__":
    main()
