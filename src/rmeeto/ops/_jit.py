"""What the Triton kernels share, in float32. Needs Triton: imported by kernels alone."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), 0 and 1 at the infinities."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x):
    """log(1 + exp(x)) with a small relative error everywhere, also where it is close to zero.

    The logarithm is 2 artanh(e / (2 + e)) as a series: the processor's own has only a small absolute error.
    """
    e = tl.exp(-tl.abs(x))
    ratio = e / (2.0 + e)
    square = ratio * ratio
    series = 1.0 / 9 + square * (1.0 / 11 + square * (1.0 / 13))
    series = 1.0 / 3 + square * (1.0 / 5 + square * (1.0 / 7 + square * series))
    return tl.maximum(x, 0.0) + 2.0 * ratio * (1.0 + square * series)


@triton.jit
def at_rows(base, place, token_stride, channel):
    """Addresses of a (tokens, channels) tile."""
    return base + (place[:, None] * token_stride + channel[None, :])


@triton.jit
def tile(base, place, token_stride, channel, live):
    """A (tokens, channels) tile as float32, zero where nothing lives."""
    return tl.load(at_rows(base, place, token_stride, channel), mask=live, other=0.0).to(tl.float32)


@triton.jit
def of_channels(base, channel, inside):
    """One number a channel as float32, as the row of a tile."""
    return tl.load(base + channel, mask=inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _trial(x):
    tl.store(x, sigmoid(tl.load(x)))


def compile_trial() -> None:
    """Compile a small kernel for this machine's GPU, and run nothing; raises where anything needed is missing."""
    _trial.warmup(torch.float32, grid=(1,))
