"""`daps report`: one self-contained HTML page about one run or several.

It reads what the run folders hold and needs neither the data nor the weights; what a folder lacks, the page leaves out.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from daps import __version__, plots
from daps.atomic import replacing
from daps.config import Config
from daps.data import MOTION
from daps.entries import Array, Entry, read_entries
from daps.features import FIGURES
from daps.joint_curves import joint_blocks
from daps.motion_metrics import UNITS
from daps.pictures import to_pixels

STRIP = 8  # pictures side by side
SHOWN = 16  # data per gallery; 8 where pictures are larger than 64 x 64
BETA, ETA, TIMES = "\N{GREEK SMALL LETTER BETA}", "\N{GREEK SMALL LETTER ETA}", "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"  # stands for what a run does not have


@dataclass(frozen=True)
class Summary:
    """What `daps compare` puts at the top: a table whose first line is its header, and curves."""

    table: list[list[str]]
    panels: list[plots.Panel]


def write_report(runs: Sequence[Path], page: Path) -> None:
    """Writes the page about runs, all or nothing.

    Args:
        runs: run folders, compared in this order.
        page: the HTML file; its folder is made if missing.

    Raises:
        ValueError: no runs, a folder that is no run or is damaged, or the page is a folder.
    """
    if not runs:
        raise ValueError("report: name one run folder or more, got none: daps report RUN")
    if page.is_dir():
        raise ValueError(f"report: the page must be a file, got the folder {page}; try -o {page / 'report.html'}")
    content = render(read_entries(runs)).encode()
    page.parent.mkdir(parents=True, exist_ok=True)
    with replacing(page) as file:
        file.write(content)


# -- the table of runs -----------------------------------------------------------------------------


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _symbols(entry: Entry) -> str:
    return f"{entry.config.nets.num_tokens} {TIMES} {entry.config.nets.vocab_size}"


def _bits(entry: Entry) -> float:
    return entry.config.nets.num_tokens * math.log2(entry.config.nets.vocab_size)


def _steps(entry: Entry) -> str:
    return f"{entry.last('step') or 0:,} of {entry.config.train.steps:,}"


def _motion_figure(name: str) -> Callable[[Entry], Any]:
    return lambda entry: entry.figure("motion", "greedy", name)


def _feature_figure(mode: str, name: str) -> Callable[[Entry], Any]:
    return lambda entry: entry.figure("features", mode, name)


Row = tuple[str, str, Callable[[Entry], Any], Callable[[Any], str] | str]

# Heading -> rows: label, unit or remark, the value (None: unknown), its format.
TABLE: dict[str, tuple[Row, ...]] = {
    "Training": (
        ("method", "", lambda e: e.config.method_name, ""),
        ("preset", "", lambda e: e.config.preset, ""),
        ("data", "", lambda e: e.config.data.name, ""),
        ("steps", "done of planned", _steps, ""),
        ("parameters", "encoder + decoder", lambda e: e.parameters, ","),
        ("time", "seconds", lambda e: e.last("seconds"), _seconds),
        ("CPU time", "seconds, all cores", lambda e: e.last("cpu_seconds"), _seconds),
        ("peak memory", "MB", lambda e: e.last("peak_mb"), ",.0f"),
        ("seed of the training", "", lambda e: e.config.train.seed, ""),
    ),
    "Evaluation": (
        ("split", "", lambda e: e.figure("split"), ""),
        ("n", "data", lambda e: e.figure("n"), ","),
        ("shape of a datum", "", lambda e: e.figure("protocol", "shape"), lambda v: f" {TIMES} ".join(map(str, v))),
        ("S", "sampled codes per datum", lambda e: e.figure("importance_samples"), ""),
        ("seed of the samples", "", lambda e: e.figure("seed"), ""),
        ("after step", "", lambda e: e.figure("step"), ","),
    ),
    "Likelihood, stochastic, means over S": (
        ("log p(x|z)", "nats", lambda e: e.figure("log_p"), ",.2f"),
        ("KL(q || uniform)", "nats", lambda e: e.figure("kl"), ",.2f"),
        ("ELBO", "nats", lambda e: e.figure("elbo"), ",.2f"),
        (f"{BETA}-ELBO", "nats", lambda e: e.figure("beta_elbo"), ",.2f"),
        (f"{BETA} of it", "", lambda e: e.figure("beta"), "g"),
        ("IW bound on log p(x)", "nats", lambda e: e.figure("iw_log_likelihood"), ",.2f"),
        ("the same as code length, at most", "bits per value", lambda e: e.figure("bits_per_dim"), ",.3f"),
    ),
    "Reconstruction": (
        ("PSNR, stochastic", "dB", lambda e: e.figure("stochastic", "psnr"), ".2f"),
        ("PSNR, greedy", "dB", lambda e: e.figure("greedy", "psnr"), ".2f"),
        ("SSIM, stochastic", "", lambda e: e.figure("stochastic", "ssim"), ".4f"),
        ("SSIM, greedy", "", lambda e: e.figure("greedy", "ssim"), ".4f"),
        ("SSIM window", "pixels square", lambda e: e.figure("ssim_window"), ""),
    ),
    "Features of networks": tuple(
        (f"{label}, {mode}", "", _feature_figure(mode, name), form)
        for name, (label, form) in FIGURES.items()
        for mode in ("stochastic", "greedy")
    ),
    "Motion, greedy": tuple((label, unit, _motion_figure(name), ".4g") for name, (label, unit) in UNITS.items()),
    "Codes": (
        (f"tokens {TIMES} symbols", "", _symbols, ""),
        ("nominal size", "bits", _bits, ",.4g"),
        ("entropy of q(z|x)", "bits", lambda e: e.figure("entropy_bits"), ",.2f"),
        ("information I(x; z), at most", "bits", lambda e: e.figure("information_bits"), ",.2f"),
        (
            "perplexity, stochastic",
            "all positions pooled",
            lambda e: e.figure("stochastic", "perplexity_pooled"),
            ".1f",
        ),
        ("perplexity, greedy", "all positions pooled", lambda e: e.figure("greedy", "perplexity_pooled"), ".1f"),
    ),
}


def _table(entries: list[Entry]) -> Iterator[tuple[str, list[tuple[str, str, list[str]]]]]:
    """(heading, [(label, unit, text per run)]); rows that no run has a value for are left out."""
    for heading, rows in TABLE.items():
        lines = []
        for label, unit, value, form in rows:
            values = [value(entry) for entry in entries]
            if any(v is not None for v in values):
                lines.append((label, unit, [_printed(v, form) for v in values]))
        if lines:
            yield heading, lines


def _printed(value: Any, form: Callable[[Any], str] | str) -> str:
    if value is None:
        return DASH
    text = form(value) if callable(form) else f"{value:{form}}"
    if isinstance(value, float):
        text = text.removeprefix("-") if not text.strip("-0.") else text  # no minus before a zero
        text = text.replace("-", "\N{MINUS SIGN}")
    return text


def _settings(config: Config) -> dict[str, str]:
    """group.name -> value, as the options of `daps train` are named."""
    flat = {"preset": config.preset, "method": config.method_name}
    for group, settings in config.to_dict().items():
        if isinstance(settings, dict):
            flat |= {f"{group}.{name}": _listed(value) for name, value in settings.items()}
    return flat


def _listed(value: Any) -> str:
    if value is None:
        return DASH
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _differences(entries: list[Entry]) -> list[tuple[str, list[str]]]:
    """Settings in which the runs differ: (name, value per run); the table of runs has preset and method."""
    all_settings = [_settings(entry.config) for entry in entries]
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    rows = [(name, [settings.get(name, DASH) for settings in all_settings]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1 and "." in name]


# -- pictures --------------------------------------------------------------------------------------


def _galleries(entries: list[Entry]) -> list[dict[str, Any]]:
    """One gallery per set of originals: its data, its runs and its blocks of pictures or figures."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        if {"originals", "reconstructions"} <= entry.arrays.keys():
            first = entry.arrays["originals"][:SHOWN]
            groups.setdefault((first.shape, first.tobytes(), entry.config.data.scaling), []).append(entry)
    return [_gallery(group) for group in groups.values()]


