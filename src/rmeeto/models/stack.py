"""Blocks in a row with a slot after each: the place where reduction may stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal, Protocol, cast, runtime_checkable

from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rmeeto import ops
from rmeeto._bare import is_bare, is_watched
from rmeeto.models.configs import VimConfig
from rmeeto.models.layers import Linear, RMSNorm, parameter
from rmeeto.models.mixer import Mixer
from rmeeto.tokens import Tokens


@runtime_checkable
class Merger(Protocol):
    """What may stand in a slot and be done in one go with the block in front."""

    @property
    def feature(self) -> Literal["hidden", "x"]:
        """What is compared: the mixer's output, or the stream."""

    def merging(self, tokens: Tokens) -> ops.Merging | None:
        """How the tokens, as they enter the block, will be merged behind it; None where it takes more than that."""

    def after(self, tokens: Tokens, made: ops.Merged) -> Tokens:
        """The tokens of which that was made."""


class Block(nn.Module):
    """x <- x + drop_path(mixer(norm(x))), and what the mixer computed travels on as features."""

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        self.mixer = Mixer(config)
        self.norm = RMSNorm(config.embed_dim, eps=config.norm_eps)
        self.drop_path = DropPath(0.0)

    def forward(self, tokens: Tokens) -> Tokens:
        if self._is_one():
            mixer = self.mixer
            made = ops.block(tokens.x, *self._weights(), tokens.time, eps=self.norm.eps, scale=mixer.scale)
            return tokens.computed(made.y, mixer.features(made.hidden, made.projected))
        features = self.mixer(self.norm(tokens.x), tokens.time)
        return tokens.computed(tokens.x + self.drop_path(features.hidden), features)

    def merged(self, tokens: Tokens, slot: Merger) -> Tokens | None:
        """Tokens after the block and the merge in the slot behind it, in one go; None where that must be two."""
        if not (is_bare(self, Block) and self._is_one()) or (merging := slot.merging(tokens)) is None:
            return None
        made = ops.merged_block(
            tokens.x,
            *self._weights(),
            tokens.time,
            tokens.size,
            tokens.places,
            merging,
            feature=slot.feature,
            eps=self.norm.eps,
            scale=self.mixer.scale,
        )
        return slot.after(tokens, made)

    def _weights(self) -> tuple[Tensor, Tensor, tuple[ops.Direction, ops.Direction], Tensor]:
        mixer = self.mixer
        return (
            parameter(self.norm, "weight"),
            parameter(mixer.in_proj, "weight"),
            mixer.directions,
            parameter(mixer.out_proj, "weight"),
        )

    def _is_one(self) -> bool:
        """Whether nobody has changed or watches a part, so that all parts may be computed in one go."""
        mixer = self.mixer
        return (
            is_bare(mixer, Mixer)
            and is_bare(self.norm, RMSNorm)
            and is_bare(mixer.in_proj, Linear)
            and is_bare(mixer.out_proj, Linear)
            and is_bare(self.drop_path, DropPath)
            and not (self.training and self.drop_path.drop_prob)
            and not is_watched()
        )

    # torch.compile asks once and keeps the answer, instead of asking all of it in front of every call.
    _is_one._dynamo_marked_constant = True  # type: ignore[attr-defined]


# How a block is run: its plain call, or another that gives the same.
Call = Callable[[nn.Module, Tokens], Tokens]


def plainly(block: nn.Module, tokens: Tokens) -> Tokens:
    """Call the block."""
    result: Tokens = block(tokens)
    return result


def recomputing(block: nn.Module, tokens: Tokens) -> Tokens:
    """Call the block, keep nothing of it but its input, and compute it again for the gradients."""
    bare = replace(tokens, features=None)

    def call(x: Tensor, time: Tensor | None) -> Tokens:
        result: Tokens = block(replace(bare, x=x, time=time))
        return result

    # The tensors by themselves: of what is inside another object, checkpointing finds neither device nor random state.
    result: Tokens = checkpoint(call, tokens.x, tokens.time, use_reentrant=False)
    return result


def run(tokens: Tokens, blocks: Iterable[nn.Module], slots: Iterable[nn.Module], call: Call = plainly) -> Tokens:
    """Pass tokens through each block, called by `call`, and the slot behind it."""
    for block, slot in zip(blocks, slots, strict=True):
        merged = None
        # An empty slot first: asking it for what it has not takes longer than all else here.
        if type(slot) is not nn.Identity and call is plainly and isinstance(block, Block) and hasattr(slot, "merging"):
            merged = block.merged(tokens, cast("Merger", slot))
        tokens = slot(call(block, tokens)) if merged is None else merged
    return tokens


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Stochastic depth from 0 in the first block, linearly, to `rate` in the last, in place."""
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    for index, path in enumerate(paths):
        path.drop_prob = rate * index / max(1, len(paths) - 1)
