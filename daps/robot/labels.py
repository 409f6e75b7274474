"""What a piece of motion is called and commanded as: its kind by the clip's name, its speed and turn by measurement.

The names are LAFAN1's (walk1_subject1, dance2_subject4, ...). A caption joins what is done, how fast and where to, in
one of several wordings, so that a policy trained on them understands more than one.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from daps import rotation
from daps.motion import FPS, ROOT

KINDS = ("walk", "run", "dance", "fight", "jump", "fall", "stand")
CLIPS = {  # beginning of a clip's name -> kind
    "walk": "walk",
    "run": "run",
    "sprint": "run",
    "dance": "dance",
    "fight": "fight",
    "jump": "jump",
    "fall": "fall",
}
VERBS = {
    "walk": ("walk", "stroll", "go on foot", "step", "take a walk"),
    "run": ("run", "jog", "move at a run", "race", "go for a run"),
    "dance": ("dance", "perform a dance", "move to the music", "groove", "do a dance"),
    "fight": ("fight", "box", "throw punches", "spar", "attack and defend"),
    "jump": ("jump", "hop", "leap", "jump around", "make a jump"),
    "fall": ("fall and get up", "drop to the ground and stand up again", "get up from the floor", "collapse and rise"),
    "stand": ("stand still", "stay where you are", "stop", "wait", "do not move"),
}
MANNERS = {  # speed class -> wordings; the middle one may go without
    "slow": ("slowly", "at a slow pace", "gently", "without hurry"),
    "medium": ("", "at a normal pace", "steadily"),
    "fast": ("fast", "quickly", "at a high pace", "in a hurry"),
}
WAYS = {
    "forward": ("", "forward", "ahead", "straight on"),
    "backward": ("backward", "back", "in reverse"),
    "sideways left": ("sideways to the left", "to your left", "left with side steps"),
    "sideways right": ("sideways to the right", "to your right", "right with side steps"),
    "turn left": ("turning left", "in a left turn", "and turn left", "in a curve to the left"),
    "turn right": ("turning right", "in a right turn", "and turn right", "in a curve to the right"),
}
BOUNDS = {"walk": (0.5, 1.1), "run": (1.6, 2.8)}  # m/s between slow, medium and fast
STILL, TURNING = 0.15, 0.5  # m/s; rad/s


@dataclass(frozen=True)
class Command:
    """How a body is to move over a piece of time: planar velocity in its own heading, m/s, and yaw rate, rad/s."""

    forward: float
    left: float = 0.0
    turn: float = 0.0

    @property
    def speed(self) -> float:
        """m/s."""
        return float((self.forward**2 + self.left**2) ** 0.5)


@dataclass(frozen=True)
class Label:
    """What a piece of motion is: its kind, and for walks and runs how fast and where to."""

    kind: str
    manner: str | None = None
    way: str | None = None

    def wordings(self) -> Iterator[str]:
        """All captions that say this."""
        for verb in VERBS[self.kind]:
            for manner in MANNERS[self.manner] if self.manner else ("",):
                for way in WAYS[self.way] if self.way else ("",):
                    yield " ".join(part for part in (verb, way, manner) if part)

    def caption(self, chance: random.Random) -> str:
        """One of them."""
        return chance.choice(list(self.wordings()))


def kind_of(clip: str) -> str:
    """What is done in a clip, by the beginning of its name.

    Raises:
        ValueError: a name that says nothing.
    """
    word = re.match(r"[a-z]*", clip)
    for beginning, kind in CLIPS.items():
        if word and word[0].startswith(beginning):
            return kind
    raise ValueError(f"clip {clip!r}: want a name that begins with one of {', '.join(CLIPS)}; rename the file")


def measured(poses: Float[Tensor, "F P"], fps: float = FPS, centre: Float[Tensor, "F 3"] | None = None) -> Command:
    """The mean velocity and yaw rate of a piece of motion, seen from its first frame's heading turned half its turn.

    That is the frame of a body that turns evenly: a circle at constant speed is that speed straight ahead.

    Args:
        poses: of the piece.
        fps: frames per second.
        centre: where the centre of mass is in each, whose velocity it then is; that of the root if left out, which
            differs by 0.03 m/s over a second of walking.

    Raises:
        ValueError: fewer than two frames.
    """
    if len(poses) < 2:
        raise ValueError(f"motion: needs at least 2 frames, got {len(poses)}")
    seconds = (len(poses) - 1) / fps
    heading, place = rotation.heading(poses[:, 3:ROOT]), poses if centre is None else centre
    turn = rotation.wrapped(heading.diff()).sum()
    way = rotation.rotate_z(-(heading[0] + turn / 2), place[-1, :2] - place[0, :2]) / seconds
    half = turn / 2
    way = way / torch.sinc(half / torch.pi).clamp_min(0.1)  # the chord is shorter than the arc
    return Command(float(way[0]), float(way[1]), float(turn) / seconds)


def label(clip: str, command: Command) -> Label:
    """The name of a piece of a clip that moves as measured."""
    kind = kind_of(clip)
    if kind not in BOUNDS:
        return Label(kind)
    if command.speed < STILL and abs(command.turn) < TURNING:
        return Label("stand")
    slow, fast = BOUNDS[kind]
    manner = "slow" if command.speed < slow else "fast" if command.speed > fast else "medium"
    return Label(kind, manner, way_of(command))


def way_of(command: Command) -> str:
    """Where to: turns first, then the larger part of the velocity."""
    if abs(command.turn) >= TURNING:
        return "turn left" if command.turn > 0 else "turn right"
    if abs(command.left) > abs(command.forward):
        return "sideways left" if command.left > 0 else "sideways right"
    return "forward" if command.forward >= 0 else "backward"


def all_captions(labels: Sequence[Label]) -> list[str]:
    """Every wording of these labels once, in order."""
    return list(dict.fromkeys(text for each in labels for text in each.wordings()))
