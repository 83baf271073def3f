"""A block and the merge behind it as the torch op `rmeeto::block_merge`, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._op import Op
from rmeeto.ops._structs import MergeCall
from rmeeto.ops.bipartite_merge import cost as merge_cost
from rmeeto.ops.bipartite_merge.native import MODES, SIMILARITIES, made_by
from rmeeto.ops.block import cost
from rmeeto.ops.block.native import NAMES
from rmeeto.ops.block.structs import TENSORS, BlockForward, outputs_of

# A single image is merged by one thread here: longer ones are worth a step of their own.
MOST_TOKENS = 2048
_GIVEN = 2 + TENSORS  # x, time and the weights

op = Op(
    "block_merge",
    f"(Tensor x, Tensor? time, Tensor norm_weight, Tensor in_proj, Tensor out_proj, {NAMES}, float eps,"
    " float scale, str feature, Tensor? size, Tensor places, int r, str similarity, int rank, int first,"
    " bool by_sequence, bool ordered, bool official, str mode)"
    " -> (Tensor x, Tensor size, Tensor places, Tensor index, Tensor kept)",
)


def fits(x: Tensor, size: Tensor | None, places: Tensor, mode: str) -> bool:
    """Whether the kernel has code for this merge, the block being one for it."""
    return (
        x.shape[1] <= MOST_TOKENS
        and mode in MODES
        and places.is_cpu
        and (size is None or (size.dtype is torch.float32 and size.is_cpu and not size.requires_grad))
    )


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    x, time, *weights = arguments[:_GIVEN]
    eps, scale, feature, size, places, r, similarity, *numbers, mode = arguments[_GIVEN:]
    made = _new(*arguments)
    if x.numel():
        y, sizes, moved, index, kept = made
        p, p_b = (x.new_empty(*x.shape[:2], outputs_of(weights)) for _ in range(2))
        flags = (r, SIMILARITIES.index(similarity), *numbers, mode == "mean")
        results = (index, kept if mode == "prune" else None, y, sizes, moved)
        merge = MergeCall(places, None if mode == "mean" else size, flags, results)
        BlockForward(x, time, weights, eps, scale, (p, p_b), None, merge, feature == "x").run()
    return made


def _new(*arguments: Any) -> tuple[Tensor, ...]:
    x, (_eps, _scale, _feature, _size, places, r, *_, mode) = arguments[0], arguments[_GIVEN:]
    return made_by(x, places, r, mode)


def _flops(*arguments: Any, out_shape: object = None) -> int:  # noqa: ARG001
    shapes: Sequence[Any] = arguments
    x, places, r, *how = shapes[0], *shapes[_GIVEN + 4 :]
    merge = merge_cost.forward_formula(x, None, x, places, r, *how)
    return cost.forward_formula(*shapes[:_GIVEN]) + merge


op.register(cpu=_forward, fake=_new, flops=_flops)
