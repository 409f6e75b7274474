"""Optimizers, as PyTorch has them: AdamW for everything, or Muon for the matrices inside the networks."""

from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

Kind = Literal["adamw", "muon"]


def optimizers(
    kind: Kind, model: nn.Module, groups: list[dict[str, Any]], device: torch.device, muon_iterations: int = 5
) -> list[Optimizer]:
    """The optimizers of a training; every parameter of the groups belongs to one of them.

    Args:
        kind: "adamw"; or "muon" (Jordan et al., 2024) for the weights of linear layers, its steps scaled to the
            size of AdamW's so that both share a learning rate, and AdamW for all else.
        model: whose linear layers are meant.
        groups: parameters with `lr` and `weight_decay`, as Autoencoder.parameter_groups gives them.
        device: of the parameters.
        muon_iterations: of Newton-Schulz, which bring the singular values of a step near one.

    Raises:
        ValueError: muon without linear layers.
    """
    fused = device.type in ("cpu", "cuda")
    matrices = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear)} if kind == "muon" else ()
    inner, rest = [], []
    for group in groups:
        members = [p for p in group["params"] if p.requires_grad]
        inner.append({**group, "params": [p for p in members if id(p) in matrices]})
        rest.append({**group, "params": [p for p in members if id(p) not in matrices]})
    if kind == "muon" and not any(group["params"] for group in inner):
        raise ValueError("train.optimizer: muon steps the matrices of linear layers, and there are none; take adamw")
    inner, rest = [[group for group in part if group["params"]] for part in (inner, rest)]
    made: list[Optimizer] = [AdamW(rest, fused=fused)] if rest else []
    return [*made, Muon(inner, adjust_lr_fn="match_rms_adamw", ns_steps=muon_iterations)] if inner else made