def _gallery(group: list[Entry]) -> dict[str, Any]:
    originals = group[0].arrays["originals"]
    kinds = {2: ("vectors", _vector_blocks), 3: ("sequences", _sequence_blocks), 4: ("pictures", _picture_blocks)}
    moving = group[0].config.data.name in MOTION
    kind, blocks = ("motion", _motion_blocks) if moving else kinds[originals.ndim]
    return {
        "about": group[0].figure("data") or group[0].config.data.name,
        "kind": kind,
        "runs": group,
        "blocks": blocks(group, originals),
    }


def _stacks(group: list[Entry], originals: Array, part: slice) -> list[tuple[Entry | None, Array]]:
    """Some originals (None), then each run's reconstructions of them."""
    rows: list[tuple[Entry | None, Array]] = [(None, originals[part])]
    return rows + [(entry, np.nan_to_num(entry.arrays["reconstructions"][part])) for entry in group]


def _picture_blocks(group: list[Entry], originals: Array) -> list[dict[str, Any]]:
    """Strips of originals over strips of each run's reconstructions."""
    count = SHOWN if max(originals.shape[2:]) <= 64 else STRIP
    peak = float(group[0].figure("peak") or max(float(originals.max()), 1e-12))
    blocks = []
    for start in range(0, min(count, len(originals)), STRIP):
        rows = _stacks(group, originals, slice(start, start + STRIP))
        strips = [(entry, plots.picture_strip(to_pixels(values, peak), STRIP)) for entry, values in rows]
        blocks.append({"first": start + 1, "last": start + len(rows[0][1]), "strips": strips})
    return blocks


