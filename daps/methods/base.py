"""The face that every training method shows: one to the trainer, one to everybody else."""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from daps.architecture import Architecture
from daps.decoder import with_vectors
from daps.encoder import Encoder
from daps.scaling import Affine, Scaled, Scaling
from daps.search import search

Metrics = dict[str, Tensor | float]


class Autoencoder(nn.Module, ABC):
    """An encoder q(z|x) and a decoder p(x|z), with one way of training them.

    Args:
        encoder: x in model units -> codes.
        decoder: codes [*N, T] -> a distribution over x in model units, batch shape *N.
        data_shape: shape of one datum in model units, as the networks have it.
        scaling: natural units -> model units; the identity if None.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.scaling = Affine() if scaling is None else scaling
        self.data_shape = self.scaling.data_shape(tuple(data_shape))

    @abstractmethod
    def forward(self, x: Tensor, step: int) -> tuple[Float[Tensor, ""], Metrics]:
        """Training face: the loss of a batch x [B, *data_shape] in natural units, and figures to log."""

    @property
    @abstractmethod
    def final_beta(self) -> float:
        """The price of KL at the end of training, with which beta-ELBO is reported."""

    @property
    def num_tokens(self) -> int:
        """T, tokens per datum."""
        return self.encoder.num_tokens

    @property
    def vocab_size(self) -> int:
        """V, symbols per token."""
        return self.encoder.vocab_size

    @property
    def bits(self) -> float:
        """Nominal size of a datum's codes, T log2 V."""
        return self.num_tokens * math.log2(self.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @torch.no_grad()
    def encode(
        self,
        x: Tensor | np.ndarray,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        effort: int = 0,
    ) -> Int[Tensor, "B T"]:
        """Codes of data.

        Args:
            x: [B, *data_shape] in natural units.
            temperature: 0 takes the most likely symbol at each token (greedy), 1 samples q(z|x).
            generator: makes a stochastic encoding reproducible.
            effort: how long to search for better codes from there: 64 draws of q and a sweep over the tokens a unit.
                log p(x|z) never falls, time grows in proportion. Reproducible without a generator too.

        Raises:
            ValueError: another shape, values that are not finite, or a negative effort.
        """
        if effort < 0:
            raise ValueError(f"effort: must be >= 0, got {effort}; 0 takes the encoder's codes as they are")
        y = self.scaled(x)
        codes = self.encoder.sample(y, 1, temperature, generator)[0]
        if effort:
            codes = search(self.encoder, with_vectors(self.decoder, "effort"), y, codes, effort, generator)
        return codes[0]

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "*N T"] | np.ndarray) -> Distribution:
        """p(x|z) in natural units: `.mean` is the reconstruction, [*N, *data_shape].

        Raises:
            ValueError: another number of tokens, or symbols outside 0..V-1.
        """
        codes = torch.as_tensor(_writable(codes), device=self.device)
        if codes.is_floating_point():
            raise ValueError(f"codes: must be integers, got {codes.dtype}; for one-hots call model.decoder")
        codes = codes.long()
        if codes.ndim < 2 or codes.shape[-1] != self.num_tokens:
            raise ValueError(
                f"codes: must have shape [..., {self.num_tokens}] with at least one leading axis, got "
                f"{list(codes.shape)}; for the codes of one datum pass codes[None]"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.vocab_size:
            raise ValueError(
                f"codes: symbols must lie in 0..{self.vocab_size - 1}, got {int(codes.min())}.."
                f"{int(codes.max())}; these codes come from another model"
            )
        return Scaled(self.decoder(codes), self.scaling)

    def scaled(self, x: Tensor | np.ndarray) -> Float[Tensor, "B ..."]:
        """A batch in model units, checked.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        x = torch.as_tensor(_writable(x), device=self.device)
        if tuple(x.shape[1:]) != self.data_shape:
            raise ValueError(
                f"x: must have shape [B, {', '.join(map(str, self.data_shape))}], got {list(x.shape)}; "
                "for one datum pass x[None]"
            )
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise ValueError(f"x: must be finite, got {int((~x.isfinite()).sum())} NaN or infinite values")
        return self.scaling(x)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimizer; a method with parameters of another kind gives them their own."""
        return [{"params": list(self.parameters()), "lr": learning_rate, "weight_decay": weight_decay}]


def _writable(x: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Torch warns of arrays that it may not write to, such as memory maps; those are copied."""
    return x if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.flags.writeable) else np.array(x)


@dataclass(frozen=True)
class MethodConfig(ABC):
    """Settings of one training method; `METHODS` maps its name to its class."""

    parallel_only: ClassVar[bool] = False
    """Whether codes are not drawn, so that no token can wait for those before: nets.encoder_kind has no say then."""

    @abstractmethod
    def build(self, nets: Architecture, scaling: Scaling, steps: int) -> Autoencoder:
        """The untrained model."""

    @property
    def sequences(self) -> int:
        """Code sequences drawn for each datum and step, by `samples` where a method has it."""
        return int(dataclasses.asdict(self).get("samples", 1))

    @property
    @abstractmethod
    def targets(self) -> dict[str, float]:
        """Values that metrics are steered towards, by the metric's name."""
