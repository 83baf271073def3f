"""The selective scan on a GPU: Triton kernels, forward and backward.

A program works on 32 channels of one image, a tile of tokens at a time, one state after the other. Lanes are channels,
and a lane has all tokens of its tile in registers: the recurrence needs no exchange. Where programs are few, each has
several warps, and each warp a state. Between two tiles states lie in a small buffer; for the backward pass those of a
chunk's start are kept and the others computed again. B and C are laid out by state first, in the order of the scan, so
that a lane reads those of its tile at once.

Sums over programs are made of partial ones in a fixed order: results do not depend on how programs were run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto.ops._jit import at_rows, of_channels, sigmoid, softplus, tile
from rmeeto.ops._library import CHUNK
from rmeeto.ops._tensors import as_rows, on_device, states_shape
from rmeeto.ops.selective_scan._tiles import back_through, decay, pick, recur

_LANES = 32  # channels of a program: one a lane of a warp
_TILE = {"forward": 16, "backward": 8}  # tokens that a lane holds
_GROUP = 4  # states of a program at a time, one a warp, where programs are few; one state where they are many
_MANY = 512  # programs that fill a GPU
_PACKED = 64  # tokens of a program that lays out B and C
# Whole numbers vary from call to call: kernels are compiled for types and for which inputs there are, for nothing else.
# That `origin` is 0 must not be known either: where channels could be read by fours, four lanes would share a channel's
# tokens.
_SIZES = ["tokens", "channels", "state", "width", "origin", "groups"]
_STRIDES = [f"{name}_{way}" for name in ("u", "delta", "z", "dy", "b", "c") for way in ("batch", "token")]
_jit = triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])


@triton.jit
def _own_part(count, LENGTH: tl.constexpr):
    """What a program works on: the first of its channels or tokens, of `count`, and the image."""
    parts, program = tl.cdiv(count, LENGTH), tl.program_id(0)
    return program % parts * LENGTH, (program // parts).to(tl.int64)


@triton.jit
def _places(position, tokens, REVERSE: tl.constexpr, WIDE: tl.constexpr):
    """Where the tokens stand that have these positions in the order of the scan, and who of them lives."""
    place = tokens - 1 - position if REVERSE else position
    return place.to(tl.int64) if WIDE else place, position < tokens


@triton.jit
def _pace(time, place, alive):
    """The factor on A of each token, as the column of a tile; 1 where there is none."""
    if time is None:  # noqa: SIM108  (each branch is compiled by itself, a ternary as one)
        factor = 1.0
    else:
        factor = tl.load(time + place, mask=alive, other=0.0).to(tl.float32)[:, None]
    return factor


@triton.jit
def _steps(
    delta, bias, time, place, alive, delta_token, channel, inside, SOFTPLUS: tl.constexpr
):  # fmt: skip
    """Of a tile: delta with its bias, the step that drives and the one that decays; steps of nobody are zero."""
    live = alive[:, None] & inside[None, :]
    raw = tile(delta, place, delta_token, channel, live)
    if bias is not None:
        raw += of_channels(bias, channel, inside)
    step = tl.where(live, softplus(raw) if SOFTPLUS else raw, 0.0)
    return raw, step, step * _pace(time, place, alive)


@_jit
def _pack_kernel(
    B, C, packed, tokens, state, b_batch, b_token, c_batch, c_token,
    LENGTH: tl.constexpr, STATES: tl.constexpr, CHUNK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """B and C (b, n, s) -> (b, 2, s, whole chunks) float32 in the order of the scan."""
    first, image = _own_part(tokens, LENGTH)
    column, row, padded = tl.arange(0, STATES), tl.arange(0, LENGTH), tl.cdiv(tokens, CHUNK) * CHUNK
    place, alive = _places(first + row, tokens, REVERSE, True)
    known, position = (column < state)[None, :], (first + row)[:, None]
    live, written = alive[:, None] & known, (position < padded) & known
    to = packed + image * 2 * state * padded + position + column[None, :] * padded
    tl.store(to, tile(B + image * b_batch, place, b_token, column, live), mask=written)
    tl.store(to + state * padded, tile(C + image * c_batch, place, c_token, column, live), mask=written)


@_jit
def _unpack_kernel(
    partial, dB, dC, tokens, state, groups,
    LENGTH: tl.constexpr, STATES: tl.constexpr, CHUNK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The sums over the groups of channels, (b, groups, 2, s, whole chunks) -> twice (b, n, s)."""
    first, image = _own_part(tokens, LENGTH)
    column, row, padded = tl.arange(0, STATES), tl.arange(0, LENGTH), tl.cdiv(tokens, CHUNK) * CHUNK
    place, alive = _places(first + row, tokens, REVERSE, True)
    live = alive[:, None] & (column < state)[None, :]
    source = partial + image * groups * 2 * state * padded + (first + row)[:, None] + column[None, :] * padded
    of_B, of_C = tl.zeros((LENGTH, STATES), tl.float32), tl.zeros((LENGTH, STATES), tl.float32)
    for _ in range(groups):
        of_B += tl.load(source, mask=live, other=0.0)
        of_C += tl.load(source + state * padded, mask=live, other=0.0)
        source += 2 * state * padded
    to = image * tokens * state
    tl.store(at_rows(dB + to, place, state, column), of_B, mask=live)
    tl.store(at_rows(dC + to, place, state, column), of_C, mask=live)