def _sequence_blocks(group: list[Entry], originals: Array) -> list[dict[str, Any]]:
    """Heat strips; the colours span each channel's range over the originals."""
    low, high = originals.min((0, 1)), originals.max((0, 1))
    blocks = []
    for i in range(min(4, len(originals))):
        rows = _stacks(group, originals, slice(i, i + 1))
        strips = [(entry, plots.heat_strip(values[0], low, high)) for entry, values in rows]
        blocks.append({"first": i + 1, "last": i + 1, "strips": strips})
    return blocks


def _vector_blocks(group: list[Entry], originals: Array) -> list[dict[str, Any]]:
    """Line plots."""
    blocks = []
    for i in range(min(STRIP, len(originals))):
        others = [(entry.style, entry.arrays["reconstructions"][i]) for entry in group]
        alt = f"Datum {i + 1}: the original vector and its reconstructions"
        caption = f"datum {i + 1}, value of each feature"
        blocks.append({"caption": caption, "figure": plots.overlay(alt, originals[i], others)})
    return blocks


def _motion_blocks(group: list[Entry], originals: Array) -> list[dict[str, Any]]:
    """Line plots of joint angles."""
    return joint_blocks(originals, [(entry.style, np.nan_to_num(entry.arrays["reconstructions"])) for entry in group])


def _progress(entry: Entry) -> list[tuple[str, plots.Picture]]:
    """First, middle and last sample picture: (step, picture)."""
    paths = entry.samples
    chosen = sorted({0, (len(paths) - 1) // 2, len(paths) - 1}) if paths else []
    return [(paths[i].stem.removeprefix("step_").lstrip("0") or "0", plots.embedded(paths[i])) for i in chosen]


# -- figures ---------------------------------------------------------------------------------------


def _codebook(entry: Entry) -> list[plots.Panel]:
    """Panels on the use of the symbols in greedy codes."""
    counts = entry.arrays.get("counts")
    modes = [entry.figure(mode, "perplexity_per_position") or [] for mode in ("greedy", "stochastic")]
    return [] if counts is None else plots.codebook(entry.label, counts, modes[0], modes[1], entry.style)


# Metric -> title, explanation, logarithmic axis. Other metrics follow, folded away.
PANELS: dict[str, tuple[str, str, bool]] = {
    "log_p": ("log p(x|z)", "Nats per datum, training batches; higher is better.", False),
    "elbo": ("ELBO", "log p minus KL, nats; a lower bound on log p(x).", False),
    "kl": ("KL(q || uniform)", "Nats; what the code tells. At most the nominal size, in nats.", False),
    "ess": ("Effective sample size", "How many of the K samples count in an update; dotted: the target.", False),
    "eta": (ETA, "Multiplier of the trust region: the larger, the smaller the encoder's step.", True),
    "beta": (BETA, "Price of entropy; falls on a schedule, so that codes become certain.", True),
    "bits": ("Bits used", "Marginal entropy of the sampled codes; the nominal size is the most there can be.", False),
    "val_psnr": ("PSNR, stochastic, validation", "dB, on a part of the validation split; higher is better.", False),
}


def _panel(entries: list[Entry], metric: str, x: str) -> plots.Panel | None:
    """One metric of all runs against `x`, a key of the rows; None without values."""
    title, text, log = PANELS.get(metric, (metric, "", False))
    lines = []
    for entry in entries:
        points = [(row[x], row[metric]) for row in entry.rows if isinstance(row.get(metric), int | float) and x in row]
        if points:
            lines.append(plots.Curve(entry.style, *np.array(points, dtype=np.float64).T))
    if not lines:
        return None
    x_label = {"step": "step", "cpu_seconds": "CPU seconds"}[x]
    alt = f"{title} against {x_label} of {', '.join(entries[line.style].label for line in lines)}"
    targets = [(e.style, e.config.method.targets[metric]) for e in entries if metric in e.config.method.targets]
    return plots.Panel(title, text, plots.curves(alt, lines, x_label, log, targets))


def _panels(entries: list[Entry], metrics: Iterable[str], x: str) -> list[plots.Panel]:
    return [panel for metric in metrics if (panel := _panel(entries, metric, x))]


def render(entries: list[Entry], summary: Summary | None = None) -> str:
    """The page as text, under a summary if there is one."""
    metrics = dict.fromkeys(name for entry in entries for row in entry.rows for name in row)
    others = [name for name in metrics if name not in {*PANELS, "step", "seconds", "cpu_seconds", "peak_mb"}]
    environment = Environment(
        loader=PackageLoader("daps"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        version=__version__,
        entries=entries,
        summary=summary,
        table=list(_table(entries)),
        differences=_differences(entries),
        galleries=_galleries(entries),
        codebooks=[(entry, panels) for entry in entries if (panels := _codebook(entry))],
        curves=_panels(entries, PANELS, "step"),
        cpu_curves=_panels(entries, ("log_p", "val_psnr"), "cpu_seconds"),
        other_curves=_panels(entries, others, "step"),
        progress=[(entry, pictures) for entry in entries if (pictures := _progress(entry))],
        settings=[(entry, _settings(entry.config)) for entry in entries],
    )
