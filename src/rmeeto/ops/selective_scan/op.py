"""The selective scan as the torch ops `rmeeto::selective_scan` and `rmeeto::selective_scan_backward`.

What all devices share; what computes them is in native.py for CPUs and in triton.py for GPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._op import Op, on_gpu, once_differentiable
from rmeeto.ops._tensors import states_shape
from rmeeto.ops.selective_scan import cost, native

_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, Tensor? time"
_TENSORS = 9

op = Op("selective_scan", f"({_INPUTS}, bool softplus, bool reverse, bool keep) -> (Tensor, Tensor)")
backward_op = Op(
    "selective_scan_backward",
    f"(Tensor dy, Tensor states, {_INPUTS}, bool softplus, bool reverse, bool[] needs)"
    f" -> ({', '.join(['Tensor'] * _TENSORS)})",
)


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    u, A, keep = arguments[0], arguments[2], arguments[-1]
    shape = states_shape(u.shape, A) if keep else (0,)
    return u.new_empty(u.shape), u.new_empty(shape, dtype=torch.float32)


def _backward_fake(dy: Tensor, states: Tensor, *arguments: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
    *inputs, _softplus, _reverse, needs = arguments
    return tuple(
        x.new_empty(x.shape) if x is not None and need else dy.new_empty(0, dtype=torch.float32)
        for x, need in zip(inputs, needs, strict=True)
    )


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y, states = op.below(*arguments)
        ctx.save_for_backward(*arguments[:_TENSORS], states)
        ctx.softplus, ctx.reverse = arguments[_TENSORS], arguments[_TENSORS + 1]
        ctx.mark_non_differentiable(states)
        ctx.set_materialize_grads(False)
        return y, states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, _states: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * (_TENSORS + 3)
        *inputs, states = ctx.saved_tensors
        needs = ctx.needs_input_grad[:_TENSORS]
        gradients = backward_op(dy, states, *inputs, ctx.softplus, ctx.reverse, needs)
        return (*[g if need else None for g, need in zip(gradients, needs, strict=True)], None, None, None)


_GPU = "rmeeto.ops.selective_scan.triton"
op.register(
    cpu=native.forward,
    gpu=on_gpu(_GPU, "forward"),
    fake=_forward_fake,
    function=_Scan,
    tensors=_TENSORS,
    flops=cost.forward_formula,
)
backward_op.register(
    cpu=native.backward,
    gpu=on_gpu(_GPU, "backward"),
    fake=_backward_fake,
    flops=cost.backward_formula,
)
