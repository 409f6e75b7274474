"""Figures as tables for the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from daps.features import FIGURES
from daps.motion_metrics import UNITS


def print_evaluation(figures: dict[str, Any]) -> None:
    """The figures of `evaluate` as two tables: likelihoods, and the two ways to encode side by side."""
    console = Console()
    console.print(
        f"{figures['preset']} by {figures['method']}, step {figures['step']}: {figures['split']} split, "
        f"n = {figures['n']:,}, {figures['importance_samples']} samples of q each, seed {figures['seed']}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_likelihoods(figures))
    console.print(_qualities(figures))
    if "motion" in figures:
        console.print(_motion(figures["motion"]))
    if "features" in figures:
        console.print(_features(figures))


def print_lines(lines: list[list[str]]) -> None:
    """A table whose first line is its header, turned on its side: a column per line, as terminals are narrow."""
    print_rows([list(column) for column in zip(*lines, strict=True)])


def print_rows(rows: list[list[str]]) -> None:
    """A table whose first row is its header."""
    header, *rest = rows
    table = Table(header[0])
    for name in header[1:]:
        table.add_column(name, justify="right")
    for row in rest:
        table.add_row(*row)
    Console().print(table)


def _likelihoods(figures: dict[str, Any]) -> Table:
    table = Table("per datum", title="likelihood and rate", title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("unit")
    rows = [
        ("log p(x|z)", "log_p", "nats"),
        ("ELBO (beta = 1)", "elbo", "nats"),
        (f"beta-ELBO (beta = {figures['beta']:g})", "beta_elbo", "nats"),
        (f"importance-weighted log p(x), S = {figures['importance_samples']}", "iw_log_likelihood", "nats"),
        ("the same as code length, at most", "bits_per_dim", "bits per value"),
        ("KL(q || uniform)", "kl", "nats"),
        ("entropy of q(z|x)", "entropy_bits", "bits"),
        ("information I(x; z), at most", "information_bits", "bits"),
        ("nominal size of the codes", "nominal_bits", "bits"),
    ]
    for label, key, unit in rows:
        table.add_row(label, f"{figures[key]:,.2f}", unit)
    return table


def _qualities(figures: dict[str, Any]) -> Table:
    table = Table("reconstruction and codes", title="one encoding per datum", title_justify="left")
    for mode in ("stochastic", "greedy"):
        table.add_column(mode, justify="right")
    window = figures["ssim_window"]
    rows = [
        ("log p(x|z), nats", "log_p", ",.2f"),
        ("PSNR, mean over data, dB", "psnr", ".2f"),
        ("PSNR of the pooled error, dB", "psnr_pooled", ".2f"),
        (f"SSIM, {window} x {window} window", "ssim", ".4f"),
        ("symbols used, pooled", "usage_pooled", ".1%"),
        (f"perplexity pooled, of {figures['vocab_size']}", "perplexity_pooled", ".1f"),
        (f"marginal entropy of the codes, of {figures['nominal_bits']:.0f} bits", "code_bits", ".1f"),
    ]
    for label, key, form in rows:
        values = [figures[mode][key] for mode in ("stochastic", "greedy")]
        if None not in values:
            table.add_row(label, *(f"{value:{form}}" for value in values))
    for label, key, form in (("symbols used", "usage", ".0%"), ("perplexity", "perplexity", ".1f")):
        for mode_rows in _per_position(figures, label, f"{key}_per_position", form):
            table.add_row(*mode_rows)
    return table


def _motion(figures: dict[str, Any]) -> Table:
    table = Table("errors of the motion", title="means over windows", title_justify="left")
    for mode in figures:
        table.add_column(mode, justify="right")
    table.add_column("unit")
    for name, (label, unit) in UNITS.items():
        values = [errors[name] for errors in figures.values() if name in errors]
        if values:
            table.add_row(label, *(f"{value:.4g}" for value in values), unit)
    return table


def _features(figures: dict[str, Any]) -> Table:
    shape = " x ".join(map(str, figures["protocol"]["shape"]))
    title = f"features of networks, {shape}, n = {figures['n']:,}"
    table = Table("reconstructions against originals", title=title, title_justify="left")
    for mode in figures["features"]:
        table.add_column(mode, justify="right")
    for name, (label, form) in FIGURES.items():
        values = [found[name] for found in figures["features"].values() if name in found]
        if values:
            table.add_row(label, *(f"{value:{form}}" for value in values))
    return table


def _per_position(figures: dict[str, Any], label: str, key: str, form: str) -> list[tuple[str, ...]]:
    """Least, mean and largest over positions: 64 tokens would not fit a terminal; evaluation.json has them all."""
    rows = []
    for name, pick in (("least", min), ("mean", lambda v: sum(v) / len(v)), ("largest", max)):
        values = [pick(figures[mode][key]) for mode in ("stochastic", "greedy")]
        rows.append((f"{label} per position, {name}", *(f"{value:{form}}" for value in values)))
    return rows
