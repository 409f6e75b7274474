"""Search over codes: better sequences for a datum than its encoder's first, judged by the true log p(x|z).

Two means: draw many sequences of q and keep the best; then a sweep that visits every token. The decoder's derivative
names the most promising symbols of a token (as in Gibbs-with-gradients, Grathwohl et al., 2021), each is scored
exactly, and the best is kept if log p rises. Tokens of a local decoder that share no pixel are changed at once.
docs/learning.md, "Search".
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from daps.credit import Reach, value_log_prob
from daps.critic import predicted_change
from daps.decoder import Decoder
from daps.encoder import Encoder
from daps.nn.mode import evaluating
from daps.selection import take

RADIUS = 1  # cells around a token of a local decoder in which its change is judged; log p of all of x decides
DRAWS, AT_ONCE = 64, 16  # sequences drawn for each unit of effort, and scored in one batch


@torch.no_grad()
def search(
    encoder: Encoder,
    decoder: Decoder,
    y: Float[Tensor, "B ..."],
    codes: Int[Tensor, "1 B T"],
    effort: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "1 B T"]:
    """Codes whose log p(x|z) is nowhere below that of the codes given, and rises with effort.

    A unit of effort draws `DRAWS` sequences of q, unless the encoder is deterministic, and sweeps once over the
    tokens of the best so far.

    Args:
        y: data in model units.
        codes: where to begin.
        effort: units of it; 0 returns the codes.
        generator: of the draws; one with a fixed seed if None, so that codes are reproducible.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    for _ in range(effort if codes.numel() else 0):
        with evaluating(decoder), evaluating(encoder):
            for _ in range(0 if encoder.deterministic else DRAWS // AT_ONCE):
                drawn = torch.cat([codes, encoder.sample(y, AT_ONCE, 1.0, generator)[0]])
                log_p = decoder(drawn).log_prob(y)
                best = log_p.argmax(0, keepdim=True)
                better = log_p.gather(0, best) > log_p[:1] + _margin(log_p[:1])
                codes = torch.where(better.unsqueeze(-1), take(drawn, best), codes)
        codes = improve(decoder, y, codes, 1)
    return codes


def _margin(log_p: Tensor) -> Tensor:
    """What rounding in other batch shapes might take back."""
    return 1e-4 + 1e-5 * log_p.abs()


@torch.no_grad()
def improve(
    decoder: Decoder, y: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"], sweeps: int, candidates: int = 8
) -> Int[Tensor, "K B T"]:
    """Codes whose log p(x|z) is nowhere below that of the codes given, after greedy sweeps over the tokens.

    Args:
        y: data in model units.
        codes: where to begin.
        sweeps: visits to every token; 0 returns the codes.
        candidates: symbols scored at each visit.

    Raises:
        ValueError: a distribution that does not factorise over values.
    """
    codes = codes.long()
    if not codes.numel():
        return codes
    reach = Reach(codes.shape[-1], decoder.grid, RADIUS)
    candidates = min(candidates, decoder.embedding.vocab_size - 1)
    with evaluating(decoder):
        for sites in reach.colours * sweeps:
            codes = _visit(decoder, y, codes, sites.to(codes.device), reach, candidates)
    return codes


def _visit(decoder: Decoder, y: Tensor, codes: Tensor, sites: Tensor, reach: Reach, candidates: int) -> Tensor:
    """Codes with each of the independent sites set to the best of its most promising symbols."""
    change = predicted_change(decoder, y, codes)[..., sites, :]
    change.scatter_(-1, codes[..., sites].unsqueeze(-1), -torch.inf)  # no candidate: it is scored below anyway
    promising = change.topk(candidates, dim=-1).indices.movedim(-1, 0)  # C K B sites
    tried = torch.cat([codes[..., sites].unsqueeze(0), promising])
    trials = codes.expand(len(tried), *codes.shape).clone()
    trials[..., sites] = tried
    values = value_log_prob(decoder(trials.flatten(0, 1)), y)
    near = reach.matrix.to(values)[sites]
    score = (reach.cells(values) @ near.T).unflatten(0, trials.shape[:2])  # C K B sites
    best = score.argmax(0, keepdim=True)
    proposed = codes.clone()
    proposed[..., sites] = tried.gather(0, best).squeeze(0)
    before = values[: len(codes)].flatten(2).sum(-1)  # the first trial changes nothing
    after = value_log_prob(decoder(proposed), y).flatten(2).sum(-1)
    return torch.where((after > before + _margin(before)).unsqueeze(-1), proposed, codes)
