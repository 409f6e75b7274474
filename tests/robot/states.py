"""Random robots of three joints, and the same ones elsewhere; the face of a tokenizer of motion."""

import torch
from torch import Tensor

from daps import rotation
from daps.methods.base import Autoencoder, Metrics
from daps.robot.world import State

JOINTS = 3


def random_state(*shape: int, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(*shape, 7 + JOINTS, generator=generator, dtype=torch.float64)
    pose[..., 3:7] /= pose[..., 3:7].norm(dim=-1, keepdim=True)
    return State(pose, torch.randn(*shape, 6 + JOINTS, generator=generator, dtype=torch.float64))


def turned(state: State, angle: float, shift: Tensor) -> State:
    """The same robot elsewhere, facing another way."""
    q = rotation.about_z(torch.tensor(angle, dtype=torch.float64))
    place = rotation.rotate(q, state.pose[..., :3]) + shift
    facing = rotation.multiply(q.expand_as(state.pose[..., 3:7]), state.pose[..., 3:7])
    speed = rotation.rotate(q, state.velocity[..., :3])
    return State(torch.cat((place, facing, state.pose[..., 7:]), -1), torch.cat((speed, state.velocity[..., 3:]), -1))


class FakeTokenizer(Autoencoder):
    """A tokenizer of windows [32, 36] without networks."""

    data_shape = (32, 36)
    device = torch.device("cpu")  # type: ignore[assignment]
    final_beta = 0.0

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, x: Tensor, step: int) -> tuple[Tensor, Metrics]:
        raise NotImplementedError


class Perfect(FakeTokenizer):
    """Codes are numbers of windows that it has seen."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.error = error

    def encode(self, x: Tensor, *_: object) -> Tensor:
        self.seen += list(x)
        return torch.arange(len(self.seen) - len(x), len(self.seen)).unsqueeze(-1)

    def decode(self, codes: Tensor) -> torch.distributions.Distribution:
        noise = torch.randn(len(codes), 1, 36, generator=torch.Generator().manual_seed(0))
        return torch.distributions.Normal(torch.stack([self.seen[int(c)] for c in codes]) + self.error * noise, 1.0)
