"""LocoMujoco's MimicReward of the tracker that comes with the package, into docs/results/robot.json.

    python benchmarks/mimic_reward.py CLIPS

CLIPS is LAFAN1 retargeted to the G1, as of `daps train lafan1`. Ten seconds of every clip that the tracker was trained
on, from its tenth second on, and three pieces of every held-out clip of the same kinds: with servos as the tracker's,
with targets cut at the joints' ranges as LocoMujoco's own PDControl has it, and, for comparison, holding the first pose
with the former. Needs LocoMujoco 1.0.1, in an environment of its own (docs/robot.md).
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import mujoco
import torch

from daps.motion import FPS, G1_JOINTS
from daps.robot.assessment import Row
from daps.robot.eval_command import keep_rows
from daps.robot.kit import SHIPPED, TRACKER, load_tracker
from daps.robot.labels import kind_of
from daps.robot.locomujoco import Imitation, LocoPolicy, imitate, imitation_env
from daps.robot.reference import References
from daps.robot.simulation import RATE
from daps.robot.tracker import Tracker
from daps.robot.using_commands import clip_sets

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "robot.json"
LENGTH = 10  # s


def pieces(clips: Mapping[str, torch.Tensor], starts: Sequence[int]) -> dict[str, torch.Tensor]:
    """Ten seconds of clips, from these seconds on."""
    frames = round(LENGTH * FPS)
    first = {at: round(at * FPS) for at in starts}
    cut = {f"{name} {at}": poses[first[at] : first[at] + frames] for name, poses in clips.items() for at in starts}
    return {name: poses for name, poses in cut.items() if len(poses) == frames}


def still(clips: Mapping[str, torch.Tensor], model: mujoco.MjModel) -> LocoPolicy:
    """Asks for the first pose of a clip all the time: a tracker that adds nothing to its goals."""
    tracker = Tracker(len(G1_JOINTS))
    for parameter in tracker.net[-1].parameters():
        torch.nn.init.zeros_(parameter)
    return LocoPolicy(
        tracker, References.of({name: poses[:1].expand_as(poses) for name, poses in clips.items()}), model
    )


def figures(title: str, names: Iterable[str], trials: Sequence[Imitation]) -> list[Row]:
    """Of all pieces and kind by kind."""
    groups: dict[str, list[Imitation]] = {title: list(trials)}
    for name, trial in zip(names, trials, strict=True):
        groups.setdefault(f"{title}: {kind_of(name)}", []).append(trial)
    rows = []
    for name, group in sorted(groups.items()):
        reward, kept = fmean(trial.reward for trial in group), fmean(trial.kept for trial in group)
        print(f"{name}: {reward:.3f} {kept:.3f}", flush=True)
        rows.append(Row("LocoMujoco", name, "mimic_reward", reward, len(group), 0))
        rows.append(Row("LocoMujoco", name, "kept", kept, len(group), 0))
    return rows


def main() -> None:
    """Measures and keeps a row per figure."""
    folder = Path(sys.argv[1])
    tracker, settings = load_tracker(SHIPPED / TRACKER)
    starts = {"training clips": [10], "held-out clips": [10, 40, 70]}
    sets = {title: pieces(clips, starts[title]) for title, clips in clip_sets(folder, settings["clips"]).items()}
    rows: list[Row] = []
    for title, clips in sets.items():
        for limited, what in ((False, ""), (True, ", targets within ranges")):
            env = imitation_env(clips, limited=limited)
            policy = LocoPolicy(tracker, References.of(clips), env.model)
            rows += figures(title + what, clips, imitate(env, policy, LENGTH * RATE))
            if not limited:
                idle = imitate(env, still(clips, env.model), LENGTH * RATE)
                rows += figures(f"{title}, first pose held", clips, idle)[:2]
    keep_rows(RESULTS, "daps", rows, f"python benchmarks/{Path(__file__).name}")


if __name__ == "__main__":
    main()
