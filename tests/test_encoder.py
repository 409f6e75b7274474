"""Encoders against enumeration of all their codes, and cached sampling against teacher forcing."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, entropy
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.encoder import AutoregressiveEncoder, Encoder, draw
from daps.nn.transformer import Block, KVCache

T, V, B = 4, 4, 5
KINDS: dict[str, dict[str, Any]] = {
    "autoregressive": {},
    "blocks of 2": {"block": 2},
    "one block": {"block": T},
    "parallel": {"encoder_kind": "parallel"},
    "bits": {"structure": "bits"},
    "lattice, blocks of 2": {"structure": "lattice", "block": 2},
    "aligned": {"aligned": True},
    "aligned, blocks of 2": {"aligned": True, "block": 2},
    "parallel lattice": {"encoder_kind": "parallel", "structure": "lattice"},
}
NETS = Architecture(
    num_tokens=T, vocab_size=V, width=8, heads=2, patches=(T,), trunk_layers=1, token_layers=2, data_shape=(8,)
)
NEAR = {"rtol": 1e-12, "atol": 1e-12}  # float64, some hundred roundings


def build(kind: str, seed: int = 0) -> Encoder:
    """A small encoder in float64 whose distributions are far from uniform."""
    torch.manual_seed(seed)
    encoder = dataclasses.replace(NETS, **KINDS[kind]).encoder().double()
    with torch.no_grad():
        (encoder.head.weight if isinstance(encoder.head, nn.Linear) else encoder.head.vectors.shared).mul_(2)
    return encoder


def block_of(encoder: Encoder) -> int:
    """Tokens that are independent given those before; all of them in a parallel encoder."""
    return encoder.block if isinstance(encoder, AutoregressiveEncoder) else T


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return build(request.param)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def all_codes(batch: int = B) -> Tensor:
    """Every code there is, [V**T, batch, T], the last token fastest."""
    codes = torch.tensor(list(itertools.product(range(V), repeat=T)))
    return codes[:, None].expand(-1, batch, -1)


def joint(encoder: Encoder, x: Tensor) -> Tensor:
    """q(z|x) of every code, [V**T, B]."""
    with torch.no_grad():
        return encoder.log_prob(x, all_codes(len(x))).sum(-1).exp()


# -- probabilities ---------------------------------------------------------------------------------


def test_the_probabilities_of_all_codes_sum_to_one(encoder: Encoder, x: Tensor) -> None:
    q = joint(encoder, x)
    torch.testing.assert_close(q.sum(0), torch.ones(B, dtype=torch.float64), **NEAR)
    assert bool((q.amax(0) > 4 * V**-T).all())  # so that a uniform q would not pass for it


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5, 0.0])
def test_sampled_log_q_is_teacher_forced_log_q(encoder: Encoder, x: Tensor, temperature: float) -> None:
    codes, log_q = encoder.sample(x, 200, temperature, seeded(0))
    assert codes.shape == log_q.shape == (200, B, T) and not log_q.requires_grad
    if temperature >= 1:  # every symbol, 0 and V-1 too, at every position
        assert all(set(codes[..., t].unique().tolist()) == set(range(V)) for t in range(T))
    torch.testing.assert_close(log_q, encoder.log_prob(x, codes).detach(), **NEAR)


@pytest.mark.parametrize("symbol", range(V))
def test_sampled_log_q_of_each_symbol_in_a_row(encoder: Encoder, x: Tensor, symbol: int) -> None:
    with torch.no_grad():
        encoder.head.bias[symbol] += 100
    codes, log_q = encoder.sample(x, 3, generator=seeded(0))
    assert bool((codes == symbol).all())
    torch.testing.assert_close(log_q, encoder.log_prob(x, codes).detach(), **NEAR)
    others = (codes + 1) % V
    assert bool((encoder.log_prob(x, others) < -50).all())


def test_log_prob_is_a_row_of_the_logits(encoder: Encoder, x: Tensor) -> None:
    codes = all_codes()
    logits = encoder.logits(x, codes).expand(*codes.shape, V)
    log_q = logits - logits.logsumexp(-1, keepdim=True)
    expected = sum(log_q[..., v] * (codes == v) for v in range(V))
    torch.testing.assert_close(encoder.log_prob(x, codes), expected, **NEAR)
    torch.testing.assert_close(encoder.log_prob(x, codes[:1]), expected[:1], **NEAR)


def test_the_expected_score_is_zero(encoder: Encoder, x: Tensor) -> None:
    q = joint(encoder, x)
    (q * encoder.log_prob(x, all_codes()).sum(-1)).sum().backward()
    gradients = [p.grad for p in encoder.parameters()]
    assert all(float(g.abs().max()) < 1e-12 for g in gradients if g is not None)
    encoder.zero_grad()
    encoder.log_prob(x, all_codes()[:1]).sum().backward()
    assert all(float(p.grad.abs().max()) > 1e-6 for p in encoder.head.parameters())


def test_entropy_and_kl_are_those_of_the_enumerated_conditionals(encoder: Encoder, x: Tensor) -> None:
    codes = all_codes()
    q = joint(encoder, x).numpy().reshape(*[V] * T, B)
    marginals = [q.sum(tuple(range(t, T))) for t in range(1, T + 1)]  # of the first 1, 2, ... tokens
    entropies = np.empty((*[V] * T, B, T))
    for t, marginal in enumerate(marginals):  # over token t, given those before: scipy normalises
        entropies[..., t] = entropy(marginal, axis=t)[(*[slice(None)] * t, *[None] * (T - t))]
    exact = torch.from_numpy(entropies).view(V**T, B, T)
    with torch.no_grad():
        torch.testing.assert_close(encoder.entropy(x, codes), exact, **NEAR)
        kl = encoder.kl(x, codes)
    torch.testing.assert_close(kl, math.log(V) - exact, **NEAR)

    flat = torch.from_numpy(q.reshape(V**T, B))
    to_uniform = (flat * (flat.log() + T * math.log(V))).sum(0)
    torch.testing.assert_close((flat * kl.sum(-1)).sum(0), to_uniform, **NEAR)
    codes, log_q = encoder.sample(x, 4000, generator=seeded(0))
    kl = encoder.kl(x, codes).sum(-1).detach()
    error = kl.std(0) / 4000**0.5
    assert bool(((kl.mean(0) - to_uniform).abs() <= 5 * error + 1e-12).all())


# -- causality and sharing -------------------------------------------------------------------------


@pytest.mark.parametrize("t", range(T))
def test_a_token_moves_the_logits_of_later_blocks_alone(encoder: Encoder, x: Tensor, t: int) -> None:
    codes, block = all_codes()[:7], block_of(encoder)
    changed = codes.clone()
    changed[..., t] = (changed[..., t] + 1) % V
    with torch.no_grad():
        moved = (encoder.logits(x, changed) - encoder.logits(x, codes)).abs().amax(-1)
    later = (t // block + 1) * block
    assert bool((moved[..., :later] < 1e-13).all()) and bool((moved[..., later:] > 1e-6).all())
    if block == T:
        assert bool((moved == 0).all())


def attention(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v of two heads side by side, over what is seen."""
    heads = []
    for h in range(2):
        q, k, v = (part.chunk(2, dim=-1)[h] for part in (query, keys, values))
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, -1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "parallel" not in kind])
def test_logits_are_those_of_a_masked_transformer(kind: str, x: Tensor) -> None:
    """Blocks of one are the usual causal mask."""
    encoder = build(kind)
    assert isinstance(encoder, AutoregressiveEncoder)
    codes = torch.randint(V, (3, B, T), generator=seeded(0))
    context, block = encoder.trunk(x), encoder.block
    everything = torch.ones(T, T, dtype=torch.bool)
    past = torch.tensor([[s // block <= t // block for s in range(T)] for t in range(T)])
    for k in range(3):
        tokens = torch.full((B, T), V)
        tokens[:, block:] = codes[k, :, : T - block]
        h = encoder.embedding(tokens) + encoder.positions + (context if encoder.aligned else 0)
        for layer in encoder.blocks:
            q, keys, values = layer.attention.project(layer.norm(h)).chunk(3, dim=-1)
            h = h + layer.attention.out(attention(q, keys, values, past))
            keys, values = layer.cross.project(context).chunk(2, dim=-1)
            h = h + layer.cross.out(attention(layer.cross.query(layer.cross_norm(h)), keys, values, everything))
            h = h + layer.mlp(layer.mlp_norm(h))
        torch.testing.assert_close(encoder.logits(x, codes)[k], encoder.head(encoder.norm(h)), **NEAR)


@pytest.mark.parametrize("k", [1, 7])
def test_the_trunk_runs_once_whatever_k(encoder: Encoder, x: Tensor, k: int) -> None:
    rows: list[int] = []
    encoder.trunk.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    codes, _ = encoder.sample(x, k)
    assert rows == [B]
    encoder.log_prob(x, codes)
    assert rows == [B, B]


def test_samples_share_the_first_distribution_and_belong_to_their_datum(encoder: Encoder, x: Tensor) -> None:
    codes, log_q = encoder.sample(x, 50, generator=seeded(0))
    first = encoder.logits(x, codes)[..., 0, :].log_softmax(-1).detach()
    torch.testing.assert_close(first, first[:1].expand_as(first), **NEAR)
    torch.testing.assert_close(log_q[..., 0], first[0].expand(50, -1, -1).gather(-1, codes[..., :1])[..., 0], **NEAR)
    for b in range(B):
        alone = encoder.log_prob(x[b : b + 1], codes[:, b : b + 1]).detach()
        torch.testing.assert_close(log_q[:, b : b + 1], alone, **NEAR)


def test_a_block_with_a_cache_recomputes_nothing_and_changes_nothing() -> None:
    torch.manual_seed(0)
    k, batch, tokens, width = 3, 2, 4, 8
    blocks = [Block(width, 2, 4, cross=True).double() for _ in range(2)]
    context = torch.randn(batch, 5, width, dtype=torch.float64)
    inputs = torch.randn(batch * k, tokens, width, dtype=torch.float64)
    inputs[:, 0] = inputs[::k, 0].repeat_interleave(k, 0)  # the samples of a datum begin alike
    memories = [block.cross.memory(context) for block in blocks]
    full = inputs
    for block, memory in zip(blocks, memories, strict=True):
        full = block(full, causal=True, memory=memory)

    with torch.no_grad():
        cache, rows = KVCache.empty(2, batch, 2, tokens, context), inputs[::k]
        for t in range(tokens):
            h = rows[:, t : t + 1]
            for layer, (block, memory) in enumerate(zip(blocks, memories, strict=True)):
                h = block(h, memory=memory, cache=cache, layer=layer)
            cache = cache.advanced()
            torch.testing.assert_close(h[:, 0], full[:: k if t == 0 else 1, t].detach(), **NEAR)
            if t == 0:
                cache, rows = cache.expanded(k), inputs
    assert cache.length == tokens


# -- sampling --------------------------------------------------------------------------------------


def tempered(encoder: Encoder, x: Tensor, temperature: float) -> Tensor:
    """Probability of every code [V**T] where each token's distribution is sharpened by the temperature."""
    codes = all_codes(1)
    with torch.no_grad():
        log_q = (encoder.logits(x, codes) / temperature).log_softmax(-1).expand(*codes.shape, V)
    return log_q.gather(-1, codes.unsqueeze(-1)).sum((-1, -2)).exp()[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_sampled_frequencies_are_the_exact_probabilities(encoder: Encoder, x: Tensor, temperature: float) -> None:
    count, weights = 20_000, V ** torch.arange(T - 1, -1, -1)
    codes, _ = encoder.sample(x[:1], count, temperature, seeded(3))
    seen = torch.bincount((codes[:, 0] * weights).sum(-1), minlength=V**T).double()
    expected = tempered(encoder, x[:1], temperature) * count
    rare = expected < 5  # chi-square's usual bound: pool what lies below
    pooled = [torch.cat([f[~rare], f[rare].sum()[None]]).numpy() + 1e-9 for f in (seen, expected)]
    assert chisquare(pooled[0], pooled[1]).pvalue > 1e-3  # the seed is fixed: this never flickers
    assert chisquare(pooled[0], np.roll(pooled[1], 1)).pvalue < 1e-12  # and it would notice another q


def test_greedy_takes_the_mode_of_each_token(encoder: Encoder, x: Tensor) -> None:
    codes = torch.zeros(1, B, T, dtype=torch.long)
    for t in range(T):
        codes[..., t] = encoder.logits(x, codes)[..., t, :].argmax(-1)
    for generator in (None, seeded(1)):
        greedy, log_q = encoder.sample(x, 2, 0.0, generator)
        assert torch.equal(greedy, codes.expand(2, -1, -1))
        torch.testing.assert_close(log_q, encoder.log_prob(x, greedy).detach(), **NEAR)


def test_a_seed_fixes_the_codes(encoder: Encoder, x: Tensor) -> None:
    first, again, other = (encoder.sample(x, 20, generator=seeded(s))[0] for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    torch.manual_seed(5)
    assert torch.equal(encoder.sample(x, 20)[0], first)


def test_any_module_of_the_right_shape_serves_as_trunk(x: Tensor) -> None:
    trunk = nn.Sequential(nn.Linear(8, 16), nn.Unflatten(-1, (2, 8)))
    encoder = AutoregressiveEncoder(trunk, num_tokens=T, vocab_size=V, width=8, layers=1, heads=2).double()
    torch.testing.assert_close(joint(encoder, x).sum(0), torch.ones(B, dtype=torch.float64), **NEAR)


@pytest.mark.parametrize("block", [0, 3, 5, 8])
def test_a_block_that_does_not_divide_the_tokens_is_refused(block: int) -> None:
    with pytest.raises(ValueError, match=rf"nets.block: must divide nets.num_tokens = 4, got {block}; 1 emits one by"):
        dataclasses.replace(NETS, block=block).encoder()


def test_an_aligned_encoder_without_attention_is_the_parallel_one(x: Tensor) -> None:
    """Token t reads patch t: with nothing else to read, its logits are the head's of that patch."""
    encoder = build("aligned")
    assert isinstance(encoder, AutoregressiveEncoder)
    with torch.no_grad():
        encoder.positions.zero_()
        encoder.embedding.weight.zero_()
        for name, weight in encoder.blocks.named_parameters():
            if "out" in name or "mlp" in name:
                weight.zero_()
        expected = encoder.head(encoder.norm(encoder.trunk(x)))
        torch.testing.assert_close(encoder.logits(x, all_codes()[:3])[1], expected, **NEAR)


def test_an_aligned_encoder_wants_one_patch_per_token() -> None:
    with pytest.raises(ValueError, match=r"nets.patches: an aligned encoder needs one patch per token, got \(2,\)"):
        dataclasses.replace(NETS, aligned=True, patches=(2,)).encoder()


# -- draw ------------------------------------------------------------------------------------------

BELOW_ONE = 1 - 2**-24  # the largest that torch.rand makes in float32


def drawn(logits: list[float], uniforms: list[float], temperature: float = 1.0) -> tuple[list[int], list[float]]:
    """Symbols and log-probabilities of one row, in float32."""
    symbols, log_q = draw(torch.tensor([logits]), torch.tensor([uniforms]), temperature)
    return symbols[0].tolist(), log_q[0].tolist()


def test_draw_inverts_the_cumulative_distribution() -> None:
    logits = [math.log(p) for p in (0.125, 0.5, 0.25, 0.125)]
    symbols, log_q = drawn(logits, [0, 0.124, 0.126, 0.624, 0.626, 0.874, 0.876, BELOW_ONE])
    assert symbols == [0, 0, 1, 1, 2, 2, 3, 3]
    assert log_q == pytest.approx([logits[s] for s in symbols], rel=1e-6)


@pytest.mark.parametrize("nothing", [-math.inf, -1e4])
def test_a_symbol_of_no_probability_is_never_drawn(nothing: float) -> None:
    symbols, log_q = drawn([nothing, 0.0, nothing, 0.0, nothing], [0.0, 1e-38, 0.499, 0.5, 0.501, BELOW_ONE])
    assert symbols == [1, 1, 1, 3, 3, 3]
    assert log_q == pytest.approx([-math.log(2)] * 6, rel=1e-6)


def test_the_last_uniform_never_falls_off_the_end() -> None:
    generator = seeded(0)
    logits = torch.randn(2000, 64, generator=generator) * 5
    logits[:, -3:] = -torch.inf
    symbols, log_q = draw(logits, torch.full((2000, 1), BELOW_ONE), 1.0)
    assert int(symbols.max()) <= 60 and bool(log_q.isfinite().all())


@pytest.mark.parametrize("level", [1e4, -1e4, 0.0])
def test_draw_is_stable_at_extreme_logits(level: float) -> None:
    for temperature in (1.0, 0.5, 1e-6, 0.0):
        symbols, log_q = drawn([level, level - 2e4, level], [0.0, 0.25, BELOW_ONE], temperature)
        assert symbols == ([0, 0, 0] if temperature == 0 else [0, 0, 2])
        assert log_q == pytest.approx([-math.log(2)] * 3, rel=1e-6)


def test_temperature_sharpens_the_draw_and_not_its_log_q() -> None:
    logits = [math.log(0.25), math.log(0.75)]  # at temperature 1/2: 0.1, 0.9
    symbols, log_q = drawn(logits, [0.099, 0.101, 0.5], 0.5)
    assert symbols == [0, 1, 1]
    assert log_q == pytest.approx([logits[0], logits[1], logits[1]], rel=1e-6)


def test_a_negative_temperature_is_refused(encoder: Encoder, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"temperature: must be >= 0 \(0 is greedy\), got -1; try 1"):
        encoder.sample(x, 1, -1.0)
