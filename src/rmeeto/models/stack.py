"""Blocks in a row with a slot after each: the place where reduction may stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

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

    def merging(self, count: int, protected: int) -> ops.Merging | None:
        """How so many tokens, `protected` of them kept apart, will be merged behind the block; r = 0 where none leaves.

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
        if self.has_bare_parts():
            mixer = self.mixer
            made = ops.block(tokens.x, *self.weights(), tokens.time, eps=self.norm.eps, scale=mixer.scale)
            y = made.y if self.drops_nothing() else tokens.x + self.drop_path(made.hidden)
            return tokens.computed(y, mixer.features(made.hidden, made.projected))
        features = self.mixer(self.norm(tokens.x), tokens.time)
        return tokens.computed(tokens.x + self.drop_path(features.hidden), features)

    def merged(self, tokens: Tokens, slot: Merger) -> Tokens | None:
        """Tokens after the block and the merge in the slot behind it, in one go; None where that must be two."""
        if not (is_bare(self, Block) and self.is_one()):
            return None
        merging = slot.merging(tokens.x.shape[1], tokens.places.shape[1])
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
        outer: Any = self._modules
        mixer: Mixer = outer["mixer"]
        parts = mixer._modules
        return ops.BlockWeights(
            parameter(outer["norm"], "weight"),
            parameter(parts["in_proj"], "weight"),
            mixer.directions,
            parameter(parts["out_proj"], "weight"),
        )

    @property
    def numbers(self) -> tuple[float, float]:
        """What a block computes with beside its parameters: eps of the norm, scale of the directions' sum."""
        parts: Any = self._modules
        return parts["norm"].eps, parts["mixer"].scale

    def is_one(self) -> bool:
        """Whether all parts may be computed in one go."""
        return self.has_bare_parts() and self.drops_nothing()

    def has_bare_parts(self) -> bool:
        """Whether nobody has changed or watches a part, but for the path that may drop all they give."""
        parts: Any = self._modules  # an attribute of a module costs a search in all of its tables
        mixer = parts["mixer"]
        inner: Any = mixer._modules
        return (
            is_bare(mixer, Mixer)
            and is_bare(parts["norm"], RMSNorm)
            and is_bare(inner["in_proj"], Linear)
            and is_bare(inner["out_proj"], Linear)
            and inner["in_proj"]._parameters["bias"] is inner["out_proj"]._parameters["bias"] is None
            and mixer.has_bare_layers()
            and not is_watched()
        )

    def drops_nothing(self) -> bool:
        """Whether the path is the identity."""
        path: Any = self._modules["drop_path"]
        return is_bare(path, DropPath) and not (self.training and path.drop_prob)

    # torch.compile asks once and keeps the answer, instead of asking all of it in front of every call.
    for _asked in (is_one, has_bare_parts, drops_nothing):
        _asked._dynamo_marked_constant = True  # type: ignore[attr-defined]
    del _asked


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


class _Plan(NamedTuple):
    """Blocks and merges of which all is known before the first token is computed."""

    weights: list[ops.BlockWeights]
    merges: list[ops.Merging | None]
    numbers: tuple[float, float]
    last: Merger | None  # the last slot that merges


def _in_one(tokens: Tokens, blocks: list[nn.Module], slots: list[nn.Module]) -> Tokens | None:
    """The same in one op, where nobody looks between the blocks and nothing wants gradients; None elsewhere."""
    if torch.is_grad_enabled() or not tokens.x.is_cpu or tokens.time is not None or tokens.origin is not None:
        return None
    plan = _planned(tokens, blocks, slots) if len(blocks) > 1 else None
    if plan is None:
        return None
    (eps, scale), last = plan.numbers, plan.last
    feature = "hidden" if last is None else last.feature
    given = (tokens.x, tokens.size, tokens.places, plan.weights, plan.merges)
    made = ops.blocks(*given, feature=feature, eps=eps, scale=scale)
    if last is not None and made.merged is not None:
        tokens = last.after(tokens, made.merged)
    if made.last is None:
        return tokens
    return tokens.computed(made.y, cast("Block", blocks[-1]).mixer.features(*made.last[1:]))


def _planned(tokens: Tokens, blocks: list[nn.Module], slots: list[nn.Module]) -> _Plan | None:
    weights: list[ops.BlockWeights] = []
    merges: list[ops.Merging | None] = []
    numbers, last, n, protected = None, None, tokens.x.shape[1], tokens.places.shape[1]
    for block, slot in zip(blocks, slots, strict=True):
        if not (isinstance(block, Block) and is_bare(block, Block) and block.is_one()):
            return None
        numbers = numbers or block.numbers
        if block.numbers != numbers:
            return None
        merging = None
        if not is_bare(slot, nn.Identity):
            merging = _known(slot, last, n, protected)
            if merging is None:
                return None
            last, n = cast("Merger", slot) if merging.r else last, n - merging.r
        weights.append(block.weights())
        merges.append(merging if merging and merging.r else None)
    return None if numbers is None else _Plan(weights, merges, numbers, last)


def _known(slot: nn.Module, last: Merger | None, count: int, protected: int) -> ops.Merging | None:
    """How a slot will merge so many tokens, if all that it takes and leaves for the blocks behind is their number."""
    if not hasattr(slot, "merging"):
        return None
    merger = cast("Merger", slot)
    merging = merger.merging(count, protected)
    alike = last is None or merger.feature == last.feature
    return merging if merging is None or not merging.r or (alike and not merger.steers) else None


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Stochastic depth from 0 in the first block, linearly, to `rate` in the last, in place."""
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    for index, path in enumerate(paths):
        path.drop_prob = rate * index / max(1, len(paths) - 1)
