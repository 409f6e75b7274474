"""Search against brute force: never worse, the best code of an additive decoder, coordinate ascent elsewhere."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.decoder import Decoder
from daps.likelihood import GaussianLikelihood
from daps.search import improve
from daps.symbols import TableEmbedding

MLP = Architecture(num_tokens=4, vocab_size=5, width=4, heads=2, hidden=(8,), variance=(0.1, 1.0), data_shape=(6,))
CONV = dataclasses.replace(
    MLP, num_tokens=20, decoder_kind="conv", decoder_layers=1, decoder_grid=(4, 5), data_shape=(2, 8, 10)
)
BINARY = dataclasses.replace(
    CONV, likelihood_kind="bernoulli", num_tokens=4, decoder_grid=(1, 4), data_shape=(1, 4, 16)
)


def problem(nets: Architecture, seed: int = 0) -> tuple[Decoder, Tensor, Tensor]:
    """A random decoder, 3 data, and 2 sequences of codes for each."""
    torch.manual_seed(seed)
    decoder, y = nets.decoder(), torch.randn(3, *nets.data_shape)
    if nets.likelihood_kind == "bernoulli":
        y = (y > 0).float()
    return decoder, y, torch.randint(nets.vocab_size, (2, 3, nets.num_tokens))


@torch.no_grad()
def log_p(decoder: Decoder, y: Tensor, codes: Tensor) -> Tensor:
    """log p(x|z) [K, B]."""
    return decoder(codes).log_prob(y)


@settings(max_examples=40)
@given(
    nets=st.sampled_from([MLP, CONV, BINARY]),
    seed=st.integers(0, 10_000),
    sweeps=st.integers(1, 2),
    candidates=st.sampled_from([1, 3, 8]),
)
def test_no_datum_is_ever_worse_off(nets: Architecture, seed: int, sweeps: int, candidates: int) -> None:
    decoder, y, codes = problem(nets, seed)
    found = improve(decoder, y, codes, sweeps, candidates)
    assert found.shape == codes.shape and found.dtype == codes.dtype
    assert bool((found >= 0).all()) and bool((found < nets.vocab_size).all())
    before, after = log_p(decoder, y, codes), log_p(decoder, y, found)
    assert bool((after >= before).all())
    assert bool((found == codes).all(-1)[after == before].all())  # what gains nothing stays


@pytest.mark.parametrize("nets", [MLP, CONV], ids=["mlp", "conv"])
def test_it_finds_something_and_more_sweeps_find_no_less(nets: Architecture) -> None:
    decoder, y, codes = problem(nets)
    reached = [log_p(decoder, y, improve(decoder, y, codes, sweeps)) for sweeps in range(4)]
    assert float((reached[1] - reached[0]).mean()) > 1
    for fewer, more in itertools.pairwise(reached):
        assert bool((more >= fewer).all())


def test_no_sweeps_return_the_codes_given() -> None:
    decoder, y, codes = problem(CONV)
    assert torch.equal(improve(decoder, y, codes, 0), codes)


def test_the_codes_given_are_not_written_to() -> None:
    decoder, y, codes = problem(CONV)
    kept = codes.clone()
    assert not torch.equal(improve(decoder, y, codes, 1), codes) and torch.equal(codes, kept)


@pytest.mark.parametrize("nets", [MLP, CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("grad", [False, True])
def test_parameters_get_no_gradient(nets: Architecture, grad: bool) -> None:
    decoder, y, codes = problem(nets)
    with torch.set_grad_enabled(grad):
        found = improve(decoder, y, codes, 1)
        assert torch.is_grad_enabled() is grad
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())
    assert not torch.equal(found, codes) and torch.equal(found, improve(decoder, y, codes, 1))


# -- known answers ---------------------------------------------------------------------------------


class Apart(nn.Module):
    """Token t alone makes value t: the first entry of its vector, through a function that is far from linear."""

    def forward(self, vectors: Tensor) -> Tensor:
        """[N, T, D] -> [N, T]."""
        return torch.sin(3 * vectors[..., 0]) + vectors[..., 1] ** 2


def additive() -> tuple[Decoder, Tensor, Tensor]:
    """A decoder whose log p is a sum over tokens, data, and codes to begin with."""
    torch.manual_seed(0)
    decoder = Decoder(TableEmbedding(6, 2), Apart(), GaussianLikelihood(0.1, 0.1), (5,))
    return decoder, torch.randn(8, 5), torch.randint(6, (2, 8, 5))


def test_one_sweep_finds_the_optimum_where_tokens_do_not_interact() -> None:
    decoder, y, codes = additive()
    found = improve(decoder, y, codes, 1, candidates=5)
    every = torch.tensor(list(itertools.product(range(6), repeat=5)))
    scores = torch.stack([log_p(decoder, datum[None], every[:, None])[:, 0] for datum in y])  # [B, 6^5]
    best = scores.max(1)
    torch.testing.assert_close(log_p(decoder, y, found), best.values.expand(2, 8), rtol=1e-5, atol=1e-3)
    # a change worth less than the margin is not made
    runner_up = scores.topk(2).values
    clear = runner_up[:, 0] - runner_up[:, 1] > 1e-2
    assert int(clear.sum()) >= 4 and torch.equal(found[:, clear], every[best.indices][clear].expand(2, -1, -1))


@pytest.mark.parametrize("seed", range(4))
def test_with_all_candidates_it_is_coordinate_ascent(seed: int) -> None:
    decoder, y, codes = problem(MLP, seed)
    decoder, y = decoder.double(), y.double()
    expected = codes.clone()
    for k, b in itertools.product(range(2), range(3)):
        for t in range(4):
            tried = expected[k, b].repeat(5, 1)
            tried[:, t] = torch.arange(5)
            expected[k, b, t] = log_p(decoder, y[b : b + 1], tried[:, None])[:, 0].argmax()
    assert torch.equal(improve(decoder, y, codes, 1, candidates=4), expected)
    assert torch.equal(improve(decoder, y, codes, 1, candidates=100), expected)  # there are no more than V - 1


def test_few_candidates_are_those_that_the_derivative_names() -> None:
    from daps.critic import predicted_change

    decoder, y, codes = problem(dataclasses.replace(MLP, num_tokens=1, vocab_size=12))
    gain = predicted_change(decoder, y, codes).scatter(-1, codes.unsqueeze(-1), -torch.inf)
    named = torch.cat([codes.unsqueeze(-1), gain.topk(3).indices], -1)  # [K, B, 1, 4]
    scores = torch.stack([log_p(decoder, y, named[..., i]) for i in range(4)], -1)
    expected = named.gather(-1, scores.argmax(-1)[..., None, None]).squeeze(-1)
    assert torch.equal(improve(decoder, y, codes, 1, candidates=3), expected)


def test_tokens_of_a_local_decoder_are_changed_together_and_the_whole_is_judged() -> None:
    """Sites of one colour move in one proposal, which a datum takes or leaves by its true log p."""
    decoder, y, codes = problem(CONV)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    with_hook = decoder.net.register_forward_hook(count)
    improve(decoder, y, codes, 1)
    with_hook.remove()
    assert calls == 9 * 3  # 9 colours: the derivative, the candidates beside what there was, and what was chosen
