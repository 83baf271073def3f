"""The selective scan as the torch ops `rmeeto::selective_scan` and `rmeeto::selective_scan_backward`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from rmeeto.ops._library import CHANNEL_PAD, CHUNK
from rmeeto.ops._structs import ScanBackward, ScanFlags, ScanForward, ScanInputs, run
from rmeeto.ops._tensors import LIBRARY, empty, wants_gradient
from rmeeto.ops.selective_scan import cost

_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, Tensor? time"
_TENSORS = 9

LIBRARY.define(f"selective_scan({_INPUTS}, bool softplus, bool reverse, bool keep) -> (Tensor, Tensor)")
LIBRARY.define(
    f"selective_scan_backward(Tensor dy, Tensor states, {_INPUTS}, bool softplus, bool reverse, bool[] needs)"
    f" -> ({', '.join(['Tensor'] * _TENSORS)})"
)


def states_shape(u: Tensor, A: Tensor) -> tuple[int, int, int, int]:
    """Of the states that a forward scan keeps for the backward one: (batch, chunks, state, padded channels)."""
    batch, tokens, channels = u.shape
    return batch, -(-tokens // CHUNK), A.shape[1], -(-channels // CHANNEL_PAD) * CHANNEL_PAD


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *tensors, softplus, reverse, keep = arguments
    inputs = ScanInputs(*tensors)
    y = empty(inputs.u)
    states = torch.empty(states_shape(inputs.u, inputs.A)) if keep else y.new_empty(0)
    if y.numel():
        run([ScanForward(inputs, ScanFlags(softplus, reverse), y, states if keep else None)])
    return y if inputs.u.dtype is torch.float32 else y.to(inputs.u.dtype), states


def _backward(dy: Tensor, states: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, softplus, reverse, needs = arguments
    if not states.numel():  # the op was called with keep=False: run the forward pass again
        states = _forward(*tensors, softplus, reverse, True)[1]
    gradients = [empty(x) if x is not None and need else None for x, need in zip(tensors, needs, strict=True)]
    du, ddelta, dA, dB, dC, dD, dz, dbias, dtime = gradients
    if dy.numel():
        wanted = {"du": du, "ddelta": ddelta, "dz": dz, "dB": dB, "dC": dC}
        wanted.update(dtime=dtime, dA=dA, dD=dD, dbias=dbias)
        run([ScanBackward(ScanInputs(*tensors), ScanFlags(softplus, reverse), states, dy, **wanted)])
    else:
        gradients = [None if x is None else x.zero_() for x in gradients]
    return tuple(
        states.new_empty(0) if g is None else (g if x.dtype is torch.float32 else g.to(x.dtype))
        for x, g in zip(tensors, gradients, strict=True)
    )


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    u, A, keep = arguments[0], arguments[2], arguments[-1]
    shape = states_shape(u, A) if keep else (0,)
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
