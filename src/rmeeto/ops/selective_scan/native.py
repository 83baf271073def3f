"""The selective scan as the torch ops `rmeeto::selective_scan` and `rmeeto::selective_scan_backward`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from rmeeto.ops._library import CHANNEL_PAD, CHUNK, call
from rmeeto.ops._tensors import LIBRARY, address, dense, empty, rows, walk, wants_gradient
from rmeeto.ops.selective_scan import cost

_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, Tensor? time"
_TENSORS = 9
_FORWARD = struct.Struct("=32q")  # ScanForward of csrc/rmeeto.h: 7 sizes, 6 walks, A, D, bias, y, states
_BACKWARD = struct.Struct("=41q")  # ScanBackward: the same inputs, states, dy, nine gradients

LIBRARY.define(f"selective_scan({_INPUTS}, bool softplus, bool reverse, bool keep) -> (Tensor, Tensor)")
LIBRARY.define(
    f"selective_scan_backward(Tensor dy, Tensor states, {_INPUTS}, bool softplus, bool reverse, bool[] needs)"
    f" -> ({', '.join(['Tensor'] * _TENSORS)})"
)


def _states_shape(u: Tensor, A: Tensor) -> tuple[int, int, int, int]:
    batch, tokens, channels = u.shape
    return batch, -(-tokens // CHUNK), A.shape[1], -(-channels // CHANNEL_PAD) * CHANNEL_PAD


def _pack_inputs(
    inputs: Sequence[Tensor | None], *, softplus: bool, reverse: bool
) -> tuple[list[Any], tuple[int, ...]]:
    """The inputs as the kernel wants them (to be kept alive during the call), and their fields."""
    u, delta, A, B, C, D, z, delta_bias, time = inputs
    assert u is not None
    assert A is not None
    u, delta, B, C, z, A, D = rows(u), rows(delta), rows(B), rows(C), rows(z), dense(A), dense(D)
    time = time if time is None or time.dtype is torch.float32 else time.float()
    delta_bias = dense(delta_bias)
    fields = (
        *(*u.shape, A.shape[1], torch.get_num_threads(), softplus, reverse),
        *(*walk(u), *walk(delta), *walk(B), *walk(C), *walk(z), *walk(time)),
        *(address(A), address(D), address(delta_bias)),
    )
    return [u, delta, A, B, C, D, z, delta_bias, time], fields


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *inputs, softplus, reverse, keep = arguments
    u = inputs[0]
    y = empty(u)
    states = torch.empty(_states_shape(u, inputs[2])) if keep else y.new_empty(0)
    if y.numel():
        _held, fields = _pack_inputs(inputs, softplus=softplus, reverse=reverse)
        call("rmeeto_scan_forward", _FORWARD, (*fields, *walk(y), states.data_ptr() if keep else 0))
    return y if u.dtype is torch.float32 else y.to(u.dtype), states


def _backward(dy: Tensor, states: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, softplus, reverse, needs = arguments
    if not states.numel():  # the op was called with keep=False: run the forward pass again
        states = _forward(*inputs, softplus, reverse, True)[1]
    gradients = [empty(x) if x is not None and need else None for x, need in zip(inputs, needs, strict=True)]
    du, ddelta, dA, dB, dC, dD, dz, dbias, dtime = gradients
    if dy.numel():
        _held, fields = _pack_inputs(inputs, softplus=softplus, reverse=reverse)
        dy = rows(dy)
        ordered = (du, ddelta, dz, dB, dC, dtime, dA, dD, dbias)
        call(
            "rmeeto_scan_backward",
            _BACKWARD,
            (*fields, states.data_ptr(), *walk(dy), *[address(x) for x in ordered]),
        )
    else:
        gradients = [None if x is None else x.zero_() for x in gradients]
    return tuple(
        states.new_empty(0) if g is None else (g if x.dtype is torch.float32 else g.to(x.dtype))
        for x, g in zip(inputs, gradients, strict=True)
    )


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    u, A, keep = arguments[0], arguments[2], arguments[-1]
    shape = _states_shape(u, A) if keep else (0,)
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
        with torch._C._AutoDispatchBelowAutograd():
            y, states = torch.ops.rmeeto.selective_scan.default(*arguments)
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
        needs = list(ctx.needs_input_grad[:_TENSORS])
        op = torch.ops.rmeeto.selective_scan_backward.default
        gradients = op(dy, states, *inputs, ctx.softplus, ctx.reverse, needs)
        return (*[g if need else None for g, need in zip(gradients, needs, strict=True)], None, None, None)


def _autograd(*arguments: Any) -> tuple[Tensor, Tensor]:
    # A hand-written kernel for the Autograd key: torch.library.register_autograd would cost 50 microseconds a call.
    if wants_gradient(arguments[:_TENSORS]):
        return _Scan.apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.rmeeto.selective_scan.default(*arguments)


LIBRARY.impl("selective_scan", _forward, "CPU")
LIBRARY.impl("selective_scan", _autograd, "Autograd")
LIBRARY.impl("selective_scan_backward", _backward, "CPU")
torch.library.register_fake("rmeeto::selective_scan", _forward_fake, lib=LIBRARY)
torch.library.register_fake("rmeeto::selective_scan_backward", _backward_fake, lib=LIBRARY)
register_flop_formula(torch.ops.rmeeto.selective_scan)(cost.forward_formula)
register_flop_formula(torch.ops.rmeeto.selective_scan_backward)(cost.backward_formula)
