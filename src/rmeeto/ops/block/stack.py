"""Blocks in a row, with merges behind some of them, as the torch op `rmeeto::blocks`, without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._op import Op
from rmeeto.ops.bipartite_merge import Merging
from rmeeto.ops.bipartite_merge import cost as merge_cost
from rmeeto.ops.bipartite_merge.native import SIMILARITIES
from rmeeto.ops.block import cost
from rmeeto.ops.block.structs import TENSORS, BlockStack, MergeNumbers, StackResults, outputs_of

_NO_MERGE = MergeNumbers()
_NUMBERS = len(MergeNumbers._fields)

op = Op(
    "blocks",
    "(Tensor x, Tensor? size, Tensor places, Tensor[] weights, int[] merges, float eps, float scale)"
    " -> (Tensor x, Tensor hidden, Tensor p, Tensor p_b, Tensor size, Tensor places, Tensor index, Tensor kept)",
)


def numbers_of(merging: Merging | None, *, by_stream: bool) -> MergeNumbers:
    """How the kernel is told."""
    if merging is None:
        return _NO_MERGE
    r, similarity, rank, first, by_sequence, ordered, official, mode = merging
    how = (SIMILARITIES.index(similarity), rank, first, by_sequence, ordered, official)
    return MergeNumbers(r, *how, mode == "mean", mode == "prune", by_stream)


def _forward(
    x: Tensor, size: Tensor | None, places: Tensor, weights: list[Tensor], merges: list[int], eps: float, scale: float
) -> tuple[Tensor, ...]:
    how = list(_merges(merges))
    made = _results(x, places, outputs_of(weights), how)
    if x.numel():
        BlockStack(x, size, places, weights, how, eps, scale, made).run()
    return made


def _new(
    x: Tensor, size: Tensor | None, places: Tensor, weights: Sequence[Tensor], merges: Sequence[int], *_: float  # noqa: ARG001
) -> StackResults:  # fmt: skip
    return _results(x, places, outputs_of(weights), list(_merges(merges)))


def _results(x: Tensor, places: Tensor, outputs: int, merges: Sequence[MergeNumbers]) -> StackResults:
    (batch, tokens, width), before, last = x.shape, x.shape[1], _NO_MERGE
    for merge in merges:
        if merge.r:
            before, tokens, last = tokens, tokens - merge.r, merge
    merged_last = bool(merges[-1].r)
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


def _merges(numbers: Sequence[int]) -> Iterator[MergeNumbers]:
    for first in range(0, len(numbers), _NUMBERS):
        yield MergeNumbers(*numbers[first : first + _NUMBERS])


def _flops(
    x: Any, size: Any, places: Any, weights: Any, merges: Sequence[int], *_: float, out_shape: Any = None  # noqa: ARG001
) -> int:  # fmt: skip
    (batch, tokens, width), total = x, 0
    for first, merge in zip(range(0, len(weights), TENSORS), _merges(merges), strict=True):
        shape = (batch, tokens, width)
        total += cost.forward_formula(shape, None, *weights[first : first + TENSORS])
        if merge.r:
            total += merge_cost.forward_formula(shape, None, shape, places, *merge)
            tokens -= merge.r
    return total


op.register(cpu=_forward, fake=_new, flops=_flops)
