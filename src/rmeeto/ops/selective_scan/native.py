"""The selective scan as the torch ops `rmeeto::selective_scan` and `rmeeto::selective_scan_backward`."""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from rmeeto.ops._library import CHANNEL_PAD, CHUNK, call
from rmeeto.ops._tensors import LIBRARY, address, dense, rows, walk
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


def _pack_inputs(inputs: tuple[Tensor | None, ...], softplus: bool, reverse: bool) -> tuple[list[Any], tuple[int, ...]]:  # noqa: FBT001
    """The inputs as the kernel wants them (to be kept alive during the call), and their fields."""
    u, delta, A, B, C, D, z, delta_bias, time = inputs
    assert u is not None
    assert A is not None
    time = time if time is None or time.dtype is torch.float32 else time.float()
    held = [rows(u), rows(delta), rows(B), rows(C), rows(z), time, dense(A), dense(D), dense(delta_bias)]
    sizes = (*u.shape, A.shape[1], torch.get_num_threads(), int(softplus), int(reverse))
    walks = [field for x in held[:6] for field in walk(x)]
    return held, (*sizes, *walks, *[address(x) for x in held[6:]])


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *inputs, softplus, reverse, keep = arguments
    u, A = inputs[0], inputs[2]
    y = torch.empty(u.shape, dtype=torch.float32)
    states = torch.empty(_states_shape(u, A) if keep else (0,), dtype=torch.float32)
    if y.numel():
        _held, fields = _pack_inputs(tuple(inputs), softplus, reverse)
        call("rmeeto_scan_forward", _FORWARD, (*fields, *walk(y), states.data_ptr() if keep else 0))
    return y if u.dtype is torch.float32 else y.to(u.dtype), states


def _backward(dy: Tensor, states: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *inputs, softplus, reverse, needs = arguments
    if not states.numel():  # the op was called with keep=False: run the forward pass again
        states = _forward(*inputs, softplus, reverse, True)[1]
    gradients = [
        torch.empty(x.shape, dtype=torch.float32) if x is not None and need else None
        for x, need in zip(inputs, needs, strict=True)
    ]
    du, ddelta, dA, dB, dC, dD, dz, dbias, dtime = gradients
    if dy.numel():
        _held, fields = _pack_inputs(tuple(inputs), softplus, reverse)
        dy = rows(dy)  # type: ignore[assignment]
        ordered = (du, ddelta, dz, dB, dC, dtime, dA, dD, dbias)
        call(
            "rmeeto_scan_backward",
            _BACKWARD,
            (*fields, states.data_ptr(), *walk(dy), *[address(x) for x in ordered]),
        )
    else:
        gradients = [None if x is None else x.zero_() for x in gradients]
    return tuple(
        torch.empty(0) if g is None else (g if x.dtype is torch.float32 else g.to(x.dtype))
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


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS], output[1])
    ctx.softplus, ctx.reverse = inputs[_TENSORS], inputs[_TENSORS + 1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, _states: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * (_TENSORS + 3)
    *inputs, states = ctx.saved_tensors
    needs = [bool(need) for need in ctx.needs_input_grad[:_TENSORS]]
    gradients = torch.ops.rmeeto.selective_scan_backward(dy, states, *inputs, ctx.softplus, ctx.reverse, needs)
    return (*[g if need else None for g, need in zip(gradients, needs, strict=True)], None, None, None)


LIBRARY.impl("selective_scan", _forward, "CPU")
LIBRARY.impl("selective_scan_backward", _backward, "CPU")
torch.library.register_fake("rmeeto::selective_scan", _forward_fake, lib=LIBRARY)
torch.library.register_fake("rmeeto::selective_scan_backward", _backward_fake, lib=LIBRARY)
torch.library.register_autograd("rmeeto::selective_scan", _differentiate, setup_context=_save, lib=LIBRARY)
register_flop_formula(torch.ops.rmeeto.selective_scan)(cost.forward_formula)
register_flop_formula(torch.ops.rmeeto.selective_scan_backward)(cost.backward_formula)
