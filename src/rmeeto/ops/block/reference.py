"""The block in the ops it is made of: the law for outputs and gradients where those run their references."""

from __future__ import annotations

from torch import Tensor

from rmeeto.ops.bimamba import Direction, bimamba
from rmeeto.ops.linear import linear
from rmeeto.ops.rms_norm import rms_norm


def block_reference(
    x: Tensor,
    norm_weight: Tensor,
    in_proj: Tensor,
    directions: tuple[Direction, Direction],
    out_proj: Tensor,
    time: Tensor | None = None,
    *,
    eps: float = 1e-5,
    scale: float = 1.0,
    backend: str | None = "reference",
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Composed of the other ops, each on `backend`; arguments and results as in `rmeeto.ops.block`."""
    xz = linear(rms_norm(x, norm_weight, eps, backend=backend), in_proj, backend=backend)
    y, projected = bimamba(xz, directions, time, scale=scale, backend=backend)
    hidden = linear(y, out_proj, backend=backend)
    return x + hidden, hidden, projected
