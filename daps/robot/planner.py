"""The high-level policy: a sentence, a velocity and what the body did last -> the codes of the next window.

log p(z|c) is a sum over tokens, exact, from the same transformer that encodes: it emits symbols one by one and attends
to the conditions c. Any of the conditions may be left out; training leaves them out now and then, so that sampling can
be guided: logits l of the conditioned policy and l0 of the one without sentence and velocity make l0 + w (l - l0)
(classifier-free guidance, Ho and Salimans, 2022; on log-probabilities of symbols).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from daps.encoder import AutoregressiveEncoder, draw
from daps.nn.linear import linear
from daps.nn.transformer import Trunk
from daps.robot.labels import Command
from daps.robot.world import Normaliser
from daps.symbols import Structure

TEXT, COMMAND = 384, 3  # numbers of a sentence's vector; of a command: forward, left, turn


@dataclass(frozen=True)
class PlannerConfig:
    """Sizes of the policy."""

    width: int = 128
    """Channels of every token."""
    heads: int = 4
    """Attention heads."""
    trunk_layers: int = 2
    """Transformer blocks over the conditions."""
    token_layers: int = 3
    """Transformer blocks over the symbols."""
    mlp_ratio: int = 4
    """Hidden width of the perceptrons, in units of `width`."""
    structure: Structure = "lattice"
    """What symbols share, as in the tokenizer."""
    left_out: float = 0.15
    """Chance that training leaves out the sentence, and that it leaves out the velocity."""

    def __post_init__(self) -> None:
        if not 0 <= self.left_out < 1:
            raise ValueError(f"planner.left_out: a chance in [0, 1), got {self.left_out:g}")
        for name in ("width", "heads", "trunk_layers", "token_layers", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"planner.{name}: must be >= 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"planner.heads: must divide planner.width = {self.width}, got {self.heads}")


@dataclass(frozen=True)
class Conditions:
    """What plans are made from, a row each. `has_text` and `has_command` say what counts."""

    text: Float[Tensor, "N 384"]
    """Vectors of sentences."""
    command: Float[Tensor, "N 3"]
    """Planar velocity in the body's heading, m/s, and yaw rate, rad/s: means over the window."""
    past: Float[Tensor, "N F C"]
    """Features of the last frames (daps.motion)."""
    has_text: Bool[Tensor, " N"]
    has_command: Bool[Tensor, " N"]

    @staticmethod
    def of(
        past: Float[Tensor, "N F C"],
        text: Float[Tensor, "N 384"] | None = None,
        commands: Sequence[Command] | None = None,
    ) -> "Conditions":
        """From what there is."""
        rows = len(past)
        numbers = [(c.forward, c.left, c.turn) for c in commands] if commands else [(0.0, 0.0, 0.0)] * rows
        return Conditions(
            past.new_zeros(rows, TEXT) if text is None else text,
            past.new_tensor(numbers),
            past,
            torch.full((rows,), text is not None),
            torch.full((rows,), commands is not None),
        )

    def rows(self, index: Int[Tensor, " n"]) -> "Conditions":
        """Some of them."""
        return Conditions(
            self.text[index], self.command[index], self.past[index], self.has_text[index], self.has_command[index]
        )

    def without(self, text: Bool[Tensor, " N"], command: Bool[Tensor, " N"]) -> "Conditions":
        """The same, but for sentences and commands that are taken away where these are true."""
        return Conditions(self.text, self.command, self.past, self.has_text & ~text, self.has_command & ~command)

    def packed(self) -> Float[Tensor, "N P"]:
        """One row of numbers each, as `ConditionStem` takes them apart."""
        given = torch.stack((self.has_text, self.has_command), -1).to(self.past.dtype)
        return torch.cat((given, self.text, self.command, self.past.flatten(1)), -1)


