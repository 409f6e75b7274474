"""Problems small enough to try every draw of the encoder, and the mean gradient over all of them."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from daps.architecture import Architecture
from daps.encoder import Encoder
from daps.methods import Autoencoder, MethodConfig
from daps.proposal import Rollout, Sampled
from daps.scaling import Affine

STEPS = 10


def small(config: MethodConfig, kind: str, tokens: int = 3, symbols: int = 3) -> Autoencoder:
    """A model in float64 with symbols ** tokens codes, for data of 4 numbers."""
    torch.manual_seed(0)
    nets = Architecture(
        num_tokens=tokens, vocab_size=symbols, width=8, heads=2, patches=(tokens,), hidden=(8,), variance=(0.1, 1.0),
        data_shape=(4,), encoder_kind=kind,
    )  # fmt: skip
    return config.build(nets, Affine(), STEPS).double()


def every_code(model: Autoencoder) -> Tensor:
    """All codes [V^T, T]."""
    return torch.tensor(list(itertools.product(range(model.vocab_size), repeat=model.num_tokens)))


def log_joint(model: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log q(z|x) of every code [V^T], of one datum x [1, ...], with gradient."""
    codes = every_code(model).unsqueeze(1)
    y = model.scaling(x)
    return model.decoder(codes).log_prob(y)[:, 0], model.encoder.log_prob(y, codes).sum(-1)[:, 0]


def draw_these(monkeypatch: pytest.MonkeyPatch, codes: Tensor, log_q: Tensor | None = None) -> None:
    """Makes `Sampled` draw these codes [K, B, T], with their log q unless another is given."""

    def drawn(self: Sampled, encoder: Encoder, decoder: nn.Module, y: Tensor, samples: int) -> Rollout:
        logits = encoder.logits(y, codes) if encoder.shared else None
        found = encoder.log_prob(y, codes).detach() if log_q is None else log_q
        return Rollout(codes, found, torch.zeros((), dtype=found.dtype), logits)

    monkeypatch.setattr(Sampled, "__call__", drawn)


def gradients_of(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    """Gradients of a scalar, of every trained parameter; zero where it does not depend on one."""
    model.zero_grad()
    value.backward()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named.items()}


def mean_gradients(
    model: Autoencoder,
    x: Tensor,
    samples: int,
    monkeypatch: pytest.MonkeyPatch,
    step: int = 0,
    others: tuple[nn.Module, ...] = (),
) -> dict[str, Tensor]:
    """The mean gradient of the loss of one datum x [1, ...], over all draws of K codes from q.

    One batch holds every draw in a row of its own; what comes back along a row is weighted by its chance, also through
    `others`, modules that read x.
    """
    codes, log_q = every_code(model), log_joint(model, x)[1].detach()
    draws = torch.cartesian_prod(*[torch.arange(len(codes))] * samples).view(-1, samples).T
    weights = log_q[draws].sum(0).exp() * draws.shape[1]
    assert float(weights.mean()) == pytest.approx(1, rel=1e-9)  # the chances of all draws add up to one

    def weighted(output: Tensor, batch_axis: int) -> Tensor:
        if output.requires_grad:
            rows = weights.repeat(output.shape[batch_axis] // len(weights))
            rows = rows.view(*[1] * batch_axis, -1, *[1] * (output.ndim - batch_axis - 1))
            output.register_hook(lambda gradient: gradient * rows)
        return output

    logits = model.encoder.logits
    with monkeypatch.context() as patch:
        patch.setattr(model.encoder, "logits", lambda y, given: weighted(logits(y, given), 1))
        draw_these(patch, codes[draws])
        handles = [
            module.register_forward_hook(lambda module, inputs, output: weighted(output, 0))
            for module in (model.decoder.net, *others)
        ]
        loss, _ = model(x.expand(len(weights), *x.shape[1:]), step)
        for handle in handles:
            handle.remove()
    return gradients_of(model, loss)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], part: str = "") -> None:
    """To float64's rounding over some thousand terms, of the parameters whose name begins with `part`; not all zero."""
    names = [name for name in found if name.startswith(part)]
    assert any(bool(expected[name].any()) for name in names)
    for name in names:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )
