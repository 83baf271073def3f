"""FLOPs of a match: 2 S D d, a multiplication and an addition (L1: a difference and an addition) a pair and number.

Lengths and sorting are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

Shape = Sequence[int]


def match_flops(values: Shape, protected: int, first: int = 0) -> int:
    """FLOPs of one match among n - k patch tokens of values (b, n, d)."""
    batch, tokens, width = values
    sources = (tokens - protected - first + 1) // 2
    return 2 * batch * sources * (tokens - protected - sources) * width


def formula(
    values: Shape,
    places: Shape,
    rows: object,  # noqa: ARG001
    r: int,  # noqa: ARG001
    similarity: str,  # noqa: ARG001
    rank: int,  # noqa: ARG001
    first: int,
    *_: object,
    out_shape: object = None,  # noqa: ARG001
) -> int:
    """For torch's FLOP counter, which passes shapes in place of tensors."""
    return match_flops(values, places[1], first)
