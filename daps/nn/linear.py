"""Linear layers as the paper's: variance-preserving (LeCun) normal weights, zero biases."""

from torch import nn


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer with weights from N(0, 1 / inputs) and biases of zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """A perceptron through `widths` (input first, output last) with ReLU between the layers."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
