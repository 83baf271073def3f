"""FLOPs of a merge: those of the match and of the sums."""

from __future__ import annotations

from collections.abc import Sequence

from rmeeto.ops.token_match.cost import match_flops
from rmeeto.ops.token_merge.cost import merge_flops

Shape = Sequence[int]


def forward_formula(x: Shape, size: object, values: Shape, places: Shape, *how: object, **_: object) -> int:  # noqa: ARG001
    """For torch's FLOP counter, which passes shapes in place of tensors."""
    first = how[3]
    assert isinstance(first, int)
    return match_flops(values, places[1], first) + merge_flops(x)
