"""The bidirectional core as the torch ops `rmeeto::bimamba` and `rmeeto::bimamba_backward`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmeeto.ops._op import Op, once_differentiable
from rmeeto.ops._products import times_transposed, weight_gradient
from rmeeto.ops._structs import ConvBackward, ConvForward, ScanBackward, ScanFlags, ScanForward, ScanInputs, run
from rmeeto.ops._tensors import dense, rows, states_shape
from rmeeto.ops.bimamba import cost
from rmeeto.ops.bimamba.reference import Direction

MAX_TAPS = 8
_WIDTH = len(Direction._fields)
_TENSORS = 2 + 2 * _WIDTH  # xz, time and the parameters of both directions
_NAMES = ", ".join(f"Tensor {name}{suffix}" for suffix in ("", "_b") for name in Direction._fields)

op = Op(
    "bimamba",
    f"(Tensor xz, Tensor? time, {_NAMES}, float scale, bool keep)"
    " -> (Tensor y, Tensor p, Tensor p_b, Tensor u, Tensor u_b, Tensor states, Tensor states_b)",
)
backward_op = Op(
    "bimamba_backward",
    f"(Tensor dy, Tensor p, Tensor p_b, Tensor u, Tensor u_b, Tensor states, Tensor states_b,"
    f" Tensor xz, Tensor? time, {_NAMES}, float scale, bool parameters) -> ({', '.join(['Tensor'] * _TENSORS)})",
)


def fits(directions: tuple[Direction, Direction]) -> bool:
    """Whether the kernel has code for that many taps."""
    return max(direction.conv_weight.shape[-1] for direction in directions) <= MAX_TAPS


def bimamba(
    xz: Tensor, directions: tuple[Direction, Direction], time: Tensor | None, scale: float, *, keep: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The op: see `rmeeto.ops.bimamba`."""
    y, p, p_b, *_ = op(xz, time, *directions[0], *directions[1], scale, keep)
    return y, (p, p_b)


class _Way(NamedTuple):
    """One direction ready for the kernels: its parameters in float32, what it convolved and projected."""

    own: Direction
    A: Tensor  # (e, s)
    u: Tensor  # (b, n, e), convolved
    p: Tensor  # (b, n, R + 2s)

    def inputs(self, z: Tensor | None, time: Tensor | None) -> ScanInputs:
        rank, state = self.own.dt_weight.shape[1], self.A.shape[1]
        dt, B, C = self.p.split([rank, state, state], dim=-1)
        own = self.own
        return ScanInputs(self.u, dt, self.A, B, C, own.D, z, own.dt_bias, time, own.dt_weight)


def _directions(tensors: Sequence[Tensor]) -> tuple[Direction, Direction]:
    ready = [dense(x) for x in tensors]
    one, other = Direction(*ready[:_WIDTH]), Direction(*ready[_WIDTH:])
    return (
        one._replace(conv_weight=one.conv_weight.squeeze(1)),
        other._replace(conv_weight=other.conv_weight.squeeze(1)),
    )


def _ways(directions: tuple[Direction, Direction], u: Sequence[Tensor], p: Sequence[Tensor]) -> list[_Way]:
    return [_Way(*each) for each in zip(directions, [-torch.exp(d.A_log) for d in directions], u, p, strict=True)]


