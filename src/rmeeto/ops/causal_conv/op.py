"""The causal convolution as the torch ops `rmeeto::causal_conv` and `rmeeto::causal_conv_backward`.

What all devices share; what computes them is in native.py for CPUs and in triton.py for GPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._op import Op, on_gpu, once_differentiable
from rmeeto.ops.causal_conv import cost, native

op = Op("causal_conv", "(Tensor x, Tensor weight, Tensor? bias, bool reverse) -> Tensor")
backward_op = Op(
    "causal_conv_backward",
    "(Tensor dy, Tensor x, Tensor weight, Tensor? bias, bool reverse, bool[] needs) -> (Tensor, Tensor, Tensor)",
)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:  # noqa: ARG001, FBT001
    return x.new_empty(x.shape)


def _backward_fake(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reverse: bool,  # noqa: ARG001, FBT001
    needs: list[bool],
) -> tuple[Tensor, ...]:
    return tuple(
        t.new_empty(t.shape) if t is not None and need else dy.new_empty(0, dtype=torch.float32)
        for t, need in zip((x, weight, bias), needs, strict=True)
    )


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:  # noqa: FBT001
        y = op.below(x, weight, bias, reverse)
        ctx.save_for_backward(x, weight, bias)
        ctx.reverse = reverse
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:3]
        gradients = backward_op(dy, *ctx.saved_tensors, ctx.reverse, needs)
        return (*[g if need else None for g, need in zip(gradients, needs, strict=True)], None)


_GPU = "rmeeto.ops.causal_conv.triton"
op.register(
    cpu=native.forward,
    gpu=on_gpu(_GPU, "forward"),
    fake=_forward_fake,
    function=_Conv,
    tensors=3,
    flops=cost.forward_formula,
)
backward_op.register(
    cpu=native.backward,
    gpu=on_gpu(_GPU, "backward"),
    fake=_backward_fake,
    flops=cost.backward_formula,
)
