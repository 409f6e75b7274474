"""The networks of an autoencoder as one frozen table row, and the parts built from it."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from daps.decoder import Decoder
from daps.encoder import AutoregressiveEncoder, Encoder, ParallelEncoder
from daps.likelihood import BernoulliLikelihood, GaussianLikelihood, Likelihood
from daps.nn.image import ImageHead, ImagePatches, Norm
from daps.nn.sequence import FlatHead, LocalSequenceHead, SequenceHead, SequencePatches, VectorPatches
from daps.nn.transformer import Trunk
from daps.symbols import CodeEmbedding, Structure, code_embedding


@dataclass(frozen=True)
class Architecture:
    """Sizes and kinds of the networks. Data are vectors [N], sequences [F, C] or images [C, H, W]."""

    num_tokens: int = 8
    """T, tokens per datum."""
    vocab_size: int = 16
    """V, symbols per token."""
    width: int = 64
    """D, channels of every token and patch."""
    heads: int = 4
    """Attention heads."""
    mlp_ratio: int = 4
    """Hidden width of the transformers' perceptrons, in units of D."""
    encoder_kind: Literal["autoregressive", "parallel"] = "autoregressive"
    """Tokens one by one, or all at once (then one patch per token)."""
    block: int = 1
    """b, tokens that the autoregressive encoder emits at once, independent given the tokens before them."""
    aligned: bool = False
    """Token t of the autoregressive encoder reads patch t at its input, as in a parallel one (one patch per token)."""
    structure: Structure = "free"
    """What symbols share, in every embedding and head: nothing, bits, digits, or coordinates on a lattice."""
    patches: tuple[int, ...] = (4, 4)
    """Grid that the encoder cuts x into: (rows, columns) of an image, (steps,) of a vector or sequence."""
    trunk_layers: int = 1
    """Transformer blocks over the patches of x."""
    token_layers: int = 1
    """Transformer blocks over the tokens, in the autoregressive encoder."""
    decoder_kind: Literal["mlp", "conv", "transformer"] = "mlp"
    """Any data; images and sequences, with tokens that reach only what is near; sequences."""
    hidden: tuple[int, ...] = (64, 256)
    """Hidden widths of the mlp decoder; one number, the channels, for the conv decoder."""
    decoder_layers: int = 2
    """Residual blocks of the conv decoder, transformer blocks of the transformer decoder."""
    decoder_grid: tuple[int, int] = (8, 8)
    """Rows and columns that the conv decoder of images lays the tokens out in."""
    norm: Norm = "group"
    """Normalisation in the conv decoder of images."""
    likelihood_kind: Literal["bernoulli", "gaussian"] = "gaussian"
    """Of x given its codes, in model units."""
    variance: tuple[float, float] = (0.01, 1.0)
    """Bounds of the Gaussian's learned variance in model units; equal bounds fix it."""
    data_shape: tuple[int, ...] = ()
    """Shape of one datum; taken from the data."""

    def __post_init__(self) -> None:
        sizes = {
            "num_tokens": self.num_tokens,
            "width": self.width,
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "patches": min(self.patches, default=0),
            "hidden": min(self.hidden, default=1),
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"nets.{name}: must be >= 1, got {size}; take a whole number above 0")
        for name, layers, least in (
            ("trunk", self.trunk_layers, 0),
            ("token", self.token_layers, 1),
            ("decoder", self.decoder_layers, 0),
        ):
            if layers < least:
                raise ValueError(f"nets.{name}_layers: must be >= {least}, got {layers}")
        if self.vocab_size < 2:
            raise ValueError(f"nets.vocab_size: must be >= 2 to carry any bit, got {self.vocab_size}")
        if self.block != 1 and self.encoder_kind == "parallel":
            raise ValueError(
                f"nets.block: a parallel encoder emits all tokens at once, got {self.block}; leave it at 1, or take "
                "nets.encoder_kind = autoregressive"
            )
        if self.width % self.heads:
            raise ValueError(f"nets.heads: must divide nets.width = {self.width}, got {self.heads}; change either")

    def trunk(self) -> Trunk:
        """The stem and blocks over x."""
        shape, steps = self._shape(), math.prod(self.patches)
        if (len(shape) == 3) != (len(self.patches) == 2):
            raise ValueError(
                f"nets.patches: images want (rows, columns), vectors and sequences one number; got {self.patches} "
                f"for data of shape {list(shape)}"
            )
        stem: nn.Module
        if len(shape) == 3:
            stem = ImagePatches((shape[0], shape[1], shape[2]), (self.patches[0], self.patches[1]), self.width)
        elif len(shape) == 2:
            stem = SequencePatches(shape[0], shape[1], steps, self.width)
        else:
            stem = VectorPatches(shape[0], steps, self.width)
        return Trunk(stem, steps, self.width, self.trunk_layers, self.heads, self.mlp_ratio)

    def parallel_trunk(self) -> Trunk:
        """A trunk that can feed one token per patch."""
        if math.prod(self.patches) != self.num_tokens:
            who, other = "a parallel", ""
            if self.encoder_kind == "autoregressive":
                who, other = "an aligned", ", or set nets.aligned to false"
            raise ValueError(
                f"nets.patches: {who} encoder needs one patch per token, got {self.patches} patches for "
                f"nets.num_tokens = {self.num_tokens}; make their product equal{other}"
            )
        return self.trunk()

    def encoder(self) -> Encoder:
        """q(z|x)."""
        if self.encoder_kind == "parallel":
            return ParallelEncoder(self.parallel_trunk(), self.vocab_size, self.structure)
        return AutoregressiveEncoder(
            self.parallel_trunk() if self.aligned else self.trunk(),
            self.num_tokens,
            self.vocab_size,
            self.width,
            self.token_layers,
            self.heads,
            self.mlp_ratio,
            self.block,
            self.structure,
            self.aligned,
        )

    def decoder(self, embedding: CodeEmbedding | None = None) -> Decoder:
        """p(x|z), on vectors of symbols with the structure chosen, or on the embedding given."""
        if embedding is None:
            embedding = code_embedding(self.structure, self.vocab_size, self.width)
        likelihood = self._likelihood()
        grid = (self.num_tokens,) if len(self._shape()) == 2 else self.decoder_grid
        places = None if self.decoder_kind == "mlp" else grid
        return Decoder(embedding, self._head(likelihood.channels), likelihood, self._shape(), places)

    def _shape(self) -> tuple[int, ...]:
        if not 1 <= len(self.data_shape) <= 3:
            raise ValueError(
                f"nets.data_shape: must be [N], [F, C] or [C, H, W], got {list(self.data_shape)}, which the data give"
            )
        return self.data_shape

    def _likelihood(self) -> Likelihood:
        if self.likelihood_kind == "bernoulli":
            return BernoulliLikelihood()
        return GaussianLikelihood(*self.variance)

    def _head(self, channels: int) -> nn.Module:
        shape = self.data_shape
        if self.decoder_kind == "mlp":
            return FlatHead(self.num_tokens, self.width, self.hidden, channels * math.prod(shape))
        if self.decoder_kind == "conv":
            if len(shape) == 1 or len(self.hidden) != 1:
                raise ValueError(
                    "nets.decoder_kind: conv wants images or sequences and one number of hidden channels, got data of "
                    f"shape {list(shape)} and nets.hidden = {self.hidden}; use mlp, or one number"
                )
            if len(shape) == 2:
                frames = (shape[0], shape[1])
                return LocalSequenceHead(
                    self.num_tokens, frames, channels, self.width, self.hidden[0], self.decoder_layers
                )
            if math.prod(self.decoder_grid) != self.num_tokens:
                raise ValueError(
                    f"nets.decoder_grid: {self.decoder_grid} holds {math.prod(self.decoder_grid)} tokens, but "
                    f"nets.num_tokens is {self.num_tokens}; change either"
                )
            output = (channels * shape[0], shape[1], shape[2])
            return ImageHead(self.decoder_grid, output, self.width, self.hidden[0], self.decoder_layers, self.norm)
        if len(shape) != 2:
            raise ValueError(
                f"nets.decoder_kind: transformer wants sequences [F, C], got data of shape {list(shape)}; use mlp"
            )
        return SequenceHead(
            self.num_tokens,
            (shape[0], shape[1]),
            channels,
            self.width,
            self.decoder_layers,
            self.heads,
            self.mlp_ratio,
        )
