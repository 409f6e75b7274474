"""Optimizers: who owns which parameter, with what settings, and AdamW's steps against the reference."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from daps.architecture import Architecture
from daps.methods import DAPSConfig
from daps.methods.base import Autoencoder
from daps.optim import Kind, optimizers
from daps.scaling import Affine

NETS = Architecture(num_tokens=4, vocab_size=6, width=8, heads=2, patches=(2, 2), data_shape=(1, 4, 4))
CONV = {"decoder_kind": "conv", "decoder_grid": (2, 2), "hidden": (4,)}
CPU = torch.device("cpu")


def build(eta: str = "solve", structure: str = "lattice") -> Autoencoder:
    """A small model with linear layers, convolutions, norms, structured symbols and, for one eta, a multiplier."""
    torch.manual_seed(0)
    nets = Architecture(**{**vars(NETS), **CONV, "structure": structure})
    return DAPSConfig(samples=4, ess_fraction=0.5, eta=eta).build(nets, Affine(), 10)


def made(kind: Kind, model: Autoencoder) -> list[Optimizer]:
    """Its optimizers."""
    return optimizers(kind, model, model.parameter_groups(0.01, 0.1), CPU)


def owned(optimizer: Optimizer) -> set[int]:
    """Identities of its parameters."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("eta", ["solve", "gradient"])
def test_every_trainable_parameter_has_one_owner(kind: Kind, eta: str) -> None:
    model = build(eta)
    for frozen in (model.encoder.trunk.norm.weight, model.encoder.trunk.blocks[0].mlp[0].weight):
        frozen.requires_grad_(False)
    owners = [p for optimizer in made(kind, model) for group in optimizer.param_groups for p in group["params"]]
    assert len(owners) == len({id(p) for p in owners})
    assert {id(p) for p in owners} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("structure", ["free", "lattice"])
def test_muon_takes_the_weights_of_linear_layers_and_adamw_the_rest(structure: str) -> None:
    adamw, muon = made("muon", model := build(structure=structure))
    assert isinstance(adamw, AdamW) and isinstance(muon, Muon)
    weights = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    assert owned(muon) == weights and len(weights) > 8
    rest = (nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.Conv2d, nn.ConvTranspose2d)
    others = {id(p) for module in model.modules() if isinstance(module, rest) for p in module.parameters()}
    biases = {id(p) for name, p in model.named_parameters() if name.endswith(("bias", "own", "shared", "start"))}
    assert others | biases <= owned(adamw)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_settings_of_the_groups_are_carried(kind: Kind) -> None:
    model = build("gradient")
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for optimizer in made(kind, model)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for name, p in model.named_parameters():
        assert settings[id(p)] == ((1e-3, 0.0) if name == "log_eta" else (0.01, 0.1))


def test_an_optimizer_without_parameters_is_not_made() -> None:
    matrix, vector = nn.Linear(3, 2, bias=False), nn.LayerNorm(3)
    groups = [{"params": list(matrix.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    assert [type(o) for o in optimizers("muon", matrix, groups, CPU)] == [Muon]
    groups = [{"params": list(vector.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    assert [type(o) for o in optimizers("adamw", vector, groups, CPU)] == [AdamW]
    with pytest.raises(ValueError, match=r"train\.optimizer: muon steps the matrices of linear layers"):
        optimizers("muon", vector, groups, CPU)


def slopes(model: nn.Module, step: int) -> None:
    """Gradients that are a function of the step."""
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


def test_adamw_takes_the_steps_of_the_reference() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3)).double()
    reference = copy.deepcopy(model)
    groups: list[dict[str, Any]] = [
        {"params": list(model[:2].parameters()), "lr": 0.01, "weight_decay": 0.1},
        {"params": list(model[2].parameters()), "lr": 0.1, "weight_decay": 0.0},
    ]
    theirs = [AdamW(reference[:2].parameters(), 0.01, weight_decay=0.1, foreach=False, fused=False)]
    theirs += [AdamW(reference[2].parameters(), 0.1, weight_decay=0.0, foreach=False, fused=False)]
    ours = optimizers("adamw", model, groups, CPU)
    assert len(ours) == 1
    for step in range(3):
        slopes(model, step)
        slopes(reference, step)
        for optimizer in (*ours, *theirs):
            optimizer.step()
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 64), (16, 128), (128, 16)])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_steps_of_muon_are_of_adamws_size(shape: tuple[int, int], scale: float) -> None:
    """0.2 of the learning rate as root mean square, whatever the shape and the gradient's scale."""
    model = nn.Linear(*shape, bias=False)
    before: Tensor = model.weight.detach().clone()
    (muon,) = optimizers("muon", model, [{"params": [model.weight], "lr": 0.01, "weight_decay": 0.0}], CPU)
    model.weight.grad = scale * torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(0))
    muon.step()
    size = float((model.weight - before).detach().square().mean().sqrt())
    assert size == pytest.approx(0.2 * 0.01, rel=0.3)  # five Newton-Schulz steps leave singular values in 0.7..1.2
