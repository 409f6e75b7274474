"""A learned model of the robot's dynamics, to look ahead with gradients: SuperTrack's (Fussell et al., 2021).

What the robot feels does not change when it starts elsewhere or faces another way, so the model sees the state in its
own body's frame and predicts, also there, how all velocities change in a control step; poses follow by integration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from daps import rotation
from daps.mirror import mirrored_poses, mirrored_velocities
from daps.motion import ROOT
from daps.nn.linear import linear
from daps.robot.reference import advance, difference
from daps.robot.simulation import RATE


@dataclass(frozen=True)
class State:
    """Robots: poses [*N, P] and velocities [*N, V] as MuJoCo has them."""

    pose: Tensor
    velocity: Tensor

    def felt(self) -> Float[Tensor, "*N S"]:
        """Height, the vertical and all velocities in the body's frame, and the joints' angles: 1 + 3 + V + P - 7."""
        q = self.pose[..., 3:ROOT]
        own = rotation.rotate(rotation.conjugate(q), self.velocity[..., :3])
        return torch.cat((self.pose[..., 2:3], rotation.up(q), own, self.velocity[..., 3:], self.pose[..., ROOT:]), -1)

    def moved(self, change: Float[Tensor, "*N V"]) -> "State":
        """A control step later, with velocities changed as the body sees them: first velocities, then poses."""
        turned = rotation.rotate(self.pose[..., 3:ROOT], change[..., :3])
        velocity = self.velocity + torch.cat((turned, change[..., 3:]), -1)
        return State(advance(self.pose, velocity, 1 / RATE), velocity)

    def change_to(self, later: "State") -> Float[Tensor, "*N V"]:
        """The change of velocity, as the body sees it at first."""
        difference = later.velocity - self.velocity
        own = rotation.rotate(rotation.conjugate(self.pose[..., 3:ROOT]), difference[..., :3])
        return torch.cat((own, difference[..., 3:]), -1)

    def mirrored(self, which: Bool[Tensor, "*#N"]) -> "State":
        """Those of `which` as a mirror shows them."""
        here = which.unsqueeze(-1)
        return State(
            torch.where(here, mirrored_poses(self.pose), self.pose),
            torch.where(here, mirrored_velocities(self.velocity), self.velocity),
        )

    def __getitem__(self, index: Any) -> "State":
        """Those of an index over the leading axes."""
        return State(self.pose[index], self.velocity[index])

    @staticmethod
    def stack(states: "Sequence[State]", axis: int) -> "State":
        """One more leading axis."""
        return State(torch.stack([s.pose for s in states], axis), torch.stack([s.velocity for s in states], axis))


def perceptron(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Linear layers with ELU between, whose last one starts near zero."""
    sizes = (inputs, *hidden)
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [linear(before, after), nn.ELU()]
    last = linear(sizes[-1], outputs)
    with torch.no_grad():
        last.weight.mul_(0.1)
    return nn.Sequential(*layers, last)


class Normaliser(nn.Module):
    """(x - mean) / deviation per number, set from data; the identity until then."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def fit(self, x: Float[Tensor, "N S"], least: float = 1e-3) -> None:
        """Takes mean and deviation over rows; what varies by less than `least` is not scaled up."""
        self.mean.copy_(x.mean(0))
        self.deviation.copy_(x.std(0).clamp_min(least))

    def forward(self, x: Float[Tensor, "*N S"]) -> Float[Tensor, "*N S"]:
        """Normalised, within ten deviations."""
        return ((x - self.mean) / self.deviation).clamp(-10, 10)


class World(nn.Module):
    """State and target angles -> the state a control step later.

    Args:
        joints: J.
        hidden: widths of the perceptron.
    """

    def __init__(self, joints: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs = Normaliser(4 + 6 + joints + joints + joints)  # felt, and targets relative to the angles
        self.outputs = Normaliser(6 + joints)
        self.net = perceptron(len(self.inputs.mean), hidden, 6 + joints)

    def fit_scales(self, before: State, targets: Float[Tensor, "N J"], after: State) -> None:
        """Sets the units of inputs and outputs from observed steps."""
        self.inputs.fit(_inputs(before, targets))
        self.outputs.fit(before.change_to(after))

    def forward(self, state: State, targets: Float[Tensor, "*N J"]) -> State:
        """The predicted state."""
        change = self.net(self.inputs(_inputs(state, targets))) * self.outputs.deviation + self.outputs.mean
        return state.moved(change)


def _inputs(state: State, targets: Tensor) -> Tensor:
    return torch.cat((state.felt(), targets - state.pose[..., ROOT:]), -1)


def prediction_loss(world: World, states: State, targets: Float[Tensor, "N S J"]) -> Float[Tensor, ""]:
    """Mean absolute error of states foretold over S steps, in units of a step's typical change.

    Args:
        world: the model.
        states: observed, [N, S + 1]: before the first step, and after every one.
        targets: that were given.
    """
    here, loss = states[:, 0], targets.new_zeros(())
    unit = world.outputs.deviation
    for step in range(targets.shape[1]):
        here, seen = world(here, targets[:, step]), states[:, step + 1]
        loss = loss + (seen.change_to(here) / unit).abs().mean()
        loss = loss + (difference(seen.pose, here.pose) * RATE / unit).abs().mean() / (step + 1)
    return loss / targets.shape[1]
