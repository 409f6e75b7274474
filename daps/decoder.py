"""Decoders p(x|z): codes -> a distribution over x, in three parts: code embedding, network, likelihood."""

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
    """

    def __init__(
        self, embedding: CodeEmbedding, net: nn.Module, likelihood: Likelihood, data_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.embedding, self.net = embedding, net
        self.likelihood, self.data_shape = likelihood, data_shape

    def forward(self, codes: Int[Tensor, "*N T"] | Float[Tensor, "*N T F"]) -> Distribution:
        """p(x|z) in model units, batch shape *N. Floating codes are features and carry gradient to the codes."""
        embedded = self.embedding(codes)
        batch = embedded.shape[:-2]
        outputs = self.net(embedded.flatten(0, -3))
        parameters = outputs.reshape(*batch, self.likelihood.channels, *self.data_shape)
        return self.likelihood(parameters, len(self.data_shape))
