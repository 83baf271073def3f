"""FLOPs of the bidirectional core: those of its parts, both directions.

Per direction the convolution, two per multiply-add of the projections to (dt, B, C) and to delta, and the scan with its
skip and gate by the Mamba authors' count. Backward: twice the forward.
"""

from __future__ import annotations

from collections.abc import Sequence

from rmeeto.ops.causal_conv.cost import conv_flops
from rmeeto.ops.selective_scan.cost import scan_flops

Shape = Sequence[int]
_WIDTH = 7  # parameters of a direction


def bimamba_flops(u: Shape, state: int, rank: int, taps: int) -> int:
    """FLOPs of one forward pass over u (b, n, e) in both directions."""
    batch, tokens, channels = u
    projections = 2 * batch * tokens * channels * (rank + 2 * state + rank)
    return 2 * (conv_flops(u, taps) + projections + scan_flops(u, state, skip=True, gate=True))


def forward_formula(xz: Shape, time: Shape | None, *parameters: Shape, out_shape: object = None) -> int:  # noqa: ARG001
    """For torch's FLOP counter, which passes shapes in place of tensors."""
    conv_weight, _, _, dt_weight, _, A_log, _ = parameters[:_WIDTH]
    return bimamba_flops((xz[0], xz[1], xz[2] // 2), A_log[1], dt_weight[1], conv_weight[-1])


def backward_formula(dy: Shape, *arguments: Shape, out_shape: object = None) -> int:  # noqa: ARG001
    """Twice the forward pass."""
    return 2 * forward_formula(*arguments[6:])
