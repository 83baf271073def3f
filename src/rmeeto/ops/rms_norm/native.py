"""The norm as the torch ops `rmeeto::rms_norm` and `rmeeto::rms_norm_backward`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._op import Op, once_differentiable
from rmeeto.ops._structs import NormBackward, NormForward, run

op = Op("rms_norm", "(Tensor x, Tensor weight, float eps) -> Tensor")
backward_op = Op(
    "rms_norm_backward", "(Tensor dy, Tensor x, Tensor weight, float eps, bool[] needs) -> (Tensor, Tensor)"
)


def _forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = torch.empty(x.shape, dtype=torch.float32)
    if y.numel():
        run([NormForward(x, weight, eps, y)])
    return y.to(x.dtype)


def _backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float, needs: Sequence[bool]) -> tuple[Tensor, Tensor]:
    made = [
        torch.zeros(t.shape if need else 0, dtype=torch.float32) for t, need in zip((x, weight), needs, strict=True)
    ]
    if dy.numel():
        wanted = [t if need else None for t, need in zip(made, needs, strict=True)]
        run([NormBackward(x, weight, eps, dy, *wanted)])
    return made[0].to(x.dtype), made[1].to(weight.dtype)


def _forward_fake(x: Tensor, weight: Tensor, eps: float) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape)


def _backward_fake(
    dy: Tensor,  # noqa: ARG001
    x: Tensor,
    weight: Tensor,
    eps: float,  # noqa: ARG001
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs[0] else 0), weight.new_empty(weight.shape if needs[1] else 0)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return op.below(x, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:2]
        gradients = backward_op(dy, *ctx.saved_tensors, ctx.eps, needs)
        return (*[g if need else None for g, need in zip(gradients, needs, strict=True)], None)


op.register(cpu=_forward, fake=_forward_fake, function=_Norm, tensors=2)
backward_op.register(cpu=_backward, fake=_backward_fake)
