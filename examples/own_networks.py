"""DAPS on your own encoder and decoder: write `logits` and `sample`, and return a distribution from the decoder."""

import torch
from torch import nn
from torch.distributions import Independent, Normal

from daps.encoder import Encoder, draw
from daps.methods import DAPS, DAPSConfig


class MyEncoder(Encoder):
    num_tokens, vocab_size = 4, 8

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 4 * 8))

    def logits(self, x, codes):  # [1, B, T, V]: here every token is independent given x
        return self.net(x).view(1, -1, 4, 8)

    @torch.no_grad()
    def sample(self, x, k, temperature=1.0, generator=None):  # codes and log q, both [K, B, T]
        rows, u = self.logits(x, None).flatten(0, 2), torch.rand(4 * len(x), k, generator=generator)
        return [s.view(-1, 4, k).movedim(2, 0) for s in draw(rows, u, temperature)]


class MyDecoder(nn.Linear):
    def forward(self, codes):  # [K, B, T] -> a distribution over x with batch shape [K, B]
        return Independent(Normal(super().forward(nn.functional.one_hot(codes, 8).float().flatten(-2)), 0.1), 1)


model = DAPS(MyEncoder(), MyDecoder(32, 2), data_shape=(2,), config=DAPSConfig(samples=16), steps=1000)
optimizer = torch.optim.AdamW(model.parameter_groups(learning_rate=3e-3, weight_decay=1e-4))
for step in range(1000):
    optimizer.zero_grad()
    model(torch.randn(128, 2), step)[0].backward()
    optimizer.step()
x = torch.randn(1000, 2)
print(f"{model.bits:.0f} bits, mean squared error {(model.decode(model.encode(x)).mean - x).square().mean():.4f}")
