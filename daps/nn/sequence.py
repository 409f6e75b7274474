"""Vectors and sequences: the stems of an encoder and the heads of a decoder."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from daps.nn.linear import linear, mlp
from daps.nn.transformer import Block, sinusoids


class VectorPatches(nn.Module):
    """Cuts a vector [B, N] into equal pieces (the last padded with zeros) and maps each to a vector."""

    def __init__(self, size: int, pieces: int, width: int) -> None:
        super().__init__()
        if not 1 <= pieces <= size:
            raise ValueError(
                f"nets.patches: a vector of {size} numbers makes 1 to {size} pieces, got {pieces}; take fewer"
            )
        self.pieces = pieces
        self.piece = -(-size // pieces)
        self.padding = self.piece * pieces - size
        self.project = linear(self.piece, width)

    def forward(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B P D"]:
        """Pieces in order."""
        return self.project(F.pad(x, (0, self.padding)).unflatten(-1, (self.pieces, self.piece)))


def resample(inputs: int, outputs: int, length: int, new_length: int) -> nn.Module:
    """A 1-D convolution [N, inputs, length] -> [N, outputs, new_length], by a whole factor up or down.

    Raises:
        ValueError: neither length divides the other.
    """
    if new_length % length == 0:
        factor = new_length // length
        if factor == 1:
            return nn.Conv1d(inputs, outputs, 3, padding=1)
        return nn.ConvTranspose1d(inputs, outputs, 2 * factor, factor, (factor + 1) // 2, factor % 2)
    if length % new_length == 0:
        factor = length // new_length
        return nn.Conv1d(inputs, outputs, 2 * factor + factor % 2, factor, (factor + 1) // 2)
    raise ValueError(
        f"nets.patches: {new_length} steps from {length}: one must be a multiple of the other; change either"
    )


class SequencePatches(nn.Module):
    """A sequence [B, F, C] of F frames -> P steps, by a convolution over time."""

    def __init__(self, frames: int, channels: int, steps: int, width: int) -> None:
        super().__init__()
        self.convolution = resample(channels, width, frames, steps)

    def forward(self, x: Float[Tensor, "B F C"]) -> Float[Tensor, "B P D"]:
        """Steps in order of time."""
        return self.convolution(x.transpose(1, 2)).transpose(1, 2)


class SequenceHead(nn.Module):
    """Tokens -> P numbers per value of each frame: self-attention over the tokens, then a convolution over time."""

    def __init__(
        self,
        tokens: int,
        shape: tuple[int, int],
        numbers: int,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: int,
    ) -> None:
        super().__init__()
        frames, channels = shape
        self.numbers = numbers
        self.register_buffer("positions", sinusoids(tokens, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.convolution = resample(width, numbers * channels, tokens, frames)

    positions: Tensor

    def forward(self, tokens: Float[Tensor, "N T D"]) -> Float[Tensor, "N P F C"]:
        """Frames in order of time."""
        h = tokens + self.positions
        for block in self.blocks:
            h = block(h)
        frames = self.convolution(self.norm(h).transpose(1, 2))
        return frames.unflatten(1, (self.numbers, -1)).transpose(2, 3)


class Local(nn.Module):
    """h + a perceptron of each token and its two neighbours: [N, T, D] -> [N, T, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.neighbours, self.project = nn.Conv1d(width, width, 3, padding=1), linear(width, width)

    def forward(self, h: Float[Tensor, "N T D"]) -> Float[Tensor, "N T D"]:
        """The same shape; the norm is of each token alone, so nothing reaches farther than one token."""
        mixed = self.neighbours(F.relu(self.norm(h)).transpose(1, 2)).transpose(1, 2)
        return h + self.project(F.relu(mixed))


class LocalSequenceHead(nn.Module):
    """Tokens -> P numbers per value of each frame by convolutions over time: a token reaches only frames near its own.

    Args:
        tokens: T.
        shape: (frames, channels) of the output; T and the frames are multiples, one of the other.
        numbers: P.
        width: channels of a token.
        hidden: channels of the residual blocks.
        blocks: residual blocks; each widens the reach of a token by one.
    """

    def __init__(self, tokens: int, shape: tuple[int, int], numbers: int, width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        frames, channels = shape
        self.numbers = numbers
        self.enter = linear(width, hidden)
        self.blocks = nn.ModuleList(Local(hidden) for _ in range(blocks))
        self.norm = nn.LayerNorm(hidden)
        self.convolution = resample(hidden, numbers * channels, tokens, frames)

    def forward(self, tokens: Float[Tensor, "N T D"]) -> Float[Tensor, "N P F C"]:
        """Frames in order of time."""
        h = self.enter(tokens)
        for block in self.blocks:
            h = block(h)
        frames = self.convolution(F.relu(self.norm(h)).transpose(1, 2))
        return frames.unflatten(1, (self.numbers, -1)).transpose(2, 3)


class FlatHead(nn.Module):
    """Tokens -> values: all tokens side by side through one perceptron."""

    def __init__(self, tokens: int, width: int, hidden: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layers = mlp((tokens * width, *hidden, outputs))

    def forward(self, tokens: Float[Tensor, "N T D"]) -> Float[Tensor, "N O"]:
        """All values of a datum in one row."""
        return self.layers(tokens.flatten(1))
