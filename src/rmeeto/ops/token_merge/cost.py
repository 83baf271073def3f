"""FLOPs of a merge: 2 b n c forward, a multiplication and an addition a number; half of it backward."""

from __future__ import annotations

from collections.abc import Sequence

Shape = Sequence[int]


def merge_flops(x: Shape) -> int:
    """FLOPs of one merge of x (b, n, c)."""
    batch, tokens, channels = x
    return 2 * batch * tokens * channels


def forward_formula(x: Shape, *_: object, out_shape: object = None) -> int:  # noqa: ARG001
    """For torch's FLOP counter, which passes shapes in place of tensors."""
    return merge_flops(x)


def backward_formula(dy: Shape, size: object, index: Shape, *_: object, out_shape: object = None) -> int:  # noqa: ARG001
    """A multiplication a number."""
    return merge_flops((*index, dy[2])) // 2
