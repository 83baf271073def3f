"""FLOPs of a block: the two projections, two per multiply-add, and the bidirectional core between them."""

from __future__ import annotations

from collections.abc import Sequence

from rmeeto.ops.bimamba import cost

Shape = Sequence[int]


def forward_formula(x: Shape, time: Shape | None, *weights: Shape, out_shape: object = None) -> int:  # noqa: ARG001
    """For torch's FLOP counter, which passes shapes in place of tensors; the norm counts nothing, as torch's own."""
    batch, tokens, width = x
    _norm, in_proj, out_proj, *parameters = weights
    projections = 2 * batch * tokens * width * (in_proj[0] + out_proj[1])
    return projections + cost.forward_formula((batch, tokens, in_proj[0]), time, *parameters)
