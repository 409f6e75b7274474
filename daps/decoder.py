"""Decoders p(x|z): codes -> a distribution over x, in three parts: code embedding, network, likelihood."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from daps.likelihood import Likelihood
from daps.symbols import CodeEmbedding


class Decoder(nn.Module):
    """codes -> embedding -> network -> likelihood.

    Args:
        embedding: of the codes.
        net: [N, T, D] -> [N, P * values] in any shape that holds P = likelihood.channels numbers per value of x.
        likelihood: numbers -> distribution.
        data_shape: shape of one datum.
        grid: on which tokens lie over x, (rows, columns) or (steps,), where they have places: each may reach farther,
            but its own place most.
    """

    def __init__(
        self,
        embedding: CodeEmbedding,
        net: nn.Module,
        likelihood: Likelihood,
        data_shape: tuple[int, ...],
        grid: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.embedding, self.net = embedding, net
        self.likelihood, self.data_shape, self.grid = likelihood, data_shape, grid

    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Distribution:
        """p(x|z) in model units, batch shape *N. Floating codes are features and carry gradient to the codes."""
        return self.from_vectors(self.embedding(codes))

    def from_vectors(self, embedded: Float[Tensor, "*N T D"]) -> Distribution:
        """p(x|z) from the vectors of the codes, for derivatives with respect to these."""
        batch = embedded.shape[:-2]
        outputs = self.net(embedded.flatten(0, -3))
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # log p adds up many values
        parameters = outputs.reshape(*batch, self.likelihood.channels, *self.data_shape)
        return self.likelihood(parameters, len(self.data_shape))


def with_vectors(decoder: nn.Module, option: str) -> Decoder:
    """The decoder as one that lends its code embedding and its network separately.

    Raises:
        ValueError: it is another module; `option` names who asks.
    """
    if not isinstance(decoder, Decoder):
        raise ValueError(
            f"{option}: needs a daps.decoder.Decoder, got {type(decoder).__name__}; build the network into one, or "
            "leave the option at its default"
        )
    return decoder
