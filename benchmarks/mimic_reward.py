"""LocoMujoco's MimicReward of the tracker that comes with the package, into docs/results/robot.json.

    python benchmarks/mimic_reward.py CLIPS

CLIPS is LAFAN1 retargeted to the G1, as of `daps train lafan1`. Ten seconds of every clip that the tracker was trained
on, from its tenth second on, and three pieces of every held-out clip of the same kinds. Needs LocoMujoco 1.0.1, in an
environment of its own (docs/robot.md).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from daps.motion import FPS
from daps.robot.assessment import Row
from daps.robot.eval_command import keep_rows
from daps.robot.kit import SHIPPED, TRACKER, load_tracker
from daps.robot.labels import kind_of
from daps.robot.locomujoco import Imitation, LocoPolicy, imitate, imitation_env
from daps.robot.material import read_clips
from daps.robot.reference import References
from daps.robot.using_commands import unseen

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "robot.json"
LENGTH = 10  # s


def pieces(folder: Path, names: Sequence[str], starts: Sequence[int]) -> dict[str, torch.Tensor]:
    """Ten seconds of clips, from these seconds on."""
    clips, frames = read_clips(folder, names), round(LENGTH * FPS)
    first = {at: round(at * FPS) for at in starts}
    cut = {f"{name} {at}": poses[first[at] : first[at] + frames] for name, poses in clips.items() for at in starts}
    return {name: poses for name, poses in cut.items() if len(poses) == frames}


def main() -> None:
    """Measures and keeps a row per figure, of all pieces and kind by kind."""
    folder = Path(sys.argv[1])
    tracker, settings = load_tracker(SHIPPED / TRACKER)
    sets = {"training clips": pieces(folder, settings["clips"], [10]),
            "held-out clips": pieces(folder, unseen(folder, settings["clips"]), [10, 40, 70])}  # fmt: skip
    rows: list[Row] = []
    for title, clips in sets.items():
        env = imitation_env(clips)
        trials = imitate(env, LocoPolicy(tracker, References.of(clips), env.model), LENGTH * 50)
        groups: dict[str, list[Imitation]] = {title: trials}
        for name, trial in zip(clips, trials, strict=True):
            groups.setdefault(f"{title}: {kind_of(name)}", []).append(trial)
        for name, group in sorted(groups.items()):
            print(name, *(f"{fmean(values):.3f}" for values in ([t.reward for t in group], [t.kept for t in group])))
            rows.append(Row("LocoMujoco", name, "mimic_reward", fmean(t.reward for t in group), len(group), 0))
            rows.append(Row("LocoMujoco", name, "kept", fmean(t.kept for t in group), len(group), 0))
    keep_rows(RESULTS, "daps", rows, f"python benchmarks/{Path(__file__).name}")


if __name__ == "__main__":
    main()