@triton.jit
def _fetch(rates, entry, entry_stride, packed, plane, those, state, channels, channel, inside, row, entered):
    """Of those states the rates and the values that enter a tile, (states, channels); B and C, (tokens, states, 1)."""
    known = those < state
    own, at = known[:, None] & inside[None, :], packed + row[:, None] + those[None, :] * plane
    rate = tl.load(rates + those[:, None] * channels + channel[None, :], mask=own, other=0.0)
    start = tl.load(entry + those[:, None] * entry_stride + channel[None, :], mask=own & entered, other=0.0)
    B = tl.load(at, mask=known[None, :], other=0.0)[:, :, None]
    return rate, start, B, tl.load(at + state * plane, mask=known[None, :], other=0.0)[:, :, None]


@_jit
def _forward_kernel(
    u, delta, rates, packed, D, z, bias, time, y, states, scratch, tokens, channels, state, width, origin,
    u_batch, u_token, delta_batch, delta_token, z_batch, z_token, LANES: tl.constexpr, CHUNK: tl.constexpr,
    TILE: tl.constexpr, GROUP: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`scratch` (b, s, e) are the states between two tiles; `states`, where given, those at the start of chunks."""
    first, image = _own_part(channels, LANES)
    channel, group, row = origin + first + tl.arange(0, LANES), tl.arange(0, GROUP), tl.arange(0, TILE)
    inside, tiles, plane = channel < channels, tl.cdiv(tokens, TILE), tl.cdiv(tokens, CHUNK) * CHUNK
    scratch, packed = scratch + image * state * channels, packed + image * 2 * state * plane
    u, delta, y = u + image * u_batch, delta + image * delta_batch, y + image * tokens * channels
    if time is not None:
        time += image * tokens
    for number in range(tiles):
        place, alive = _places(number * TILE + row, tokens, REVERSE, WIDE)
        live = alive[:, None] & inside[None, :]
        U = tile(u, place, u_token, channel, live)
        _raw, step, decaying = _steps(delta, bias, time, place, alive, delta_token, channel, inside, SOFTPLUS)
        drive, sums = step * U, tl.zeros((TILE, GROUP, LANES), tl.float32)
        for k in range(0, state, GROUP):
            those = k + group
            rate, start, B, C = _fetch(
                rates, scratch, channels, packed + number * TILE, plane, those, state, channels, channel,
                inside, row, number > 0,
            )  # fmt: skip
            h = recur(decay(rate, decaying), drive[:, None, :] * B, start, (row == 0)[:, None, None])[0]
            sums += h * C
            left, own = pick(h, (row == TILE - 1)[:, None, None]), (those < state)[:, None] & inside[None, :]
            tl.store(scratch + those[:, None] * channels + channel[None, :], left, mask=own)
            if states is not None:
                to = ((image * tl.cdiv(tokens, CHUNK) + number * TILE // CHUNK) * state + those[:, None]) * width
                kept = (those < state)[:, None] & (channel < width)[None, :] & (number * TILE % CHUNK == 0)
                tl.store(states + to + channel[None, :], start, mask=kept)
        out = tl.sum(sums, 1)
        if D is not None:
            out += U * of_channels(D, channel, inside)
        if z is not None:
            Z = tile(z + image * z_batch, place, z_token, channel, live)
            out *= Z * sigmoid(Z)
        tl.store(at_rows(y, place, channels, channel), out, mask=live)


@triton.jit
def _advance(
    u, delta, rates, packed, bias, time, entry, entry_stride, left, place, alive, channels, channel, inside, state,
    plane, u_token, delta_token, TILE: tl.constexpr, GROUP: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Compute the states behind a tile from those in front of it again."""
    group, row = tl.arange(0, GROUP), tl.arange(0, TILE)
    _raw, step, decaying = _steps(delta, bias, time, place, alive, delta_token, channel, inside, SOFTPLUS)
    drive = step * tile(u, place, u_token, channel, alive[:, None] & inside[None, :])
    for k in range(0, state, GROUP):
        those = k + group
        rate, start, B, _C = _fetch(
            rates, entry, entry_stride, packed, plane, those, state, channels, channel, inside, row, True
        )
        h = recur(decay(rate, decaying), drive[:, None, :] * B, start, (row == 0)[:, None, None])[0]
        own = (those < state)[:, None] & inside[None, :]
        end = pick(h, (row == TILE - 1)[:, None, None])
        tl.store(left + those[:, None] * channels + channel[None, :], end, mask=own)


@triton.jit
def _flow(scratch, those, state, channels, channel, inside):
    """Of those states the gradient that flows in from the tile behind, and dA so far, (states, channels)."""
    own = (those < state)[:, None] & inside[None, :]
    at = scratch + those[:, None] * channels + channel[None, :]
    return tl.load(at, mask=own, other=0.0), tl.load(at + state * channels, mask=own, other=0.0)


@triton.jit
def _back_tile(
    rates, packed, partial, scratch, entry, entry_stride, decaying, drive, g, channels, channel, inside, state, plane,
    LANES: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """All states of a tile backwards: the output and the gradients of drive and step, (tokens, channels)."""
    group, row, lane = tl.arange(0, GROUP), tl.arange(0, TILE), tl.arange(0, LANES)
    outs = tl.zeros((TILE, GROUP, LANES), tl.float32)
    ddrives, dsteps = tl.zeros_like(outs), tl.zeros_like(outs)
    rate, start, B, C = _fetch(
        rates, entry, entry_stride, packed, plane, group, state, channels, channel, inside, row, True
    )
    flow, dA = _flow(scratch, group, state, channels, channel, inside)
    for k in range(0, state, GROUP):
        those, following = k + group, k + GROUP + group  # what the next states need is asked for before it is needed
        next_rate, next_start, next_B, next_C = _fetch(
            rates, entry, entry_stride, packed, plane, following, state, channels, channel, inside, row, True
        )
        next_flow, next_dA = _flow(scratch, following, state, channels, channel, inside)
        to_out, to_drive, to_step, of_tokens, to_A, flow = back_through(
            rate, decay(rate, decaying), start, flow, B, C, decaying[:, None, :], drive[:, None, :], g[:, None, :],
            row, TILE,
        )  # fmt: skip
        outs, ddrives, dsteps = outs + to_out, ddrives + to_drive, dsteps + to_step
        to, known = those[:, None] * plane + (lane // 16 * state * plane + lane // 2 % 8)[None, :], those < state
        tl.store(partial + to, of_tokens, mask=known[:, None] & (lane % 2 == 0)[None, :])
        own, mine = known[:, None] & inside[None, :], scratch + those[:, None] * channels + channel[None, :]
        tl.store(mine, flow, mask=own)
        tl.store(mine + state * channels, dA + to_A, mask=own)
        rate, start, B, C, flow, dA = next_rate, next_start, next_B, next_C, next_flow, next_dA
    return tl.sum(outs, 1), tl.sum(ddrives, 1), tl.sum(dsteps, 1)


@_jit
def _backward_kernel(
    dy, u, delta, rates, packed, D, z, bias, time, states, du, ddelta, dz, dtime, partial, scratch, sums,
    tokens, channels, state, width, origin, dy_batch, dy_token, u_batch, u_token, delta_batch, delta_token,
    z_batch, z_token, LANES: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Tiles from the last to the first, two a chunk. `sums` (b, 2, e) are dD and dbias; `scratch` (b, 3, s, e) is what

    flows between tiles, dA, and the states between the two tiles of a chunk.
    """
    first, image = _own_part(channels, LANES)
    channel, row = origin + first + tl.arange(0, LANES), tl.arange(0, TILE)
    inside, tiles, chunks = channel < channels, tl.cdiv(tokens, TILE), tl.cdiv(tokens, CHUNK)
    part, plane, shift = tl.program_id(0).to(tl.int64), chunks * CHUNK, image * tokens * channels
    scratch, sums = scratch + image * 3 * state * channels, sums + image * 2 * channels
    states, between = states + image * chunks * state * width, scratch + 2 * state * channels
    u, delta, dy = u + image * u_batch, delta + image * delta_batch, dy + image * dy_batch
    packed, partial = packed + image * 2 * state * plane, partial + part * 2 * state * plane
    sum_D, sum_bias = tl.zeros((LANES,), tl.float32), tl.zeros((LANES,), tl.float32)
    if time is not None:
        time += image * tokens
    for back in range(tiles):
        number = tiles - 1 - back
        entry, entry_stride = states + (number * TILE // CHUNK) * state * width, width
        if number * TILE % CHUNK != 0:
            place, alive = _places((number - 1) * TILE + row, tokens, REVERSE, WIDE)
            _advance(
                u, delta, rates, packed + (number - 1) * TILE, bias, time, entry, width, between, place, alive,
                channels, channel, inside, state, plane, u_token, delta_token, TILE, GROUP, SOFTPLUS,
            )  # fmt: skip
            entry, entry_stride = between, channels
        place, alive = _places(number * TILE + row, tokens, REVERSE, WIDE)
        live = alive[:, None] & inside[None, :]
        U, dY = tile(u, place, u_token, channel, live), tile(dy, place, dy_token, channel, live)
        raw, step, decaying = _steps(delta, bias, time, place, alive, delta_token, channel, inside, SOFTPLUS)
        g = dY
        if z is not None:
            Z = tile(z + image * z_batch, place, z_token, channel, live)
            g = dY * Z * sigmoid(Z)
        out, ddrive, dstep = _back_tile(
            rates, packed + number * TILE, partial + number * TILE, scratch, entry, entry_stride, decaying, step * U, g,
            channels, channel, inside, state, plane, LANES, TILE, GROUP,
        )  # fmt: skip
        skip = of_channels(D, channel, inside) if D is not None else tl.zeros((1, LANES), tl.float32)
        if z is not None:
            gate = sigmoid(Z)
            dZ = dY * (out + U * skip) * (gate * (1.0 + Z * (1.0 - gate)))
            tl.store(at_rows(dz + shift, place, channels, channel), dZ, mask=live)
        if time is not None:
            tl.store(dtime + part * tokens + place, tl.sum(dstep * step, 1), mask=alive)
        tl.store(at_rows(du + shift, place, channels, channel), ddrive * step + g * skip, mask=live)
        back_step = ddrive * U + dstep * _pace(time, place, alive)
        back_step = tl.where(live, back_step * sigmoid(raw) if SOFTPLUS else back_step, 0.0)
        tl.store(at_rows(ddelta + shift, place, channels, channel), back_step, mask=live)
        sum_D, sum_bias = sum_D + tl.sum(g * U, 0), sum_bias + tl.sum(back_step, 0)
    tl.store(sums + channel, sum_D, mask=inside)
    tl.store(sums + channels + channel, sum_bias, mask=inside)


def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """`rmeeto::selective_scan` on a GPU."""
    *tensors, softplus, reverse, keep = arguments
    u, delta, A, B, C, D, z, bias, time = _ready(tensors)
    batch, tokens, channels = u.shape
    y, shape, state = u.new_empty(u.shape), states_shape(u.shape, A), A.shape[1]
    states = u.new_empty(shape if keep else 0, dtype=torch.float32)
    if y.numel():
        scratch = states.new_empty((batch, state, channels))
        with on_device(u):
            rates, packed = A.t().contiguous(), _pack(B, C, reverse)
            _forward_kernel[_grid(u)](
                u, delta, rates, packed, D, z, bias, time, y, states if keep else None, scratch, tokens, channels,
                state, shape[3], 0, *_walk(u), *_walk(delta), *_walk(z),
                **_flags("forward", u, delta, z, softplus=softplus, reverse=reverse),
            )  # fmt: skip
    return y, states


def backward(dy: Tensor, states: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """`rmeeto::selective_scan_backward` on a GPU; makes all gradients and gives those that are wanted."""
    *tensors, softplus, reverse, needs = arguments
    if not states.numel():  # the op was called with keep=False: run the forward pass again
        states = forward(*tensors, softplus, reverse, True)[1]
    if dy.numel():
        with on_device(dy):
            gradients = _gradients(as_rows(dy), states, tensors, softplus=softplus, reverse=reverse)
    else:
        gradients = [None if x is None else torch.zeros_like(x) for x in tensors]
    return tuple(
        g.to(x.dtype) if x is not None and g is not None and need else dy.new_empty(0, dtype=torch.float32)
        for x, g, need in zip(tensors, gradients, needs, strict=True)
    )


def _gradients(
    dy: Tensor, states: Tensor, tensors: list[Tensor | None], *, softplus: bool, reverse: bool
) -> list[Tensor | None]:
    u, delta, A, B, C, D, z, bias, time = _ready(tensors)
    batch, tokens, channels = u.shape
    state, width, groups = A.shape[1], states.shape[3], triton.cdiv(channels, _LANES)
    packed = _pack(B, C, reverse)
    new = packed.new_empty
    du, ddelta, dz = u.new_empty(u.shape), delta.new_empty(u.shape), None if z is None else z.new_empty(u.shape)
    partial, sums = new((batch, groups, *packed.shape[1:])), new((batch, 2, channels))
    scratch = packed.new_zeros((batch, 3, state, channels))
    dtime = new((batch, groups, tokens if time is not None else 0))
    _backward_kernel[_grid(u)](
        dy, u, delta, A.t().contiguous(), packed, D, z, bias, time, states, du, ddelta, dz, dtime, partial, scratch,
        sums, tokens, channels, state, width, 0, *_walk(dy), *_walk(u), *_walk(delta), *_walk(z),
        **_flags("backward", u, delta, z, dy, softplus=softplus, reverse=reverse),
    )  # fmt: skip
    dB, dC = B.new_empty(B.shape), C.new_empty(C.shape)
    _unpack_kernel[_packed_grid(B)](partial, dB, dC, tokens, state, groups, **_packed_sizes(B, reverse))
    dA, (dD, dbias) = scratch[:, 1].sum(0).t().contiguous(), sums.sum(0).unbind()
    return [du, ddelta, dA, dB, dC, dD, dz, dbias, None if time is None else dtime.sum(1)]


def _pack(B: Tensor, C: Tensor, reverse: bool) -> Tensor:  # noqa: FBT001
    batch, tokens, state = B.shape
    packed = B.new_empty((batch, 2, state, triton.cdiv(tokens, CHUNK) * CHUNK), dtype=torch.float32)
    _pack_kernel[_packed_grid(B)](B, C, packed, tokens, state, *_walk(B), *_walk(C), **_packed_sizes(B, reverse))
    return packed


def _packed_grid(B: Tensor) -> tuple[int]:
    return (triton.cdiv(B.shape[1], _PACKED) * B.shape[0],)


def _packed_sizes(B: Tensor, reverse: bool) -> dict[str, Any]:  # noqa: FBT001
    return {"LENGTH": _PACKED, "STATES": triton.next_power_of_2(B.shape[2]), "CHUNK": CHUNK, "REVERSE": reverse}


def _ready(tensors: list[Tensor | None]) -> list[Any]:
    """The inputs as the kernels read them: rows with neighbours side by side, all else dense, A in float32."""
    u, delta, A, B, C, D, z, bias, time = tensors
    assert A is not None
    dense = [None if x is None else x.contiguous() for x in (D, bias, time)]
    return [as_rows(u), as_rows(delta), A.float(), as_rows(B), as_rows(C), dense[0], as_rows(z), *dense[1:]]


def _walk(x: Tensor | None) -> tuple[int, int]:
    """Strides of images and of tokens."""
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def _flags(way: str, u: Tensor, *others: Tensor | None, softplus: bool, reverse: bool) -> dict[str, Any]:
    """What kernels are compiled for; 64 bits a place where an image of a tensor has more numbers than 31 can tell."""
    group = 1 if _grid(u)[0] >= _MANY else _GROUP
    wide = any(x is not None and x.shape[1] * x.stride(1) > 2**31 - 1 for x in (u, *others))
    sizes = {"LANES": _LANES, "CHUNK": CHUNK, "TILE": _TILE[way], "GROUP": group, "num_warps": group}
    if torch.version.hip is None and u.is_cuda and group == 1:
        sizes["maxnreg"] = 168  # registers of a lane: with more of them too few programs run at once
    return {**sizes, "SOFTPLUS": softplus, "REVERSE": reverse, "WIDE": wide}


def _grid(u: Tensor) -> tuple[int]:
    return (triton.cdiv(u.shape[2], _LANES) * u.shape[0],)
