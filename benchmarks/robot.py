"""The robot's tables in docs/robot.md, from docs/results/robot.json.

    python benchmarks/robot.py

Rows come from `daps robot eval CLIPS --kit KIT --model g1.xml --out docs/results/robot.json`, one call a kit.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "robot.json"
TOKENIZER = (("joint_rms", "joints, rad", ".3f"), ("mpjpe", "MPJPE, mm", ".1f"), ("root_position", "root, m", ".3f"),
             ("root_velocity", "root velocity, m/s", ".3f"))  # fmt: skip
TRACKER = (("success", "success", ".0%"), ("seconds", "s", ".1f"), ("mpjpe", "MPJPE, mm", ".0f"),
           ("mpjpe_global", "global, mm", ".0f"), ("joint_error", "joints, rad", ".3f"),
           ("com_velocity_error", "COM velocity, m/s", ".2f"), ("power", "power, W", ".0f"))  # fmt: skip
LOOP = {"velocity_error": ("mean |v - v_cmd|", "{:.2f} m/s"), "falls_per_minute": ("falls a minute", "{:.2f}"),
        "recognised_as_dance": ("windows recognised as dance", "{:.0%}"),
        "accuracy": ("accuracy on real windows", "{:.0%}"),
        "milliseconds": ("plan and decoding, one robot, one core", "{:.0f} ms")}  # fmt: skip


def grid(rows: Sequence[dict[str, Any]], stage: str, columns: Sequence[tuple[str, str, str]], first: str) -> str:
    """A line per tokenizer and set of clips, a column per figure."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["stage"] == stage:
            lines.setdefault((row["tokenizer"], row["clips"]), {"n": row["n"]})[row["metric"]] = row["value"]
    shown = [f"| codes | {first} | n | " + " | ".join(label for _, label, _ in columns) + " |",
             "|---|---|---:|" + "---:|" * len(columns)]  # fmt: skip
    for (tokenizer, clips), figures in lines.items():
        values = [format(figures[name], form) if figures.get(name) is not None else "" for name, _, form in columns]
        shown.append(f"| {tokenizer} | {clips} | {figures['n']} | " + " | ".join(values) + " |")
    return "\n".join(shown)


def orders(rows: Sequence[dict[str, Any]]) -> str:
    """A line per figure of the closed loop."""
    shown = ["| codes | of | figure | value | n |", "|---|---|---|---:|---:|"]
    for row in rows:
        if row["stage"] in ("closed loop", "recogniser", "planner") and row["value"] is not None:
            label, form = LOOP[row["metric"]]
            value = form.format(row["value"])
            shown.append(f"| {row['tokenizer']} | {row['clips']} | {label} | {value} | {row['n']} |")
    return "\n".join(shown)


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: tokenizers, trackers, closed loop."""
    return [grid(rows, "tokenizer", TOKENIZER, "windows of"), grid(rows, "tracker", TRACKER, "follows"), orders(rows)]


if __name__ == "__main__":
    print("\n\n".join(tables(json.loads(RESULTS.read_text()))))
