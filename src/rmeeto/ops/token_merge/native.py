"""The merge as the torch ops `rmeeto::token_merge` and `rmeeto::token_merge_backward`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._op import Op, once_differentiable
from rmeeto.ops._structs import MergeGroups, TokenMerge, TokenMergeBackward, run
from rmeeto.ops.token_merge import cost

MODES = ("sum", "mean", "prune")

op = Op(
    "token_merge",
    "(Tensor x, Tensor? size, Tensor index, Tensor? kept, Tensor places, int length, bool forget)"
    " -> (Tensor x, Tensor size, Tensor places)",
)
backward_op = Op("token_merge_backward", "(Tensor dy, Tensor? size, Tensor index, Tensor? kept) -> Tensor")


def _forward(
    x: Tensor,
    size: Tensor | None,
    index: Tensor,
    kept: Tensor | None,
    places: Tensor,
    length: int,
    forget: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, channels = x.shape
    y = torch.empty((batch, length, channels), dtype=torch.float32)
    sizes, moved = torch.empty((batch, length), dtype=torch.float32), torch.empty(places.shape, dtype=torch.int64)
    if batch:
        run([TokenMerge(MergeGroups(index, length, size, kept), forget, x, places, y, sizes, moved)])
    return y if x.dtype is torch.float32 else y.to(x.dtype), sizes, moved


def _backward(dy: Tensor, size: Tensor | None, index: Tensor, kept: Tensor | None) -> Tensor:
    dx = torch.empty((*index.shape, dy.shape[2]), dtype=torch.float32)
    if dx.numel():
        run([TokenMergeBackward(MergeGroups(index, dy.shape[1], size, kept), dy, dx)])
    return dx if dy.dtype is torch.float32 else dx.to(dy.dtype)


def _forward_fake(
    x: Tensor,
    size: Tensor | None,  # noqa: ARG001
    index: Tensor,
    kept: Tensor | None,  # noqa: ARG001
    places: Tensor,
    length: int,
    forget: bool,  # noqa: ARG001, FBT001
) -> tuple[Tensor, Tensor, Tensor]:
    y = x.new_empty((x.shape[0], length, x.shape[2]))
    return y, x.new_empty(y.shape[:2], dtype=torch.float32), index.new_empty(places.shape)


def _backward_fake(dy: Tensor, size: Tensor | None, index: Tensor, kept: Tensor | None) -> Tensor:  # noqa: ARG001
    return dy.new_empty((*index.shape, dy.shape[2]))


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        y, sizes, moved = op.below(*arguments)
        ctx.save_for_backward(*arguments[1:4])
        ctx.mark_non_differentiable(sizes, moved)
        ctx.set_materialize_grads(False)
        return y, sizes, moved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        dx = None if dy is None else backward_op(dy, *ctx.saved_tensors)
        return (dx, *[None] * 6)


op.register(cpu=_forward, fake=_forward_fake, function=_Merge, tensors=1, flops=cost.forward_formula)
backward_op.register(cpu=_backward, fake=_backward_fake, flops=cost.backward_formula)
