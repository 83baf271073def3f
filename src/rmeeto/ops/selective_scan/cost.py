"""FLOPs of the selective scan, by the Mamba authors' own count.

Forward: 9 b n e s for the recurrence (discretising, updating, reading out), b n e for the skip D, b n e for the gate z.
Softplus, bias and time are not counted. Backward: twice the forward, as for a matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

Shape = Sequence[int]


def scan_flops(u: Shape, state: int, *, skip: bool, gate: bool) -> int:
    """FLOPs of one forward scan of u (b, n, e) with `state` states per channel."""
    batch, tokens, channels = u
    return batch * tokens * channels * (9 * state + int(skip) + int(gate))


def forward_formula(
    u: Shape,
    delta: Shape,  # noqa: ARG001
    A: Shape,
    B: Shape,  # noqa: ARG001
    C: Shape,  # noqa: ARG001
    D: Shape | None,
    z: Shape | None,
    *_: object,
    out_shape: object = None,  # noqa: ARG001
) -> int:
    """For torch's FLOP counter, which passes shapes in place of tensors."""
    return scan_flops(u, A[1], skip=D is not None, gate=z is not None)


def backward_formula(dy: Shape, states: Shape, *forward: object, out_shape: object = None) -> int:  # noqa: ARG001
    """Twice the forward scan."""
    return 2 * forward_formula(*forward)  # type: ignore[arg-type]
