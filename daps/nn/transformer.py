"""Pre-LayerNorm transformer blocks, with keys and values held outside the modules.

Rows are ordered datum first: the K samples of one datum are neighbours, so [B*K, S, D] seen as [B, K*S, D]
lets all samples of a datum attend to the one copy of that datum's memory. Nothing is repeated K times.
"""

from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from daps.nn.linear import linear, mlp


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, each [N, H, S, D/H]."""

    keys: Float[Tensor, "N H S d"]
    values: Float[Tensor, "N H S d"]


class KVCache(NamedTuple):
    """Keys and values of the tokens emitted so far, all layers: a value that is passed in and returned.

    The buffers are shared between a cache and its successor (`advanced`), so use only the newest one.
    """

    keys: Float[Tensor, "L N H T d"]
    values: Float[Tensor, "L N H T d"]
    length: int

    @staticmethod
    def empty(layers: int, rows: int, heads: int, tokens: int, like: Tensor) -> "KVCache":
        """Room for `tokens` tokens of `rows` rows; width, dtype and device are those of `like` [..., D]."""
        shape = (layers, rows, heads, tokens, like.shape[-1] // heads)
        return KVCache(like.new_empty(shape), like.new_empty(shape), 0)

    def written(self, layer: int, new: KeyValue) -> KeyValue:
        """Stores the next tokens' keys and values of one layer and returns all of that layer's so far."""
        end = self.length + new.keys.shape[2]
        self.keys[layer, :, :, self.length : end] = new.keys
        self.values[layer, :, :, self.length : end] = new.values
        return KeyValue(self.keys[layer, :, :, :end], self.values[layer, :, :, :end])

    def advanced(self, tokens: int = 1) -> "KVCache":
        """The cache after so many more tokens."""
        return self._replace(length=self.length + tokens)

    def expanded(self, k: int) -> "KVCache":
        """Every row repeated k times, as neighbours: one prefix continued by k samples."""
        return KVCache(self.keys.repeat_interleave(k, 1), self.values.repeat_interleave(k, 1), self.length)


class KVTrail(NamedTuple):
    """A cache that gradients pass through: what each layer was given so far, joined anew at every step.

    The lists are shared between a trail and its successor, so use only the newest one.
    """

    past: tuple[list[KeyValue], ...]
    length: int

    @staticmethod
    def empty(layers: int) -> "KVTrail":
        """Of no tokens."""
        return KVTrail(tuple([] for _ in range(layers)), 0)

    def written(self, layer: int, new: KeyValue) -> KeyValue:
        """As KVCache.written."""
        self.past[layer].append(new)
        keys, values = zip(*self.past[layer], strict=True)
        return KeyValue(torch.cat(keys, 2), torch.cat(values, 2))

    def advanced(self, tokens: int = 1) -> "KVTrail":
        """The trail after so many more tokens."""
        return self._replace(length=self.length + tokens)


Cache = TypeVar("Cache", KVCache, KVTrail)


def sinusoids(positions: int, width: int) -> Float[Tensor, "S D"]:
    """Fixed sinusoidal position codes: sines in the even channels, cosines in the odd ones."""
    rates = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(positions)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = linear(width, 3 * width, bias=False)
        self.out = linear(width, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "N S D"],
        causal: int = 0,
        cache: KVCache | KVTrail | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "N S D"]:
        """Attends within x, or, given a cache, from the new tokens in x to themselves and all before them.

        `causal` is the length of the blocks in which tokens see one another and the past: 0 hides nothing, 1 is
        the usual causal mask.
        """
        query, keys, values = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            keys, values = cache.written(layer, KeyValue(keys, values))
        mask = _block_mask(x.shape[1], causal, x) if causal > 1 and cache is None else None
        first = causal == 1 and cache is None
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=first)
        return self.out(mixed.transpose(1, 2).flatten(2))


def _block_mask(tokens: int, block: int, like: Tensor) -> Tensor | None:
    """[S, S], true where token s may see token r: where r's block is not after s's. None if there is one block."""
    if block >= tokens:
        return None
    blocks = torch.arange(tokens, device=like.device) // block
    return blocks[:, None] >= blocks


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a memory, without biases; the K samples of a datum share its memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = linear(width, width, bias=False)
        self.project = linear(width, 2 * width, bias=False)
        self.out = linear(width, width, bias=False)

    def memory(self, context: Float[Tensor, "B P D"]) -> KeyValue:
        """Keys and values of the context: computed once per datum whatever K."""
        keys, values = self.project(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return KeyValue(keys, values)

    def forward(self, x: Float[Tensor, "N S D"], memory: KeyValue) -> Float[Tensor, "N S D"]:
        """Rows of x are datum first; N is B or B*K."""
        batch = memory.keys.shape[0]
        queries = x.shape[0] // max(batch, 1) * x.shape[1]  # of a datum: K S
        query = self.query(x).view(batch, queries, self.heads, x.shape[-1] // self.heads).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, memory.keys, memory.values)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Self-attention, cross-attention where `cross`, and a ReLU perceptron, each behind a LayerNorm."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, cross: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross = CrossAttention(width, heads) if cross else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = mlp((width, mlp_ratio * width, width))

    def memory(self, context: Float[Tensor, "B P D"]) -> KeyValue:
        """Keys and values of the context for this block's cross-attention."""
        assert self.cross is not None, "a block without cross-attention has no memory"
        return self.cross.memory(context)

    def forward(
        self,
        x: Float[Tensor, "N S D"],
        causal: int = 0,
        memory: KeyValue | None = None,
        cache: KVCache | KVTrail | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "N S D"]:
        """One residual block; `cache` and `layer` as in SelfAttention, `memory` as in CrossAttention."""
        x = x + self.attention(self.norm(x), causal, cache, layer)
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            x = x + self.cross(self.cross_norm(x), memory)
        return x + self.mlp(self.mlp_norm(x))


class Trunk(nn.Module):
    """x -> [B, P, D]: a stem that cuts x into P patches, sinusoidal positions, self-attention blocks."""

    def __init__(self, stem: nn.Module, patches: int, width: int, layers: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.patches, self.width = patches, width
        self.stem = stem
        self.register_buffer("positions", sinusoids(patches, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    positions: Tensor

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B P D"]:
        """One feature vector per patch."""
        h = self.stem(x) + self.positions
        for block in self.blocks:
            h = block(h)
        return self.norm(h)