class ConditionStem(nn.Module):
    """Packed conditions -> a vector for the sentence, one for the command and one for each past frame."""

    def __init__(self, frames: int, features: int, width: int) -> None:
        super().__init__()
        self.frames, self.features = frames, features
        self.commands, self.past = Normaliser(COMMAND), Normaliser(features)
        self.read_text, self.read_command = linear(TEXT, width), linear(COMMAND, width)
        self.read_past = linear(features, width)
        self.nothing = nn.Parameter(torch.randn(2, width) * 0.02)

    def forward(self, x: Float[Tensor, "N P"]) -> Float[Tensor, "N S D"]:
        """What is not given is a learned vector of its own."""
        given, text, command, past = x.split((2, TEXT, COMMAND, self.frames * self.features), -1)
        read = torch.stack((self.read_text(text), self.read_command(self.commands(command))), 1)
        read = torch.where(given.unsqueeze(-1) > 0, read, self.nothing)
        frames = self.read_past(self.past(past.unflatten(-1, (self.frames, self.features))))
        return torch.cat((read, frames), 1)


class Planner(nn.Module):
    """p(codes | conditions).

    Args:
        num_tokens, vocab_size: of the tokenizer.
        frames, features: of the past that it sees.
        config: sizes.

    `rest` is a past to begin with: features of a robot that stands.
    """

    rest: Tensor

    def __init__(
        self, num_tokens: int, vocab_size: int, frames: int, features: int, config: PlannerConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config = PlannerConfig() if config is None else config
        self.register_buffer("rest", torch.zeros(frames, features))
        stem = ConditionStem(frames, features, config.width)
        sizes = (config.heads, config.mlp_ratio)
        trunk = Trunk(stem, 2 + frames, config.width, config.trunk_layers, *sizes)
        self.policy = AutoregressiveEncoder(
            trunk, num_tokens, vocab_size, config.width, config.token_layers, *sizes, 1, config.structure
        )

    def fit_scales(self, conditions: Conditions) -> None:
        """Sets the units of commands and past frames from data."""
        stem = cast(ConditionStem, cast(Trunk, self.policy.trunk).stem)
        stem.commands.fit(conditions.command)
        stem.past.fit(conditions.past.flatten(0, 1))

    def log_prob(self, conditions: Conditions, codes: Int[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """log p of each token given the conditions and those before it, nats."""
        return self.policy.log_prob(conditions.packed(), codes.unsqueeze(0)).squeeze(0)

    def loss(
        self, conditions: Conditions, codes: Int[Tensor, "N T"], generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """-log p of codes, nats per window, with conditions left out by chance."""
        chances = torch.rand(2, len(codes), generator=generator)
        seen = conditions.without(*(chances < self.config.left_out))
        return -self.log_prob(seen, codes).sum(-1).mean()

    @torch.no_grad()
    def plan(
        self,
        conditions: Conditions,
        guidance: float = 1.0,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "N T"]:
        """Codes of the next windows.

        Args:
            conditions: what they are made from.
            guidance: w; 1 samples the policy itself, more follows sentence and velocity more closely.
            temperature: 1 samples, 0 takes the most likely symbol at each step.
            generator: source of the randomness; the global one if None.

        Raises:
            ValueError: a guidance below 0 or a negative temperature.
        """
        if not guidance >= 0:
            raise ValueError(f"guidance: must be >= 0, got {guidance:g}; 1 samples the policy, 2 follows more closely")
        packed = conditions.packed()
        if guidance == 1:
            return self.policy.sample(packed, 1, temperature, generator)[0][0]
        everything = torch.ones(len(packed), dtype=torch.bool)
        free = conditions.without(everything, everything).packed()

        def choose(logits: Tensor) -> Tensor:
            given, without = logits.log_softmax(-1).chunk(2)
            mixed = without + guidance * (given - without)
            uniforms = torch.rand(len(mixed), 1, generator=generator)
            symbols, _ = draw(mixed.squeeze(1), uniforms, temperature)
            one_hots = nn.functional.one_hot(symbols, logits.shape[-1]).to(logits.dtype)
            return torch.cat((one_hots, one_hots))

        one_hots, _ = self.policy.unroll(torch.cat((packed, free)), 1, choose)
        return one_hots[0, : len(packed)].argmax(-1)
