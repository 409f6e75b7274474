"""Encoders q(z|x): distributions over code sequences, with exact log-probabilities.

Every encoder speaks the same words: `sample` draws codes with their log q (no gradient), `log_prob` scores
given codes with gradient, `entropy` and `kl` are exact at each token given its prefix.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from daps.nn.transformer import Block, Cache, KeyValue, KVCache, KVTrail, Trunk, sinusoids
from daps.symbols import Structure, input_table, symbol_head, token_input


class Encoder(nn.Module, ABC):
    """q(z|x) over sequences of `num_tokens` symbols out of `vocab_size`."""

    num_tokens: int
    vocab_size: int
    shared = False  # whether one row of logits serves all samples of a datum
    deterministic = False  # whether q(z|x) puts all mass on one sequence

    @abstractmethod
    def sample(
        self,
        x: Float[Tensor, "B ..."],
        k: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Int[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """Draws k code sequences for each datum, without gradient.

        Args:
            x: data in model units.
            k: samples per datum.
            temperature: 1 samples q itself, less sharpens every token's distribution, 0 takes its mode (greedy).
            generator: source of the randomness; the global one if None. It may live on another device than x.

        Returns:
            codes, and their log q per token in nats: that of q itself, whatever the temperature.

        Raises:
            ValueError: k below 1, or a negative temperature.
        """

    @abstractmethod
    def logits(
        self, x: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]
    ) -> Float[Tensor, "K B T V"] | Float[Tensor, "1 B T V"]:
        """Unnormalised log q(z_t = v | x, z_<t) along the given codes; one row for all K where they share it."""

    def log_prob(self, x: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]) -> Float[Tensor, "K B T"]:
        """log q(z_t | x, z_<t) of given codes, nats, by teacher forcing, with gradient."""
        return token_log_prob(self.logits(x, codes), codes)

    def entropy(self, x: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]) -> Float[Tensor, "K B T"]:
        """Exact entropy of q(z_t | x, z_<t) at each token given its prefix, nats."""
        return token_entropy(self.logits(x, codes).log_softmax(-1)).expand(codes.shape)

    def kl(self, x: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]) -> Float[Tensor, "K B T"]:
        """Exact KL(q(z_t | x, z_<t) || uniform) at each token given its prefix, nats: log V - entropy.

        Summed over tokens and averaged over sampled prefixes it estimates KL(q(z|x) || V^-T) without bias.
        """
        return math.log(self.vocab_size) - self.entropy(x, codes)


class _Reading(NamedTuple):
    """What the tokens are told of x: keys and values for each layer, and a vector for each token, or none."""

    memories: list[KeyValue]
    guide: Tensor | None

    @property
    def batch(self) -> int:
        """B."""
        return len(self.memories[0].keys)

    def guided(self, h: Float[Tensor, "N b D"], first: int) -> Float[Tensor, "N b D"]:
        """Rows of h, B or B K in number and datum first, and what those of their tokens from `first` on are told."""
        if self.guide is None:
            return h
        told = self.guide[:, first : first + h.shape[1]]
        return h + told.repeat_interleave(len(h) // len(told), 0)


class AutoregressiveEncoder(Encoder):
    """q(z|x) = prod_t q(z_t | x, z_<t): a trunk over x and a causal transformer that attends to it.

    With blocks of b tokens, token t sees the blocks before its own, and the b tokens of a block are independent
    given these: T / b steps to sample instead of T, log q as exact. b = 1 is fully autoregressive, b = T parallel.

    Args:
        trunk: x -> [B, P, D]; run once per x whatever K. `Trunk`, or any module with that shape.
        width: D.
        layers, heads, mlp_ratio: of the token decoder.
        block: b, a divisor of T.
        structure: what symbols share, at the input and at the output.
        aligned: the trunk gives one patch per token, P = T, and token t reads patch t at its input, as in a parallel
            encoder, besides attending to all.

    Raises:
        ValueError: b does not divide T.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_tokens: int,
        vocab_size: int,
        width: int,
        layers: int = 1,
        heads: int = 4,
        mlp_ratio: int = 4,
        block: int = 1,
        structure: Structure = "free",
        aligned: bool = False,
    ) -> None:
        super().__init__()
        if block < 1 or num_tokens % block:
            raise ValueError(f"nets.block: must divide nets.num_tokens = {num_tokens}, got {block}; 1 emits one by one")
        self.num_tokens, self.vocab_size, self.heads, self.block = num_tokens, vocab_size, heads, block
        self.trunk, self.aligned = trunk, aligned
        # Row V is the start symbol. It is no code, so every code, 0 included, can be scored and emitted.
        self.embedding = token_input(structure, vocab_size, width)
        self.register_buffer("positions", sinusoids(num_tokens, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, cross=True) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = symbol_head(structure, vocab_size, width)

    positions: Tensor

    def logits(self, x: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]) -> Float[Tensor, "K B T V"]:
        """Row t depends on x and on the codes before t's block alone."""
        k, batch, tokens = codes.shape
        reading = self._read(x)
        if reading.batch != batch:
            raise ValueError(f"codes: must have shape [K, B = {reading.batch}, T] for this x, got {[*codes.shape]}")
        start = codes.new_full((batch, k, self.block), self.vocab_size)
        inputs = torch.cat([start, codes.transpose(0, 1)], dim=-1)[..., :tokens]
        h = reading.guided(self.embedding(inputs.flatten(0, 1)) + self.positions[:tokens], 0)
        for block, memory in zip(self.blocks, reading.memories, strict=True):
            h = block(h, causal=self.block, memory=memory)
        return self.head(self.norm(h)).unflatten(0, (batch, k)).transpose(0, 1)

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, "B ..."],
        k: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Int[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """See Encoder.sample. The first block's distribution is computed once for all K samples of a datum."""
        reading = self._read(x)
        batch, block = reading.batch, self.block
        uniforms = _uniforms((self.num_tokens, batch, k), self.positions, generator)
        tokens = torch.full((batch, block), self.vocab_size, device=self.positions.device)
        cache = KVCache.empty(len(self.blocks), batch, self.heads, self.num_tokens, self.positions)
        codes, log_q = [], []
        for t in range(0, self.num_tokens, block):
            logits, cache = self._next(self.embedding(tokens), reading, cache)
            chances = uniforms[t : t + block].movedim(0, 1)  # B b K
            if t == 0:
                drawn, log_prob = draw(logits.flatten(0, 1), chances.flatten(0, 1), temperature)
                drawn, log_prob = (values.view(batch, block, k).transpose(1, 2) for values in (drawn, log_prob))
                cache = cache.expanded(k)
            else:
                drawn, log_prob = draw(logits.flatten(0, 1), chances.transpose(1, 2).reshape(-1, 1), temperature)
                drawn, log_prob = (values.view(batch, k, block) for values in (drawn, log_prob))
            tokens = drawn.reshape(batch * k, block)
            codes.append(drawn)
            log_q.append(log_prob)
        return torch.cat(codes, -1).transpose(0, 1), torch.cat(log_q, -1).transpose(0, 1)

    def unroll(
        self,
        x: Float[Tensor, "B ..."],
        k: int,
        choose: Callable[[Float[Tensor, "N b V"]], Float[Tensor, "N b V"]],
    ) -> tuple[Float[Tensor, "K B T V"], Float[Tensor, "K B T V"]]:
        """Emits k code sequences for each datum with gradient, block by block, from the one-hots that `choose` makes.

        Args:
            x: data in model units.
            k: sequences per datum.
            choose: logits of a block -> one-hots, or mixtures of symbols, with a gradient of any kind. Later blocks
                read these.

        Returns:
            what was chosen, and the logits: for one-hots those of `logits` for these codes, with a gradient that
            passes through the inputs, too.
        """
        reading, table = self._read(x), input_table(self.embedding)
        vectors = table[-1].expand(reading.batch * k, self.block, -1)
        cache = KVTrail.empty(len(self.blocks))
        chosen, scores = [], []
        for _ in range(0, self.num_tokens, self.block):
            logits, cache = self._next(vectors, reading, cache)
            one_hots = choose(logits)
            vectors = one_hots @ table[:-1]
            chosen.append(one_hots)
            scores.append(logits)
        joined = [torch.cat(blocks, 1).unflatten(0, (-1, k)).transpose(0, 1) for blocks in (chosen, scores)]
        return joined[0], joined[1]

    def _read(self, x: Tensor) -> _Reading:
        context = self.trunk(x)
        memories = [cast(Block, block).memory(context) for block in self.blocks]
        return _Reading(memories, context if self.aligned else None)

    def _next(self, vectors: Tensor, reading: _Reading, cache: Cache) -> tuple[Tensor, Cache]:
        """Logits [N, b, V] of the block after the one with these vectors [N, b, D], and the cache that holds it."""
        h = reading.guided(vectors + self.positions[cache.length : cache.length + self.block], cache.length)
        for layer, (block, memory) in enumerate(zip(self.blocks, reading.memories, strict=True)):
            h = block(h, memory=memory, cache=cache, layer=layer)
        return self.head(self.norm(h)), cache.advanced(self.block)


class ParallelEncoder(Encoder):
    """q(z|x) = prod_t q(z_t | x): all tokens independent given x, one patch of x per token."""

    shared = True

    def __init__(self, trunk: Trunk, vocab_size: int, structure: Structure = "free") -> None:
        super().__init__()
        self.num_tokens, self.vocab_size = trunk.patches, vocab_size
        self.trunk = trunk
        self.head = symbol_head(structure, vocab_size, trunk.width)

    def logits(self, x: Float[Tensor, "B ..."], codes: Int[Tensor, "K B T"]) -> Float[Tensor, "1 B T V"]:
        """The same for every sample of a datum."""
        return self.head(self.trunk(x)).unsqueeze(0)

    @torch.no_grad()
    def sample(
        self,
        x: Float[Tensor, "B ..."],
        k: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Int[Tensor, "K B T"], Float[Tensor, "K B T"]]:
        """See Encoder.sample."""
        return sample_tokens(self.head(self.trunk(x)), k, temperature, generator)


@torch.no_grad()
def sample_tokens(
    logits: Float[Tensor, "B T V"],
    k: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "K B T"], Float[Tensor, "K B T"]]:
    """k sequences for each datum, of tokens that are independent given x, and log q of each token. See Encoder.sample.

    With the logits that `Encoder.logits` gives where one row serves all samples, a training step reads x once.
    """
    batch, tokens, _ = logits.shape
    uniforms = _uniforms((batch * tokens, k), logits, generator)
    codes, log_q = draw(logits.flatten(0, 1), uniforms, temperature)
    return codes.view(batch, tokens, k).movedim(2, 0), log_q.view(batch, tokens, k).movedim(2, 0)


