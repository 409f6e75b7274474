"""Search over codes: better sequences for a datum than its encoder draws, judged by the true log p(x|z).

A sweep visits every token. The decoder's derivative names the most promising symbols of a token (as in
Gibbs-with-gradients, Grathwohl et al., 2021), each is scored exactly, and the best is kept if log p rises. Tokens
of a local decoder that share no pixel are changed at once. docs/learning.md, "Search".
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from daps.credit import Reach, value_log_prob
from daps.critic import predicted_change
from daps.decoder import Decoder, evaluating

RADIUS = 1  # cells around a token of a local decoder in which its change is judged; log p of all of x decides


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
    with evaluating(decoder):
        for sites in reach.colours * sweeps:
            codes = _visit(
                decoder, y, codes, sites.to(codes.device), reach, min(candidates, decoder.embedding.vocab_size - 1)
            )
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
    before, after = (value_log_prob(decoder(z), y).flatten(2).sum(-1) for z in (codes, proposed))
    margin = 1e-4 + 1e-5 * before.abs()  # what rounding in other batch shapes might take back
    return torch.where((after > before + margin).unsqueeze(-1), proposed, codes)