def _forward(xz: Tensor, time: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *parameters, scale, keep = arguments
    wide = rows(xz)
    directions = _directions(parameters)
    batch, tokens, channels = wide.shape[0], wide.shape[1], wide.shape[2] // 2
    x, z = wide.chunk(2, dim=-1)
    u = [_new((batch, tokens, channels)) for _ in directions]
    y = _new((batch, tokens, channels))
    if y.numel():
        run([ConvForward(x, d.conv_weight, d.conv_bias, bool(i), u[i]) for i, d in enumerate(directions)])
    p = [times_transposed(each, d.projection) for each, d in zip(u, directions, strict=True)]
    ways = _ways(directions, u, p)
    states = [_new(states_shape(way.u.shape, way.A)) if keep else y.new_empty(0) for way in ways]
    if y.numel():
        kept = states if keep else (None, None)
        run(
            [
                ScanForward(ways[0].inputs(None, time), ScanFlags(), y, kept[0]),
                ScanForward(ways[1].inputs(z, time), ScanFlags(True, True, True, scale), y, kept[1]),
            ]
        )
    saved = u if keep else [y.new_empty(0), y.new_empty(0)]
    return (*[t.to(xz.dtype) for t in (y, *p)], *saved, *states)


def _backward(dy: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    p, p_b, u, u_b, states, states_b, xz, time, *parameters, scale, with_parameters = arguments
    directions = _directions(parameters)
    wide = rows(xz)
    x, z = wide.chunk(2, dim=-1)
    ways = _ways(directions, (u, u_b), (rows(p), rows(p_b)))
    dxz = _new(wide.shape)
    dx, dz = dxz.chunk(2, dim=-1)
    times = None if time is None else [_new(time.shape) for _ in ways]
    scans = []
    for i, (way, kept) in enumerate(zip(ways, (states, states_b), strict=True)):
        flags = ScanFlags(True, bool(i), bool(i), scale)
        call = _scan_gradients(way, way.inputs(z, time), flags, kept, dy)
        scans.append(call._replace(dz=dz, dtime=None if times is None else times[i]))
    dp = [_new(way.p.shape) for way in ways]
    for i, way in enumerate(ways):
        rank, state = way.own.dt_weight.shape[1], way.A.shape[1]
        _, dB, dC = dp[i].split([rank, state, state], dim=-1)
        scans[i] = scans[i]._replace(dB=dB, dC=dC)
    if dy.numel():
        run(scans)
    du = [_through_projection(way, scan, each) for way, scan, each in zip(ways, scans, dp, strict=True)]
    convs = [
        ConvBackward(x, d.conv_weight, d.conv_bias, bool(i), bool(i), du[i], dx, *_like(d.conv_weight, d.conv_bias))
        for i, d in enumerate(directions)
    ]
    if dy.numel():
        run(convs)
    gradients = [dxz, dxz.new_empty(0) if times is None else times[0] + times[1]]
    for way, scan, conv, each in zip(ways, scans, convs, dp, strict=True):
        gradients += _parameter_gradients(way, scan, conv, each) if with_parameters else _nothing(dxz)
    if not dy.numel():
        gradients = [g.zero_() for g in gradients]
    return tuple(_as_given(g, t) for g, t in zip(gradients, (xz, time, *parameters), strict=True))


def _scan_gradients(way: _Way, inputs: ScanInputs, flags: ScanFlags, states: Tensor, dy: Tensor) -> ScanBackward:
    du, ddelta = torch.empty_like(way.u), torch.empty_like(way.u)
    dA, dD, dbias = _like(way.A, way.own.D, way.own.dt_bias)
    return ScanBackward(inputs, flags, states, dy, du, ddelta, dA=dA, dD=dD, dbias=dbias)


def _through_projection(way: _Way, scan: ScanBackward, dp: Tensor) -> Tensor:
    """The gradient of the convolved tokens, straight and through dt, B and C; fills the part of dp that dt has."""
    assert scan.du is not None
    assert scan.ddelta is not None
    dp[..., : way.own.dt_weight.shape[1]] = times_transposed(scan.ddelta, way.own.dt_weight.t())
    return scan.du.add_(times_transposed(dp, way.own.projection.t()))


def _parameter_gradients(way: _Way, scan: ScanBackward, conv: ConvBackward, dp: Tensor) -> list[Tensor]:
    assert scan.ddelta is not None
    assert scan.dA is not None
    rank = way.own.dt_weight.shape[1]
    ddelta, dt = scan.ddelta.flatten(0, 1), way.p[..., :rank].flatten(0, 1)
    projection = weight_gradient(dp.flatten(0, 1), way.u.flatten(0, 1))
    made = [conv.dweight, conv.dbias, projection, weight_gradient(ddelta, dt), scan.dbias, scan.dA * way.A, scan.dD]
    return [g for g in made if g is not None]


def _new(shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_new(t.shape) for t in tensors)


def _nothing(like: Tensor) -> list[Tensor]:
    return [like.new_empty(0) for _ in range(_WIDTH)]


def _as_given(gradient: Tensor, given: Tensor | None) -> Tensor:
    """The gradient in the type and shape of what it is the gradient of."""
    if given is None or not gradient.numel():
        return gradient
    return gradient.view(given.shape).to(given.dtype)


def _forward_fake(xz: Tensor, time: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
    *parameters, _scale, keep = arguments
    batch, tokens, channels = xz.shape[0], xz.shape[1], xz.shape[2] // 2
    y = xz.new_empty(batch, tokens, channels)
    directions = Direction(*parameters[:_WIDTH]), Direction(*parameters[_WIDTH:])
    p = [xz.new_empty(batch, tokens, d.projection.shape[0]) for d in directions]
    u = [y.new_empty(y.shape if keep else 0, dtype=torch.float32) for _ in directions]
    shapes = [states_shape(y.shape, d.A_log) if keep else (0,) for d in directions]
    return (y, *p, *u, *[y.new_empty(shape, dtype=torch.float32) for shape in shapes])


def _backward_fake(dy: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    tensors, with_parameters = arguments[6:-2], arguments[-1]
    wanted = [True, tensors[1] is not None] + [with_parameters] * (2 * _WIDTH)
    return tuple(
        t.new_empty(t.shape) if t is not None and want else dy.new_empty(0, dtype=torch.float32)
        for t, want in zip(tensors, wanted, strict=True)
    )


class _Bimamba(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, scale, _keep = arguments
        y, *made = op.below(*tensors, scale, True)
        ctx.save_for_backward(*made, *tensors)
        ctx.scale = scale
        ctx.mark_non_differentiable(*made)
        ctx.set_materialize_grads(False)
        return (y, *made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * (_TENSORS + 2)
        needs = ctx.needs_input_grad[:_TENSORS]
        gradients = backward_op(dy, *ctx.saved_tensors, ctx.scale, any(needs[2:]))
        return (*[g if need else None for g, need in zip(gradients, needs, strict=True)], None, None)


op.register(
    cpu=_forward,
    fake=_forward_fake,
    function=_Bimamba,
    tensors=_TENSORS,
    flops=cost.forward_formula,
)
backward_op.register(cpu=_backward, fake=_backward_fake, flops=cost.backward_formula)
