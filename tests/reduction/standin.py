"""Small things to reduce: tokens made from a seed, and a model with slots that is no Vision Mamba."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from rmeeto.tokens import Features, Tokens


def random_tokens(batch=2, n=12, k=1, c=6, *, seed=0, dtype=torch.float32, sized=False):
    """Tokens as a block leaves them: protected ones anywhere, all features set."""
    generator = torch.Generator().manual_seed(seed)

    def normal(width):
        return torch.randn(batch, n, width, generator=generator).to(dtype)

    places = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(batch)])
    size = torch.randint(1, 6, (batch, n), generator=generator).float() if sized else None
    both = {name: (normal(d), normal(d)) for name, d in (("B", 4), ("C", 4), ("delta", 8), ("k", 3))}
    return Tokens(normal(c), places, size=size, features=Features(normal(c), **both))


class Block(nn.Module):
    """Mixes tokens a little, so that merging early changes what happens late."""

    def __init__(self, c):
        super().__init__()
        self.mix = nn.Linear(c, c, bias=False)

    def forward(self, tokens):
        hidden = self.mix(tokens.x) + 0.1 * tokens.x.cumsum(1) / tokens.x.shape[1]
        if tokens.time is not None:
            hidden = hidden * tokens.time.unsqueeze(-1).to(hidden.dtype)
        return replace(tokens, x=tokens.x + hidden, features=Features(hidden, delta=(hidden, hidden.abs())))


class StandIn(nn.Module):
    """(b, n, c) values -> (b, c) the class token at the end; `k` protected tokens, the class token in the middle."""

    def __init__(self, depth=4, n=20, c=6, k=1):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(c) for _ in range(depth))
        self.slots = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.num_tokens, self.num_protected = n, k
        self.places = [n // 2, 0, n - 1][:k]

    def tokens(self, x):
        tokens = Tokens(x, torch.tensor(self.places, device=x.device).expand(x.shape[0], -1))
        for block, slot in zip(self.blocks, self.slots, strict=True):
            tokens = slot(block(tokens))
        return tokens

    def forward(self, x):
        tokens = self.tokens(x)
        return tokens.x.gather(1, tokens.places[:, :1, None].expand(-1, -1, x.shape[-1])).squeeze(1)
