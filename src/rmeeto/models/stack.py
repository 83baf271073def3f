"""Blocks in a row with a slot after each: the place where reduction may stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal, Protocol, cast, runtime_checkable

import torch
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

    @property
    def steers(self) -> bool:
        """Whether the blocks behind it are told for how long each token stands."""

    def merging(self, tokens: Tokens) -> ops.Merging | None:
        """How the tokens, as they enter the block, will be merged behind it; r = 0 where none leaves.

        None where it takes more than that.
        """

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
        if self.is_one():
            mixer = self.mixer
            made = ops.block(tokens.x, *self.weights(), tokens.time, eps=self.norm.eps, scale=mixer.scale)
            return tokens.computed(made.y, mixer.features(made.hidden, made.projected))
        features = self.mixer(self.norm(tokens.x), tokens.time)
        return tokens.computed(tokens.x + self.drop_path(features.hidden), features)

    def merged(self, tokens: Tokens, slot: Merger) -> Tokens | None:
        """Tokens after the block and the merge in the slot behind it, in one go; None where that must be two."""
        if not (is_bare(self, Block) and self.is_one()):
            return None
        merging = slot.merging(tokens)
        if merging is None or not merging.r:
            return None
        made = ops.merged_block(
            tokens.x,
            *self.weights(),
            tokens.time,
            tokens.size,
            tokens.places,
            merging,
            feature=slot.feature,
            eps=self.norm.eps,
            scale=self.mixer.scale,
        )
        return slot.after(tokens, made)

    def weights(self) -> ops.BlockWeights:
        mixer = self.mixer
        return ops.BlockWeights(
            parameter(self.norm, "weight"),
            parameter(mixer.in_proj, "weight"),
            mixer.directions,
            parameter(mixer.out_proj, "weight"),
        )

    def is_like(self, other: nn.Module) -> bool:
        """Whether both compute with the same numbers, the parameters apart."""
        return isinstance(other, Block) and self.norm.eps == other.norm.eps and self.mixer.scale == other.mixer.scale

    def is_one(self) -> bool:
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
    is_one._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
    blocks, slots = list(blocks), list(slots)
    if call is plainly and (done := _in_one(tokens, blocks, slots)) is not None:
        return done
    for block, slot in zip(blocks, slots, strict=True):
        merged = None
        # An empty slot first: asking it for what it has not takes longer than all else here.
        if type(slot) is not nn.Identity and call is plainly and isinstance(block, Block) and hasattr(slot, "merging"):
            merged = block.merged(tokens, cast("Merger", slot))
        tokens = slot(call(block, tokens)) if merged is None else merged
    return tokens


def _in_one(tokens: Tokens, blocks: list[nn.Module], slots: list[nn.Module]) -> Tokens | None:
    """The same in one op, where nobody looks between the blocks and nothing wants gradients; None elsewhere."""
    if torch.is_grad_enabled() or not tokens.x.is_cpu or tokens.time is not None or tokens.origin is not None:
        return None
    merges: list[ops.Merging | None] = []
    last, n = None, tokens.x.shape[1]
    for block, slot in zip(blocks, slots, strict=True):
        if not (isinstance(block, Block) and is_bare(block, Block) and block.is_one() and block.is_like(blocks[0])):
            return None
        merging = None
        if not is_bare(slot, nn.Identity):
            merging = _known(slot, last, replace(tokens, x=tokens.x.narrow(1, 0, n)))
            if merging is None:
                return None
            last, n = cast("Merger", slot) if merging.r else last, n - merging.r
        merges.append(merging if merging and merging.r else None)
    if len(merges) < 2:
        return None
    mixer, eps = cast("Block", blocks[-1]).mixer, cast("Block", blocks[0]).norm.eps
    weights = [cast("Block", block).weights() for block in blocks]
    made = ops.blocks(
        tokens.x,
        tokens.size,
        tokens.places,
        weights,
        merges,
        feature="hidden" if last is None else last.feature,
        eps=eps,
        scale=mixer.scale,
    )
    if last is not None and made.merged is not None:
        tokens = last.after(tokens, made.merged)
    return tokens if made.last is None else tokens.computed(made.y, mixer.features(*made.last[1:]))


def _known(slot: nn.Module, last: Merger | None, tokens: Tokens) -> ops.Merging | None:
    """How a slot will merge so many tokens, if all that it takes and leaves for the blocks behind is their number."""
    if not hasattr(slot, "merging"):
        return None
    merger = cast("Merger", slot)
    merging = merger.merging(tokens)
    alike = last is None or merger.feature == last.feature
    return merging if merging is None or not merging.r or (alike and not merger.steers) else None


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Stochastic depth from 0 in the first block, linearly, to `rate` in the last, in place."""
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    for index, path in enumerate(paths):
        path.drop_prob = rate * index / max(1, len(paths) - 1)
