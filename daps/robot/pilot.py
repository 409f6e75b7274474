"""The high-level policy in use: a sentence, a velocity and what was last done -> the next window of motion."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from daps import rotation
from daps.methods.base import Autoencoder
from daps.motion import ROOT, feature_poses, next_start, pose_features, pose_start
from daps.robot.labels import Command
from daps.robot.planner import Conditions, Planner
from daps.robot.stream import stitched

WITH_VELOCITY, SENTENCE_ALONE = 1.5, 2.5  # guidance


@dataclass(frozen=True)
class Orders:
    """What N robots are told; either may be missing."""

    text: Float[Tensor, "N 384"] | None
    """Vectors of sentences (daps.robot.text)."""
    commands: tuple[Command, ...] | None
    """Velocities, one a robot."""


@dataclass(frozen=True)
class Pilot:
    """A planner with the tokenizer that its codes are of, and how plans are drawn."""

    planner: Planner
    tokenizer: Autoencoder
    guidance: float | None = None
    """How closely plans follow sentence and velocity; 1 draws from the policy itself. None: 1.5 where a velocity is
    asked for, 2.5 where a sentence stands alone."""
    temperature: float = 0.8
    """1 draws plans as the policy has them, 0 takes the likeliest symbols."""

    @torch.no_grad()
    def plan(
        self, past: Float[Tensor, "N B P"], orders: Orders, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "N F P"], Int[Tensor, "N T"]]:
        """The poses of the next windows, which go on where the past ends, and their codes.

        Args:
            past: the last poses, as many as the planner sees, 30 a second.
            orders: what is to be done.
            generator: of the draws; the global one if None.
        """
        before = pose_features(past)
        conditions = Conditions.of(before.float(), orders.text, orders.commands)
        codes = self.planner.plan(conditions, self._guidance(orders), self.temperature, generator)
        window = self.tokenizer.decode(codes.to(self.tokenizer.device)).mean.cpu().to(past.dtype)
        features = stitched(before, window)
        return feature_poses(features, next_start(before, pose_start(past[:, 0]))), codes

    def _guidance(self, orders: Orders) -> float:
        """A velocity overdone is another velocity, and hard to keep up with; a dance only dances more."""
        if self.guidance is not None:
            return self.guidance
        return SENTENCE_ALONE if orders.commands is None else WITH_VELOCITY

    def rest(self, count: int) -> Float[Tensor, "N B P"]:
        """The past of robots that stand at the origin, facing along x."""
        return feature_poses(self.planner.rest.double()).expand(count, -1, -1)


def anchored(
    past: Float[Tensor, "N B P"], robot: Float[Tensor, "N P"], leash: float, turn: float
) -> Float[Tensor, "N B P"]:
    """Past poses moved over the floor so that the last is no further from the robot than a leash.

    A plan made from there goes on where the robot is, though it was pushed or fell behind.

    Args:
        past: of the reference.
        robot: poses now, at the time of the last of these.
        leash: longest distance in the plane, m; 0 puts the reference where the robot is.
        turn: largest difference of headings, rad.
    """
    here, last = pose_start(robot), pose_start(past[:, -1])
    away = last[:, :2] - here[:, :2]
    distance = away.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    place = here[:, :2] + away * (leash / distance).clamp_max(1.0)
    angle = rotation.wrapped(last[:, 2] - here[:, 2])
    turned = angle.clamp(-turn, turn) - angle
    spin = rotation.about_z(turned).unsqueeze(1)
    way = rotation.rotate_z(turned.unsqueeze(1).expand(past.shape[:2]), past[..., :2] - last[:, None, :2])
    quaternion = rotation.multiply(spin, past[..., 3:ROOT])
    return torch.cat((place.unsqueeze(1) + way, past[..., 2:3], quaternion, past[..., ROOT:]), -1)


def towards(pose: Float[Tensor, " P"], point: tuple[float, float], speed: float, patience: float = 1.0) -> Command:
    """The velocity that leads to a way-point: straight ahead at a speed, turning to face it within `patience` seconds.

    Args:
        pose: of the robot.
        point: x and y in the world, m.
        speed: m/s; less within half a second's way of the point, so that it is not overrun.
        patience: s.
    """
    start = pose_start(pose)
    way = rotation.rotate_z(-start[2], pose.new_tensor(point) - start[:2])
    distance, angle = float(way.norm()), float(torch.atan2(way[1], way[0]))
    pace = min(speed, distance / 0.5) * max(torch.cos(torch.tensor(angle)).item(), 0.0)
    return Command(pace, 0.0, max(-1.5, min(1.5, angle / patience)) if distance > 0.2 else 0.0)


def rising(command: Command, moment: float, seconds: float) -> Command:
    """What to tell a robot that stood a moment ago, s: a third of its command first, all of it after some seconds."""
    share = min(1.0, (1 + 2 * moment / seconds) / 3) if seconds > 0 else 1.0
    return Command(share * command.forward, share * command.left, share * command.turn)
