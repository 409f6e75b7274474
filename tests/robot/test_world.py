"""States and their changes against MuJoCo's and each other; the world model learns what it is shown."""

import pytest
import torch

from daps.robot.world import Normaliser, State, World, perceptron, prediction_loss
from robot.states import JOINTS, random_state, turned


def test_what_is_felt_does_not_depend_on_place_and_heading() -> None:
    here = random_state(5)
    there = turned(here, 1.3, torch.tensor([3.0, -2.0, 0.0], dtype=torch.float64))
    assert here.felt().shape == (5, 4 + 6 + 2 * JOINTS)
    torch.testing.assert_close(there.felt(), here.felt())
    moved = random_state(5, seed=1)
    torch.testing.assert_close(
        turned(here, 1.3, torch.zeros(3).double()).change_to(turned(moved, 1.3, torch.zeros(3).double())),
        here.change_to(moved),
    )


def test_a_change_leads_to_the_velocity_that_it_was_taken_from() -> None:
    here, there = random_state(5), random_state(5, seed=1)
    after = here.moved(here.change_to(there))
    torch.testing.assert_close(after.velocity, there.velocity)
    step = after.pose[..., :3] - here.pose[..., :3]
    torch.testing.assert_close(step, there.velocity[..., :3] / 50)
    torch.testing.assert_close(after.pose[..., 7:], here.pose[..., 7:] + there.velocity[..., 6:] / 50)


def test_normalised_numbers_have_mean_zero_and_deviation_one() -> None:
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1e-5]) + 7
    norm = Normaliser(2)
    assert torch.equal(norm(x[:, :1].expand(-1, 2)), x[:, :1].expand(-1, 2).clamp(-10, 10))
    norm.fit(x)
    assert abs(norm(x)[:, 0].mean()) < 1e-5 and norm(x)[:, 0].std() == pytest.approx(1, abs=1e-4)
    assert norm(x)[:, 1].std() < 0.05 and norm(x + 1e6).max() == 10


def test_the_world_model_learns_a_world_of_its_own_kind() -> None:
    """Joints that are pulled to their targets: after fitting, eight steps are foretold a tenth as badly."""
    torch.manual_seed(0)
    first = random_state(256)
    first = State(first.pose, 0.1 * first.velocity)
    targets = torch.randn(256, 8, JOINTS, dtype=torch.float64)
    seen = [first]
    for step in range(8):
        pull = 0.5 * (targets[:, step] - seen[-1].pose[..., 7:]) - 0.2 * seen[-1].velocity[..., 6:]
        seen.append(seen[-1].moved(torch.cat((torch.zeros(256, 6).double(), pull), -1)))
    states = State.stack(seen, 1)
    world = World(JOINTS, (64,)).double()
    world.fit_scales(states[:, 0], targets[:, 0], states[:, 1])
    optimizer = torch.optim.Adam(world.net.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = prediction_loss(world, states, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0], (losses[0], losses[-1])


def test_networks_begin_almost_silent() -> None:
    torch.manual_seed(0)
    assert perceptron(8, (32, 32), 4)(torch.randn(100, 8)).std() < 0.1
