"""The causal convolution on a GPU: Triton kernels, forward and backward.

A program makes a block of tokens and channels of one image; neighbours that it reads twice are in the cache. Gradients
of the weights are partial sums of each program, added up in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto.ops._jit import at_rows, of_channels, sigmoid, tile
from rmeeto.ops._tensors import as_rows, on_device

_LANES = 128  # channels of a program: four a lane of a warp in float32
_LENGTH = {"forward": 4, "backward": 2}  # tokens at a time
_STEPS = {"forward": 1, "backward": 16}  # how often: the more, the fewer partial sums of gradients
_jit = triton.jit(do_not_specialize=["tokens"])  # else merging would compile anew


@triton.jit
def _own_block(tokens, channels, SPAN: tl.constexpr, LANES: tl.constexpr):
    """What a program works on: its first position in the order of the convolution, channels, image."""
    across, along, program = tl.cdiv(channels, LANES), tl.cdiv(tokens, SPAN), tl.program_id(0)
    channel = program % across * LANES + tl.arange(0, LANES)
    return program // across % along * SPAN, channel, (program // across // along).to(tl.int64)


@triton.jit
def _places(position, tokens, REVERSE: tl.constexpr):
    """Where the tokens stand that have these positions."""
    return (tokens - 1 - position if REVERSE else position).to(tl.int64)


@triton.jit
def _read(x, position, tokens, token_stride, channel, inside, REVERSE: tl.constexpr):
    """The tile at these positions; zero before the first token and behind the last."""
    live = ((position >= 0) & (position < tokens))[:, None] & inside[None, :]
    return tile(x, _places(position, tokens, REVERSE), token_stride, channel, live)


@triton.jit
def _convolved(
    x, weights, bias, position, SHIFT: tl.constexpr, tokens, channels, token_stride, channel, inside,
    TAPS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """What goes into the SiLU `SHIFT` tokens on."""
    total = of_channels(bias, channel, inside) if bias is not None else tl.zeros((1, channel.shape[0]), tl.float32)
    for j in tl.static_range(TAPS):
        row = _read(x, position + (SHIFT - j), tokens, token_stride, channel, inside, REVERSE)
        total = total + of_channels(weights + (TAPS - 1 - j) * channels, channel, inside) * row
    return total


@_jit
def _forward_kernel(
    x, weights, bias, y, tokens, channels, x_batch, x_token,
    LENGTH: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr, TAPS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """`weights` (taps, e)."""
    first, channel, image = _own_block(tokens, channels, LENGTH * STEPS, LANES)
    inside = channel < channels
    x, y = x + image * x_batch, y + image * tokens * channels
    for step in range(STEPS):
        position = first + step * LENGTH + tl.arange(0, LENGTH)
        out = _convolved(x, weights, bias, position, 0, tokens, channels, x_token, channel, inside, TAPS, REVERSE)
        live = (position < tokens)[:, None] & inside[None, :]
        to = at_rows(y, _places(position, tokens, REVERSE), channels, channel)
        tl.store(to, out * sigmoid(out), mask=live)


@_jit
def _backward_kernel(
    dy, x, weights, bias, dx, partial, tokens, channels, dy_batch, dy_token, x_batch, x_token,
    LENGTH: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr, TAPS: tl.constexpr, SUMS: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """`partial` (programs along b and n, taps + 1, e): gradients of the weights by tap, and of the bias."""
    first, channel, image = _own_block(tokens, channels, LENGTH * STEPS, LANES)
    inside, which = channel < channels, tl.arange(0, SUMS)[:, None]
    x, dy, dx = x + image * x_batch, dy + image * dy_batch, dx + image * tokens * channels
    sums, nothing = tl.zeros((SUMS, LANES), tl.float32), tl.full((SUMS, LANES), -0.0, tl.float32)
    for step in range(STEPS):
        position = first + step * LENGTH + tl.arange(0, LENGTH)
        live = (position < tokens)[:, None] & inside[None, :]
        total = tl.zeros((LENGTH, LANES), tl.float32)
        for j in tl.static_range(TAPS):  # a token has a part in the outputs j tokens on
            before = _convolved(
                x, weights, bias, position, j, tokens, channels, x_token, channel, inside, TAPS, REVERSE
            )
            gate = sigmoid(before)
            back = _read(dy, position + j, tokens, dy_token, channel, inside, REVERSE)
            back = tl.where((position + j < tokens)[:, None], back * (gate * (1.0 + before * (1.0 - gate))), 0.0)
            total += of_channels(weights + (TAPS - 1 - j) * channels, channel, inside) * back
            if j == 0:
                for i in tl.static_range(TAPS):
                    row = _read(x, position - i, tokens, x_token, channel, inside, REVERSE)
                    of_tap = tl.sum(tl.where(live, back * row, 0.0), 0)[None, :]
                    sums += tl.where(which == TAPS - 1 - i, of_tap, nothing)
                sums += tl.where(which == TAPS, tl.sum(back, 0)[None, :], nothing)
        tl.store(at_rows(dx, _places(position, tokens, REVERSE), channels, channel), total, mask=live)
    program = (tl.program_id(0) // tl.cdiv(channels, LANES)).to(tl.int64)
    to = partial + (program * (TAPS + 1) + which) * channels + channel[None, :]
    tl.store(to, sums, mask=(which <= TAPS) & inside[None, :])


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:  # noqa: FBT001
    """`rmeeto::causal_conv` on a GPU."""
    y = x.new_empty(x.shape)
    if y.numel():
        x, weights, bias = _ready(x, weight, bias)
        with on_device(x):
            sizes = _sizes("forward", weights, reverse)
            _forward_kernel[_grid(x, sizes)](x, weights, bias, y, *x.shape[1:], *x.stride()[:2], **sizes)
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reverse: bool,  # noqa: FBT001
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """`rmeeto::causal_conv_backward` on a GPU; makes all gradients and gives those that are wanted."""
    inputs = (x, weight, bias)
    if dy.numel():
        with on_device(dy):
            made: tuple[Tensor, ...] = _gradients(as_rows(dy), *_ready(*inputs), reverse=reverse)
    else:
        made = tuple(torch.zeros_like(x if t is None else t) for t in inputs)
    return tuple(
        g.to(t.dtype) if t is not None and need else dy.new_empty(0, dtype=torch.float32)
        for t, g, need in zip(inputs, made, needs, strict=True)
    )


def _gradients(
    dy: Tensor, x: Tensor, weights: Tensor, bias: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    taps, channels = weights.shape
    dx, sizes = x.new_empty(x.shape), _sizes("backward", weights, reverse)
    programs = _grid(x, sizes)[0] // triton.cdiv(channels, _LANES)
    partial = x.new_empty((programs, taps + 1, channels), dtype=torch.float32)
    _backward_kernel[_grid(x, sizes)](
        dy, x, weights, bias, dx, partial, *x.shape[1:], *dy.stride()[:2], *x.stride()[:2],
        SUMS=triton.next_power_of_2(taps + 1), **sizes,
    )  # fmt: skip
    sums = partial.sum(0)
    return dx, sums[:taps].t().contiguous(), sums[taps]


def _ready(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows with neighbours side by side, weights by tap, so that neighbours read theirs at once."""
    return as_rows(x), weight.t().contiguous(), None if bias is None else bias.contiguous()


def _grid(x: Tensor, sizes: dict[str, Any]) -> tuple[int]:
    batch, tokens, channels = x.shape
    return (batch * triton.cdiv(tokens, sizes["LENGTH"] * sizes["STEPS"]) * triton.cdiv(channels, _LANES),)


def _sizes(way: str, weights: Tensor, reverse: bool) -> dict[str, Any]:  # noqa: FBT001
    tokens = {"LENGTH": _LENGTH[way], "STEPS": _STEPS[way], "LANES": _LANES}
    return {**tokens, "TAPS": weights.shape[0], "REVERSE": reverse, "num_warps": 1}
