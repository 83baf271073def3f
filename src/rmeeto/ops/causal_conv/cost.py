"""FLOPs of the causal convolution: 2 b n e k forward (a multiplication and an addition a tap), twice that backward.

Bias and SiLU are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

Shape = Sequence[int]


def conv_flops(x: Shape, taps: int) -> int:
    """FLOPs of one forward convolution of x (b, n, e)."""
    batch, tokens, channels = x
    return 2 * batch * tokens * channels * taps


def forward_formula(x: Shape, weight: Shape, *_: object, out_shape: object = None) -> int:  # noqa: ARG001
    """For torch's FLOP counter, which passes shapes in place of tensors."""
    return conv_flops(x, weight[1])


def backward_formula(dy: Shape, x: Shape, weight: Shape, *_: object, out_shape: object = None) -> int:  # noqa: ARG001
    """Twice the forward convolution."""
    return 2 * conv_flops(x, weight[1])
