"""The low-level policy: what the robot feels and the motion to follow -> target angles of its joints."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps import rotation
from daps.mirror import mirrored_joints
from daps.motion import ROOT
from daps.robot.reference import Plan, References
from daps.robot.world import Normaliser, State, perceptron


@dataclass(frozen=True)
class TrackerConfig:
    """Sizes of the policy."""

    hidden: tuple[int, ...] = (512, 512)
    """Widths of the perceptron."""
    lookahead: tuple[int, ...] = (1, 4, 8, 16)
    """Frames of the reference that the policy sees, in control steps from now."""
    residual: float = 0.3
    """What an output of 1 adds to the angles of the reference, rad."""
    symmetric: bool = True
    """Whether, once trained, it takes the mean of what it would do and of what it would do in a mirror, mirrored."""

    def __post_init__(self) -> None:
        if not self.lookahead or min(self.lookahead) < 1:
            raise ValueError(f"tracker.lookahead: wants control steps >= 1, got {self.lookahead}; (1, 4, 8) will do")


def goal_features(state: State, goal: State) -> Float[Tensor, "*N G"]:
    """A frame of the reference as the robot sees it: where it is, how turned and how fast relative to the robot.

    Everything is in the heading frame of the robot, so it does not change with place and heading: the way to the
    goal's root, the goal's rotation (two columns of its matrix), its velocities, its joints' angles less the robot's.
    """
    facing = rotation.about_z(-rotation.heading(state.pose[..., 3:ROOT]))
    way = rotation.rotate(facing, goal.pose[..., :3] - state.pose[..., :3])
    turn = rotation.multiply(facing, goal.pose[..., 3:ROOT])
    columns = [rotation.rotate(turn, turn.new_tensor(axis)) for axis in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))]
    speed = rotation.rotate(facing, goal.velocity[..., :3])
    joints = goal.pose[..., ROOT:] - state.pose[..., ROOT:]
    return torch.cat((way, *columns, speed, goal.velocity[..., 3:], joints), -1)


class Tracker(nn.Module):
    """Targets = the angles of the reference a step from now, and what the policy adds.

    Args:
        joints: J.
        config: sizes.
    """

    def __init__(self, joints: int, config: TrackerConfig | None = None) -> None:
        super().__init__()
        self.config = TrackerConfig() if config is None else config
        felt, goal = 4 + 6 + 2 * joints, 3 + 6 + 6 + 2 * joints
        self.inputs = Normaliser(felt + goal * len(self.config.lookahead))
        self.net = perceptron(len(self.inputs.mean), self.config.hidden, joints)

    def observe(self, state: State, goals: State) -> Float[Tensor, "*N O"]:
        """What the policy sees: states [*N], goals [*N, L], one for each step of `lookahead`."""
        steps = [goal_features(state, goals[..., i, :]) for i in range(len(self.config.lookahead))]
        return torch.cat((state.felt(), *steps), -1)

    def forward(self, state: State, goals: State) -> Float[Tensor, "*N J"]:
        """Target angles, rad; in evaluation mode those of a symmetric policy."""
        targets = self._targets(state, goals)
        if self.training or not self.config.symmetric:
            return targets
        every = [torch.ones(part.pose.shape[:-1], dtype=torch.bool) for part in (state, goals)]
        return (targets + mirrored_joints(self._targets(state.mirrored(every[0]), goals.mirrored(every[1])))) / 2

    def _targets(self, state: State, goals: State) -> Float[Tensor, "*N J"]:
        residual = self.config.residual * self.net(self.inputs(self.observe(state, goals)))
        return goals.pose[..., 0, ROOT:] + residual

    def act(self, state: State, plan: Plan, step: int) -> Float[Tensor, "N J"]:
        """Target angles of robots `step` control steps into their plans, rad."""
        clips = torch.arange(len(plan.codes))
        return self(state, self.goals(plan.references, clips, torch.full_like(clips, step)))

    def goals(self, references: References, clip: Int[Tensor, "*N"], frame: Int[Tensor, "*N"]) -> State:
        """The frames of clips to look at from a frame, [*N, L]."""
        ahead = frame[..., None] + torch.tensor(self.config.lookahead)
        rows = references.rows(clip[..., None].expand_as(ahead), ahead)
        return State(references.poses[rows], references.velocities[rows])


def tracking_cost(state: State, goal: State, targets: Float[Tensor, "*N J"]) -> Float[Tensor, "*N"]:
    """How far a robot is from its reference, about 1 when it has lost it; a price on large corrections.

    Root within a few centimetres, joints and rotations within a tenth of a radian and their velocities weigh alike.
    """
    turn = rotation.multiply(rotation.conjugate(state.pose[..., 3:ROOT]), goal.pose[..., 3:ROOT])
    place = smooth_norm(state.pose[..., :3] - goal.pose[..., :3])
    speed = (state.velocity[..., :3] - goal.velocity[..., :3]).abs().mean(-1)
    spin = (state.velocity[..., 3:6] - goal.velocity[..., 3:6]).abs().mean(-1)
    joints = (state.pose[..., ROOT:] - goal.pose[..., ROOT:]).abs().mean(-1)
    joint_speed = (state.velocity[..., 6:] - goal.velocity[..., 6:]).abs().mean(-1)
    effort = (targets - goal.pose[..., ROOT:]).square().mean(-1)
    return (
        2.0 * place
        + 1.0 * smooth_norm(rotation.to_vector(turn))
        + 0.2 * speed
        + 0.05 * spin
        + 2.0 * joints
        + 0.05 * joint_speed
        + 0.2 * effort
    )


def smooth_norm(v: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N"]:
    """|v| rounded off below a centimetre or a hundredth of a radian."""
    return (v.square().sum(-1) + 1e-4).sqrt() - 1e-2
