"""The causal convolution on a CPU: the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto.ops._structs import ConvBackward, ConvForward, run
from rmeeto.ops._tensors import empty


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:  # noqa: FBT001
    y = empty(x)
    if y.numel():
        run([ConvForward(x, weight, bias, reverse, y)])
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reverse: bool,  # noqa: FBT001
    needs: list[bool],
) -> tuple[Tensor, ...]:
    inputs = (x, weight, bias)
    gradients = [empty(t) if t is not None and need else None for t, need in zip(inputs, needs, strict=True)]
    if dy.numel():
        run([ConvBackward(x, weight, bias, reverse, False, dy, *gradients)])
    else:
        gradients = [None if g is None else g.zero_() for g in gradients]
    nothing = dy.new_empty(0, dtype=torch.float32)
    return tuple(
        nothing.clone() if t is None or g is None else (g if t.dtype is torch.float32 else g.to(t.dtype))
        for t, g in zip(inputs, gradients, strict=True)
    )
