"""The linear layer as the torch ops `rmeeto::linear` and `rmeeto::linear_backward`, by oneDNN and our own kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._op import Op, once_differentiable
from rmeeto.ops._products import available, times_transposed, weight_gradient

op = Op("linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
backward_op = Op("linear_backward", "(Tensor dy, Tensor x, Tensor weight, bool[] needs) -> (Tensor, Tensor, Tensor)")


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there and these tensors are for it."""
    return (
        x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return times_transposed(x, weight, bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _backward(dy: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    nothing = dy.new_empty(0)
    flat = dy.flatten(0, -2)
    dx = times_transposed(dy, weight.t()) if needs[0] else nothing
    dweight = weight_gradient(flat, x.flatten(0, -2)) if needs[1] else nothing.clone()
    return dx, dweight, flat.sum(0) if needs[2] else nothing.clone()


def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    dx, dweight, dbias = (dy.new_empty(shape if need else 0) for shape, need in zip(shapes, needs, strict=True))
    return dx, dweight, dbias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return op.below(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        gradients = backward_op(dy, *ctx.saved_tensors, needs)
        return tuple(g if need else None for g, need in zip(gradients, needs, strict=True))


def _flops(x: Sequence[int], weight: Sequence[int], *_: object, out_shape: object = None) -> int:  # noqa: ARG001
    """Two FLOPs a multiply-add, as torch counts its own."""
    total = 2 * weight[0]
    for size in x:
        total *= size
    return total


def _backward_flops(dy: object, x: Sequence[int], weight: Sequence[int], needs: Sequence[bool], **_: object) -> int:  # noqa: ARG001
    return _flops(x, weight) * sum(needs[:2])


op.register(cpu=_forward, fake=_fake, function=_Linear, tensors=3, flops=_flops)
backward_op.register(cpu=_backward, fake=_backward_fake, flops=_backward_flops)
