"""Blocks in a row, with merges behind some of them, as the torch op `rmeeto::blocks`, without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._tensors import LIBRARY, register
from rmeeto.ops.bipartite_merge import Merging
from rmeeto.ops.bipartite_merge import cost as merge_cost
from rmeeto.ops.bipartite_merge.native import SIMILARITIES
from rmeeto.ops.block import cost
from rmeeto.ops.block.native import WIDTH
from rmeeto.ops.block.structs import BlockStack, MergeNumbers, StackResults, Ways, Weights

_TENSORS = 3 + 2 * WIDTH  # the weights of a block: of the norm and both projections, then of both directions
_NUMBERS = len(MergeNumbers._fields)

LIBRARY.define(
    "blocks(Tensor x, Tensor? size, Tensor places, Tensor[] weights, int[] merges, float eps, float scale)"
    " -> (Tensor x, Tensor hidden, Tensor p, Tensor p_b, Tensor size, Tensor places, Tensor index, Tensor kept)"
)
op = torch.ops.rmeeto.blocks.default


def numbers_of(merging: Merging | None, *, by_stream: bool) -> MergeNumbers:
    """How the kernel is told."""
    if merging is None:
        return MergeNumbers()
    r, similarity, rank, first, by_sequence, ordered, official, mode = merging
    how = (SIMILARITIES.index(similarity), rank, first, by_sequence, ordered, official)
    return MergeNumbers(r, *how, mode == "mean", mode == "prune", by_stream)


def _forward(
    x: Tensor, size: Tensor | None, places: Tensor, weights: list[Tensor], merges: list[int], eps: float, scale: float
) -> tuple[Tensor, ...]:
    made = _new(x, size, places, weights, merges, eps, scale)
    if x.numel():
        BlockStack(x, size, places, list(_blocks(weights)), list(_merges(merges)), eps, scale, made).run()
    return made


def _new(
    x: Tensor, size: Tensor | None, places: Tensor, weights: Sequence[Tensor], merges: Sequence[int], *_: float  # noqa: ARG001
) -> StackResults:  # fmt: skip
    (batch, tokens, width), outputs = x.shape, weights[3 + 2].shape[0]
    before, last = tokens, MergeNumbers()
    for merge in _merges(merges):
        if merge.r:
            before, tokens = tokens, tokens - merge.r
        last = merge if merge.r else last
    merged_last = bool(merges[-_NUMBERS])
    hidden = (0,) if merged_last else (batch, tokens, width)
    projected = (0,) if merged_last else (batch, tokens, outputs)
    new = x.new_empty
    return StackResults(
        new(batch, tokens, width),
        new(*hidden),
        new(*projected),
        new(*projected),
        new(*((batch, tokens) if last.r else (0,)), dtype=torch.float32),
        places.new_empty(*(places.shape if last.r else (0,)), dtype=torch.int64),
        places.new_empty(*((batch, before) if last.r else (0,)), dtype=torch.int64),
        places.new_empty(*((batch, before) if last.prune else (0,)), dtype=torch.bool),
    )


def _blocks(weights: Sequence[Any]) -> Iterator[tuple[Weights, Ways]]:
    for first in range(0, len(weights), _TENSORS):
        norm, in_proj, out_proj, *ways = weights[first : first + _TENSORS]
        yield (norm, in_proj, out_proj), (tuple(ways[:WIDTH]), tuple(ways[WIDTH:]))


def _merges(numbers: Sequence[int]) -> Iterator[MergeNumbers]:
    for first in range(0, len(numbers), _NUMBERS):
        yield MergeNumbers(*numbers[first : first + _NUMBERS])


def _flops(
    x: Any, size: Any, places: Any, weights: Any, merges: Sequence[int], *_: float, out_shape: Any = None  # noqa: ARG001
) -> int:  # fmt: skip
    (batch, tokens, width), total = x, 0
    for first, merge in zip(range(0, len(weights), _TENSORS), _merges(merges), strict=True):
        shape = (batch, tokens, width)
        total += cost.forward_formula(shape, None, *weights[first : first + _TENSORS])
        if merge.r:
            total += merge_cost.forward_formula(shape, None, shape, places, *merge)
            tokens -= merge.r
    return total


register("blocks", cpu=_forward, fake=_new, flops=_flops)
