"""The merge as the torch op `rmeeto::bipartite_merge`; its gradient is that of `rmeeto::token_merge`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmeeto.ops import _library
from rmeeto.ops._op import Op, once_differentiable, wants_gradient
from rmeeto.ops._structs import BipartiteMerge, MergeCall, run
from rmeeto.ops.backends import KINDS
from rmeeto.ops.bipartite_merge import cost
from rmeeto.ops.token_match.native import SIMILARITIES
from rmeeto.ops.token_merge.native import MODES
from rmeeto.ops.token_merge.native import backward_op as token_merge_backward

op = Op(
    "bipartite_merge",
    "(Tensor x, Tensor? size, Tensor values, Tensor places, int r, str similarity, int rank, int first,"
    " bool by_sequence, bool ordered, bool official, str mode)"
    " -> (Tensor x, Tensor size, Tensor places, Tensor index, Tensor kept)",
)


def fits(x: Tensor, size: Tensor | None, values: Tensor, places: Tensor, mode: str) -> bool:
    """Whether the kernel is there and has code for these."""
    return (
        x.is_cpu
        and values.is_cpu
        and places.is_cpu
        and x.dtype in KINDS
        and values.dtype in KINDS
        and (size is None or (size.dtype is torch.float32 and not wants_gradient((size,))))
        and mode in MODES
        and _library.problem() is None
    )


def _forward(
    x: Tensor,
    size: Tensor | None,
    values: Tensor,
    places: Tensor,
    r: int,
    similarity: str,
    *how: Any,
) -> tuple[Tensor, ...]:
    *numbers, mode = how
    y, sizes, moved, index, kept = made = _new(x, size, values, places, r, similarity, *how)
    if index.numel():
        wide = y if y.dtype is torch.float32 else torch.empty(y.shape, dtype=torch.float32)
        flags = (r, SIMILARITIES.index(similarity), *numbers, mode == "mean")
        wanted = kept if mode == "prune" else None
        run([BipartiteMerge(values, x, MergeCall(places, size, flags, (index, wanted, wide, sizes, moved)))])
        if wide is not y:
            y.copy_(wide)
    return made


def _new(x: Tensor, size: Tensor | None, values: Tensor, places: Tensor, r: int, *how: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
    return made_by(x, places, r, how[-1])


def made_by(x: Tensor, places: Tensor, r: int, mode: str) -> tuple[Tensor, ...]:
    """Room for what a merge of x gives: x, the sizes, the places, index and kept (empty where nothing is pruned)."""
    batch, tokens, channels = x.shape
    return (
        x.new_empty(batch, tokens - r, channels),
        x.new_empty(batch, tokens - r, dtype=torch.float32),
        places.new_empty(batch, places.shape[1], dtype=torch.int64),
        places.new_empty(batch, tokens, dtype=torch.int64),
        places.new_empty(*((batch, tokens) if mode == "prune" else (0,)), dtype=torch.bool),
    )


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        y, sizes, moved, index, kept = op.below(*arguments)
        ctx.pruned = arguments[-1] == "prune"
        ctx.save_for_backward(arguments[1], index, kept)
        ctx.mark_non_differentiable(sizes, moved, index, kept)
        ctx.set_materialize_grads(False)
        return y, sizes, moved, index, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        size, index, kept = ctx.saved_tensors
        kept = kept if ctx.pruned else None
        dx = None if dy is None else token_merge_backward(dy, size, index, kept)
        return (dx, *[None] * 11)


op.register(cpu=_forward, fake=_new, function=_Merge, tensors=1, flops=cost.forward_formula)
