"""Blocks in a row with a slot after each: the place where reduction may stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from timm.layers import DropPath
from torch import nn

from rmeeto.models.configs import VimConfig
from rmeeto.models.mixer import Mixer
from rmeeto.tokens import Tokens


class Block(nn.Module):
    """x <- x + drop_path(mixer(norm(x))), and what the mixer computed travels on as features."""

    def __init__(self, config: VimConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.mixer = Mixer(config)
        self.norm = nn.RMSNorm(config.embed_dim, eps=config.norm_eps)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, tokens: Tokens) -> Tokens:
        features = self.mixer(self.norm(tokens.x), tokens.time)
        return replace(tokens, x=tokens.x + self.drop_path(features.hidden), features=features)


def run(tokens: Tokens, blocks: Iterable[nn.Module], slots: Iterable[nn.Module]) -> Tokens:
    """Pass tokens through each block and the slot behind it."""
    for block, slot in zip(blocks, slots, strict=True):
        tokens = slot(block(tokens))
    return tokens
