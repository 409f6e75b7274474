"""Scoring in half precision."""

import pytest
import torch

from builders import STEPS, build
from daps.architecture import Architecture
from daps.precision import multiplies_bfloat16, score_precision

CPU = torch.device("cpu")


def test_auto_is_half_precision_exactly_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.ones(2, 2), torch.ones(2, 2)
    for fast in (False, True):
        monkeypatch.setattr("daps.precision.multiplies_bfloat16", lambda _, fast=fast: fast)
        for scoring, half in (("float32", False), ("bfloat16", True), ("auto", fast)):
            with score_precision(scoring, CPU):  # type: ignore[arg-type]
                assert (a @ b).dtype == (torch.bfloat16 if half else torch.float32)


def test_the_processor_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities in ({}, {"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_bf16": False, "avx2": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert multiplies_bfloat16(CPU) == any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    assert not multiplies_bfloat16(torch.device("mps"))


def test_rewards_are_rounded_like_the_products_and_summed_in_full() -> None:
    """log p is that of rounded outputs, in float32: a sum in bfloat16 would be 2 nats apart from the next."""
    torch.manual_seed(0)
    decoder = Architecture(
        num_tokens=4, vocab_size=16, width=32, hidden=(64, 64), data_shape=(1, 28, 28), likelihood_kind="bernoulli"
    ).decoder()
    codes, y = torch.randint(16, (8, 32, 4)), (torch.rand(32, 1, 28, 28) < 0.5).float()
    with torch.no_grad():
        exact = decoder(codes).log_prob(y)
        with score_precision("bfloat16", CPU):
            half = decoder(codes).log_prob(y)
            outputs = decoder.net(decoder.embedding(codes).flatten(0, 1))
        rounded = decoder.likelihood(outputs.float().view(8, 32, 1, 1, 28, 28), 3).log_prob(y)
    assert outputs.dtype == torch.bfloat16 and half.dtype == torch.float32
    torch.testing.assert_close(half, rounded, rtol=1e-6, atol=0)
    assert 0 < (half - exact).abs().max() < 1  # of some 550 nats


def test_only_scores_without_gradient_are_rounded() -> None:
    """What is trained on is decoded in float32, and so is everything where all K are trained on."""
    x = torch.randint(256, (5, 6), generator=torch.Generator().manual_seed(1)).float()
    dtypes: list[torch.dtype] = []
    for trained in (0, 1):
        model = build(scoring="bfloat16", trained=trained).float()
        last = [module for module in model.decoder.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
        model(x, STEPS // 2)[0].backward()
    assert dtypes == [torch.float32, torch.bfloat16, torch.float32]
