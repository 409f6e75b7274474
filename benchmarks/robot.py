"""The robot's tables in docs/robot.md, from docs/results/robot.json.

    python benchmarks/robot.py           # prints the tables
    python benchmarks/robot.py --sheet   # draws docs/pictures/robot.png from the films in docs/videos

Rows come from `daps robot eval CLIPS --kit KIT --model g1.xml --out docs/results/robot.json`, one call a kit.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daps.robot.trial import share_interval

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results" / "robot.json"
TOKENIZER = (("psnr", "PSNR, dB", ".2f"), ("joint_rms", "joints, rad", ".3f"), ("mpjpe", "MPJPE, mm", ".1f"),
             ("root_position", "root, m", ".3f"), ("root_velocity", "root velocity, m/s", ".3f"))  # fmt: skip
TRACKER = (("success", "success", ".0%"), ("seconds", "s", ".1f"), ("mpjpe", "MPJPE, mm", ".0f"),
           ("mpjpe_global", "global, mm", ".0f"), ("joint_error", "joints, rad", ".3f"),
           ("com_velocity_error", "COM velocity, m/s", ".2f"), ("power", "power, W", ".0f"))  # fmt: skip
LOCOMUJOCO = (("mimic_reward", "MimicReward a step, of 1.6", ".2f"), ("kept", "steps kept", ".0%"))
LOOP = (("velocity_error", "velocity off, m/s", ".2f"), ("turn_error", "yaw rate off, rad/s", ".2f"),
        ("falls_per_minute", "falls a minute", ".2f"),
        ("recognised_as_dance", "recognised as dance", ".0%"))  # fmt: skip
REST = {"recognised_as_dance": ("real windows recognised as dance", "{:.0%}"),
        "accuracy": ("real windows recognised rightly", "{:.0%}"),
        "milliseconds": ("a plan and its decoding, one robot, one core", "{:.0f} ms")}  # fmt: skip


def grid(rows: Sequence[dict[str, Any]], stage: str, columns: Sequence[tuple[str, str, str]], first: str) -> str:
    """A line per tokenizer and set of clips, a column per figure."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["stage"] == stage:
            line = lines.setdefault((row["tokenizer"], row["clips"]), {"n": 0})
            line |= {"n": max(line["n"], row["n"]), row["metric"]: row["value"]}
    shown = [f"| codes | {first} | n | " + " | ".join(label for _, label, _ in columns) + " |",
             "|---|---|---:|" + "---:|" * len(columns)]  # fmt: skip
    for (tokenizer, clips), figures in lines.items():
        values = [format(figures[name], form) if figures.get(name) is not None else "" for name, _, form in columns]
        if figures.get("success") is not None:
            values[0] += " ({:.0f}-{:.0f})".format(
                *(100 * end for end in share_interval(figures["success"], figures["n"]))
            )
        shown.append(f"| {tokenizer} | {clips} | {figures['n']} | " + " | ".join(values) + " |")
    return "\n".join(shown)


def rest(rows: Sequence[dict[str, Any]]) -> str:
    """A line per figure of the recogniser and the planner."""
    shown = ["| codes | of | figure | value | n |", "|---|---|---|---:|---:|"]
    for row in rows:
        if row["stage"] in ("recogniser", "planner"):
            label, form = REST[row["metric"]]
            shown.append(
                f"| {row['tokenizer']} | {row['clips']} | {label} | {form.format(row['value'])} | {row['n']} |"
            )
    return "\n".join(shown)


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: tokenizers, trackers, closed loop, recogniser and planner, LocoMujoco."""
    stages = {"tokenizer": (TOKENIZER, "windows of"), "tracker": (TRACKER, "follows"),
              "closed loop": (LOOP, "told to"), "LocoMujoco": (LOCOMUJOCO, "follows")}  # fmt: skip
    tokenizer, tracker, loop, loco = (grid(rows, stage, *columns) for stage, columns in stages.items())
    return [tokenizer, tracker, loop, rest(rows), loco]


def sheet(films: Sequence[Path], path: Path, count: int = 6) -> None:
    """Pictures of films, a row each, evenly spaced in time."""
    import imageio.v2 as imageio
    import numpy as np
    from PIL import Image

    rows = []
    for film in films:
        pictures = list(imageio.get_reader(film).iter_data())
        chosen = np.linspace(0.15 * len(pictures), len(pictures) - 1, count).astype(int)
        rows.append(np.concatenate([pictures[i][30:330, 170:470] for i in chosen], 1))
    Image.fromarray(np.concatenate(rows)).resize((200 * count, 200 * len(rows))).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", action="store_true")
    if parser.parse_args().sheet:
        sheet([DOCS / "videos" / f"{name}.mp4" for name in ("walk", "run", "dance")], DOCS / "pictures" / "robot.png")
    else:
        print("\n\n".join(tables(json.loads(RESULTS.read_text()))))
