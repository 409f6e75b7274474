"""The robot's commands: `daps robot play | train | plan | track | distil | trial | eval | pack | export | import`."""

from collections.abc import Callable, Sequence

from daps.robot.eval_command import run_eval
from daps.robot.locomujoco import run_export, run_import
from daps.robot.training_commands import run_distil, run_pack, run_plan, run_track, run_train
from daps.robot.using_commands import run_play, run_trial
from daps.suggest import did_you_mean

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "play": run_play,
    "train": run_train,
    "plan": run_plan,
    "track": run_track,
    "distil": run_distil,
    "eval": run_eval,
    "trial": run_trial,
    "pack": run_pack,
    "export": run_export,
    "import": run_import,
}

USAGE = """usage: daps robot COMMAND ...

  play TEXT         do what a sentence says, at a velocity or towards way-points; --video FILE.mp4
  train CLIPS       train all of it: tokenizer, planner, trackers, one after the other, or continue
  plan CLIPS        train the high-level policy alone: sentence and velocity -> codes
  track CLIPS       train the low-level policy alone: motion -> torques
  distil CLIPS      make the policy from codes to torques of the tracker
  trial RUN CLIPS   how well a low-level policy follows: success, errors, power, with pushes if asked
  eval CLIPS        all figures of a kit: codes, tracking, orders, dances, latency
  pack KIT FOLDER   copy what a kit needs, in half precision
  export CLIPS FILE.npz    clips as a trajectory of LocoMujoco
  import FILE.npz FOLDER   such a trajectory as clips

'daps robot COMMAND --help' lists the options of a command"""


def main(arguments: Sequence[str]) -> None:
    """Runs one of the robot's commands."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    command = COMMANDS.get(arguments[0])
    if command is None:
        near = did_you_mean(arguments[0], COMMANDS)
        raise ValueError(f"no command 'robot {arguments[0]}'; choose {', '.join(COMMANDS)}{near}")
    command(arguments[1:])
