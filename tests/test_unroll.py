"""Emitting codes with gradient: against recomputing every prefix anew, teacher forcing and finite differences."""

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from builders import normal
from daps.architecture import Architecture
from daps.encoder import AutoregressiveEncoder
from daps.symbols import Structure, input_table, token_input

T, V, B, K = 4, 3, 2, 3
NETS = Architecture(num_tokens=T, vocab_size=V, width=8, heads=2, patches=(T,), token_layers=2, data_shape=(8,))
KINDS: dict[str, dict[str, Any]] = {"one by one": {}, "blocks of 2": {"block": 2}, "lattice": {"structure": "lattice"},
                                    "aligned": {"aligned": True, "block": 2}}  # fmt: skip
NEAR = {"rtol": 1e-10, "atol": 1e-12}  # float64, some thousand roundings


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest) -> AutoregressiveEncoder:
    torch.manual_seed(0)
    made = dataclasses.replace(NETS, **KINDS[request.param]).encoder().double()
    assert isinstance(made, AutoregressiveEncoder)
    return made


@pytest.fixture
def x() -> Tensor:
    return normal(B, 8, seed=1)


def hard(logits: Tensor) -> Tensor:
    """One-hots of the largest logits, with the gradient of a softmax: deterministic, so that two ways must agree."""
    soft = logits.softmax(-1)
    return F.one_hot(logits.argmax(-1), V).to(soft.dtype) + soft - soft.detach()


def recomputed(encoder: AutoregressiveEncoder, x: Tensor, stop: bool = False) -> tuple[Tensor, Tensor]:
    """One-hots and logits [B, T, V] of one sequence, each block from the whole prefix anew, without any cache."""
    context, table = encoder.trunk(x), encoder.embedding(torch.arange(V + 1))
    chosen: list[Tensor] = []
    scores: list[Tensor] = []
    for _ in range(0, T, encoder.block):
        prefix = [table[-1].expand(len(x), encoder.block, -1)]
        prefix += [(block.detach() if stop else block) @ table[:V] for block in chosen]
        h = torch.cat(prefix, 1)
        h = h + encoder.positions[: h.shape[1]]
        h = h + context[:, : h.shape[1]] if encoder.aligned else h
        for block in encoder.blocks:
            h = block(h, causal=encoder.block, memory=block.memory(context))
        scores.append(encoder.head(encoder.norm(h))[:, -encoder.block :])
        chosen.append(hard(scores[-1]))
    return torch.cat(chosen, 1), torch.cat(scores, 1)


def gradients(encoder: AutoregressiveEncoder, one_hots: Tensor, logits: Tensor) -> list[Tensor]:
    """Of a function of both that is linear in neither."""
    prices = normal(T, V, seed=2)
    value = (one_hots * prices).sum(-1).prod(-1).sum() + (logits.log_softmax(-1) * prices).square().sum()
    return list(torch.autograd.grad(value, list(encoder.parameters())))


def test_the_gradient_is_that_of_recomputing_every_prefix(encoder: AutoregressiveEncoder, x: Tensor) -> None:
    one_hots, logits = encoder.unroll(x, 1, hard)
    expected = recomputed(encoder, x)
    torch.testing.assert_close(one_hots[0], expected[0], **NEAR)
    torch.testing.assert_close(logits[0], expected[1], **NEAR)
    found, truth = gradients(encoder, one_hots[0], logits[0]), gradients(encoder, *expected)
    torch.testing.assert_close(found, truth, **NEAR)
    stopped = gradients(encoder, *recomputed(encoder, x, stop=True))
    assert any(not torch.allclose(one, other, rtol=1e-2) for one, other in zip(stopped, truth, strict=True))


def test_logits_are_those_of_teacher_forcing(encoder: AutoregressiveEncoder, x: Tensor) -> None:
    torch.manual_seed(1)
    one_hots, logits = encoder.unroll(x, K, lambda scores: F.gumbel_softmax(scores, hard=True))
    codes = one_hots.argmax(-1)
    assert codes.shape == (K, B, T) and len(codes.flatten(0, 1).unique(dim=0)) > 1
    torch.testing.assert_close(one_hots, F.one_hot(codes, V).double(), **NEAR)
    torch.testing.assert_close(logits, encoder.logits(x, codes), **NEAR)


def test_codes_follow_the_encoders_distribution(encoder: AutoregressiveEncoder, x: Tensor) -> None:
    """Symbol frequencies at every position against those of the cached sampler, within five standard errors."""
    torch.manual_seed(1)
    count = 4_000
    with torch.no_grad():
        one_hots, _ = encoder.unroll(x, count, lambda scores: F.gumbel_softmax(scores, hard=True))
    other = F.one_hot(encoder.sample(x, count)[0], V).double()
    assert float((one_hots.mean(0) - other.mean(0)).abs().max()) < 5 * math.sqrt(2 * 0.25 / count)


class Unrolled(nn.Module):
    """The encoder with `unroll`, of a smooth choice, as its forward pass."""

    def __init__(self, encoder: AutoregressiveEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        one_hots, logits = self.encoder.unroll(x, K, lambda scores: (2 * scores).softmax(-1))
        return torch.cat([one_hots * normal(K, 1, T, V), logits.log_softmax(-1)]).sum((0, 2, 3))


def test_mixtures_agree_with_finite_differences(encoder: AutoregressiveEncoder, x: Tensor) -> None:
    """With a smooth choice all is smooth."""
    module = Unrolled(encoder)
    names = [name for name, _ in module.named_parameters()]

    def value(x: Tensor, *parameters: Tensor) -> Tensor:
        found = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))
        assert isinstance(found, Tensor)
        return found

    inputs = (x.requires_grad_(), *[p.detach().requires_grad_() for p in module.parameters()])
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


@pytest.mark.parametrize("structure", ["free", "bits", "lattice"])
def test_the_input_table_holds_what_integers_look_up(structure: Structure) -> None:
    inputs = token_input(structure, 22, 4)
    table = input_table(inputs)
    assert table.shape == (23, 4) and torch.equal(table, inputs(torch.arange(23)))
    table.sum().backward()
    assert all(bool(p.grad.any()) for p in inputs.parameters())
