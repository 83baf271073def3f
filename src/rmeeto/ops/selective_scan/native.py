"""The selective scan on a CPU: the compiled kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmeeto.ops._structs import ScanBackward, ScanFlags, ScanForward, ScanInputs, run
from rmeeto.ops._tensors import empty, states_shape


def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, softplus, reverse, keep = arguments
    inputs = ScanInputs(*tensors)
    y = empty(inputs.u)
    states = torch.empty(states_shape(inputs.u.shape, inputs.A)) if keep else y.new_empty(0)
    if y.numel():
        run([ScanForward(inputs, ScanFlags(softplus, reverse), y, states if keep else None)])
    return y if inputs.u.dtype is torch.float32 else y.to(inputs.u.dtype), states


def backward(dy: Tensor, states: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, softplus, reverse, needs = arguments
    if not states.numel():  # the op was called with keep=False: run the forward pass again
        states = forward(*tensors, softplus, reverse, True)[1]
    gradients = [empty(x) if x is not None and need else None for x, need in zip(tensors, needs, strict=True)]
    if dy.numel():
        run([ScanBackward(ScanInputs(*tensors), ScanFlags(softplus, reverse), states, dy, *gradients)])
    else:
        gradients = [None if x is None else x.zero_() for x in gradients]
    return tuple(
        states.new_empty(0) if g is None else (g if x.dtype is torch.float32 else g.to(x.dtype))
        for x, g in zip(tensors, gradients, strict=True)
    )
