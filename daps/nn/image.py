"""Images: the patch stem of an encoder and the convolutional head of a decoder."""

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from daps.nn.linear import linear

Norm = Literal["batch", "group"]


class ImagePatches(nn.Module):
    """Cuts an image [B, C, H, W] into a grid of equal patches and maps each to a vector."""

    def __init__(self, shape: tuple[int, int, int], grid: tuple[int, int], width: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        rows, columns = grid
        if height % rows or breadth % columns:
            raise ValueError(
                f"nets.patches: a {rows} x {columns} grid does not divide {height} x {breadth} pixels; "
                "choose divisors of the height and the width"
            )
        self.patch = (height // rows, breadth // columns)
        self.project = linear(channels * self.patch[0] * self.patch[1], width)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P D"]:
        """Patches in reading order."""
        rows = x.unflatten(2, (-1, self.patch[0])).unflatten(4, (-1, self.patch[1]))  # B C r h c w
        return self.project(rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))


def _norm(kind: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)


class Residual(nn.Module):
    """x + norm(1 x 1 conv(relu(norm(3 x 3 conv(relu(x))))))."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            _norm(norm, channels),
        )

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """The same shape."""
        return x + self.branch(x)


class ImageHead(nn.Module):
    """Tokens on a grid -> an image: 3 x 3 convolution, residual blocks, then stride-2 transposed convolutions.

    Args:
        grid: rows and columns of the token grid; rows * columns is the number of tokens.
        shape: (channels, height, width) of the output, height = rows * 2**n, width = columns * 2**n.
        width: channels of a token.
        hidden: channels of the residual blocks, halved at each doubling of the resolution but the last.
        norm: "batch" as in the paper; "group" keeps each sample's likelihood independent of its batch.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        shape: tuple[int, int, int],
        width: int,
        hidden: int,
        blocks: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.grid = grid
        channels, height, breadth = shape
        doublings = (height // grid[0]).bit_length() - 1
        if doublings < 1 or (grid[0] << doublings, grid[1] << doublings) != (height, breadth):
            raise ValueError(
                f"nets.decoder_grid: {height} x {breadth} pixels are not {grid[0]} x {grid[1]} tokens doubled "
                "one or more times; choose the pixels divided by a power of two"
            )
        if hidden >> (doublings - 1) < 1:
            raise ValueError(
                f"nets.hidden: {hidden} channels cannot be halved {doublings - 1} times; take more channels"
            )
        layers: list[nn.Module] = [nn.Conv2d(width, hidden, 3, padding=1), _norm(norm, hidden)]
        layers += [Residual(hidden, norm) for _ in range(blocks)]
        layers += [_norm(norm, hidden), nn.ReLU()]
        for _ in range(doublings - 1):
            layers += [nn.ConvTranspose2d(hidden, hidden // 2, 4, 2, 1), _norm(norm, hidden // 2), nn.ReLU()]
            hidden //= 2
        layers += [nn.ConvTranspose2d(hidden, channels, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: Float[Tensor, "N T D"]) -> Float[Tensor, "N C H W"]:
        """Token t lies at row t // columns, column t % columns of the grid."""
        return self.layers(tokens.unflatten(1, self.grid).permute(0, 3, 1, 2))