def token_log_prob(logits: Float[Tensor, "_ B T V"], codes: Int[Tensor, "K B T"]) -> Float[Tensor, "K B T"]:
    """log q of each token under `Encoder.logits`, nats, with gradient."""
    codes = codes.long()
    if len(logits) < len(codes):  # shared by the samples: normalise once, then look up
        return logits[0].log_softmax(-1).gather(-1, codes.movedim(0, -1)).movedim(-1, 0)
    rows, targets = logits.transpose(0, 1), codes.transpose(0, 1)  # datum first, as encoders lay them out
    nats = F.cross_entropy(rows.flatten(0, -2), targets.flatten(), reduction="none")
    return -nats.view(targets.shape).transpose(0, 1)


def token_entropy(log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """Entropy of each token's distribution from its log-probabilities, nats; impossible symbols add nothing."""
    return -(log_q.exp() * log_q.where(log_q > -torch.inf, 0.0)).sum(-1)


def draw(
    logits: Float[Tensor, "N V"], uniforms: Float[Tensor, "N M"], temperature: float
) -> tuple[Int[Tensor, "N M"], Float[Tensor, "N M"]]:
    """M symbols of each row's softmax(logits / temperature), by inversion of its cumulative distribution.

    One uniform in [0, 1) a symbol, against V exponentials for the Gumbel trick. Temperature 0 takes the mode.

    Returns:
        symbols, and their log-probabilities under softmax(logits).

    Raises:
        ValueError: a negative temperature.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature: must be >= 0 (0 is greedy), got {temperature:g}; try 1")
    if logits.dtype != torch.float64:
        logits = logits.float()  # half precision would make rare symbols impossible
    shifted = logits - logits.amax(-1, keepdim=True)
    mass = shifted.exp()
    if temperature == 0:
        symbols = logits.argmax(-1, keepdim=True).expand(uniforms.shape)
    else:
        cumulative = (mass if temperature == 1 else (shifted / temperature).exp()).cumsum(-1)
        thresholds = uniforms * cumulative[:, -1:]
        symbols = torch.searchsorted(cumulative, thresholds, right=True).clamp(max=logits.shape[-1] - 1)
    return symbols, shifted.gather(-1, symbols) - mass.sum(-1, keepdim=True).log()


def _uniforms(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniforms in [0, 1) on like's device, drawn where the generator lives."""
    if shape[-1] < 1:
        raise ValueError(f"k: must be >= 1 sample per datum, got {shape[-1]}")
    device = like.device if generator is None else generator.device
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.rand(shape, generator=generator, device=device, dtype=dtype).to(like.device)
