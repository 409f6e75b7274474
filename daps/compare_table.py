"""Rows and table of a comparison: what a method cost, and how well it did by the one protocol."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from daps import report
from daps.entries import parameters
from daps.features import FIGURES
from daps.motion_metrics import UNITS
from daps.run import Run, portable_command

BETA = 0.01  # of the beta-ELBO, for every method alike


def row_of(label: str, run: Run) -> dict[str, Any]:
    """The figures of one run: cost, then quality on the whole validation split; None where it does not apply.

    `psnr`, `ssim`, `usage` and `perplexity` are of one stochastic code per datum, those with `_greedy` of the likeliest
    symbol at each token. None also where training ended in numbers that are not finite.
    """
    config, figures, environment = run.config(), run.read_json("evaluation.json"), run.read_json("environment.json")
    last: dict[str, Any] = next((row for row in reversed(run.metrics()) if "loss" in row), {})
    train, stochastic, greedy = config.train, figures["stochastic"], figures["greedy"]
    distances = figures.get("features") or {"stochastic": {}, "greedy": {}}
    motion = figures.get("motion") or {"stochastic": {}, "greedy": {}}
    on_cpu, log_p, kl = environment["device"] == "cpu", figures["log_p"], figures["kl"]
    sequences = train.batch_size * config.method.sequences * config.nets.num_tokens
    return {
        "method": label,
        "preset": config.preset,
        "seed": train.seed,
        "steps": figures["step"],
        "batch_size": train.batch_size,
        "tokens_sampled": figures["step"] * sequences,
        "cpu_s": last.get("cpu_seconds") if on_cpu else None,
        "gpu_s": None if on_cpu else last.get("seconds"),
        "wall_s": last.get("seconds"),
        "peak_mb": last.get("peak_mb"),
        "params": parameters(config),
        "log_p": log_p,
        "elbo": figures["elbo"],
        "kl": kl,
        "beta_elbo": None if None in (log_p, kl) else log_p - BETA * kl,
        "iw_log_likelihood": figures["iw_log_likelihood"],
        "psnr": stochastic["psnr"],
        "psnr_greedy": greedy["psnr"],
        "ssim": stochastic["ssim"],
        "ssim_greedy": greedy["ssim"],
        "bits_per_dim": figures["bits_per_dim"],
        **{name: distances["stochastic"].get(name) for name in FIGURES},
        **{f"{name}_greedy": distances["greedy"].get(name) for name in FIGURES},
        **{name: motion["stochastic"].get(name) for name in UNITS},
        **{f"{name}_greedy": motion["greedy"].get(name) for name in UNITS},
        "nominal_bits": figures["nominal_bits"],
        "information_bits": figures["information_bits"],
        "usage": stochastic["usage_pooled"],
        "usage_per_position": fmean(stochastic["usage_per_position"]),
        "usage_per_position_greedy": fmean(greedy["usage_per_position"]),
        "perplexity": stochastic["perplexity_pooled"],
        "perplexity_per_position": fmean(stochastic["perplexity_per_position"]),
        "perplexity_per_position_greedy": fmean(greedy["perplexity_per_position"]),
        "split": figures["split"],
        "n": figures["n"],
        "protocol": figures.get("protocol"),
        "device": environment["processor"] if on_cpu else environment["device"],
        "command": portable_command(environment["command"]),
        "commit": environment["commit"],
    }


def per_step(row: dict[str, Any]) -> float | None:
    """Milliseconds of a training step."""
    seconds = row["gpu_s"] if row["cpu_s"] is None else row["cpu_s"]
    return None if seconds is None else 1000 * seconds / max(row["steps"], 1)


Column = tuple[str, Callable[[dict[str, Any]], Any], str]
COLUMNS: tuple[Column, ...] = (
    ("steps", lambda r: r["steps"], ",.0f"),
    ("CPU-s", lambda r: r["cpu_s"], ",.0f"),
    ("GPU-s", lambda r: r["gpu_s"], ",.0f"),
    ("ms a step", per_step, ",.1f"),
    ("peak MB", lambda r: r["peak_mb"], ",.0f"),
    ("parameters", lambda r: r["params"], ",.0f"),
    ("tokens sampled, M", lambda r: r["tokens_sampled"] / 1e6, ",.1f"),
    ("log p, nats", lambda r: r["log_p"], ",.1f"),
    (f"beta-ELBO ({BETA:g})", lambda r: r["beta_elbo"], ",.1f"),
    ("PSNR, dB", lambda r: r["psnr"], ".2f"),
    ("PSNR greedy", lambda r: r["psnr_greedy"], ".2f"),
    ("SSIM", lambda r: r["ssim"], ".4f"),
    ("rFID", lambda r: r["rfid"], ".1f"),
    ("Frechet, EfficientNet-Lite0", lambda r: r["frechet_efficientnet_lite0"], ".2f"),
    ("top-1 agreement", lambda r: r["top1_agreement_efficientnet_lite0"], ".0%"),
    ("FID to statistics", lambda r: r.get("fid_to_statistics"), ".1f"),
    ("LPIPS", lambda r: r.get("lpips"), ".3f"),
    ("joint RMS, rad", lambda r: r["joint_rms"], ".3f"),
    ("joint RMS greedy", lambda r: r["joint_rms_greedy"], ".3f"),
    ("MPJPE, mm", lambda r: r["mpjpe"], ".1f"),
    ("MPJPE greedy", lambda r: r["mpjpe_greedy"], ".1f"),
    ("nominal bits", lambda r: r["nominal_bits"], ",.0f"),
    ("I(x; z), bits", lambda r: r["information_bits"], ",.1f"),
    ("symbols used", lambda r: r["usage_per_position"], ".0%"),
    ("perplexity", lambda r: r["perplexity_per_position"], ",.1f"),
    ("symbols used, greedy", lambda r: r.get("usage_per_position_greedy"), ".0%"),
    ("perplexity, greedy", lambda r: r.get("perplexity_per_position_greedy"), ",.1f"),
)


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A header and a line per method: means over seeds, ± half their range.

    Columns without any figure are left out, and that of the device where all rows are of one.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    shown = [column for column in COLUMNS if any(column[1](row) is not None for row in rows)]
    several = len({row["device"] for row in rows}) > 1
    lines = [["method", "seeds", *["device"] * several, *(name for name, _, _ in shown)]]
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        devices = [", ".join(sorted({row["device"] for row in mine}))] * several
        cells = [_mean([value(row) for row in mine], form) for _, value, form in shown]
        lines.append([method, str(len(mine)), *devices, *cells])
    return lines


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for a README."""
    header, *lines = table(rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def _mean(values: list[Any], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return report.DASH
    spread = (max(known) - min(known)) / 2
    return f"{fmean(known):{form}}" + (f" ± {spread:{form}}" if len(known) > 1 and spread else "")
