"""The bidirectional core in plain PyTorch: convolution, projection and scan of each direction, then the gate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from rmeeto.ops.causal_conv import causal_conv
from rmeeto.ops.selective_scan import selective_scan


class Direction(NamedTuple):
    """Parameters of one direction, e channels, s states, rank R, k taps."""

    conv_weight: Tensor  # (e, 1, k)
    conv_bias: Tensor  # (e,)
    projection: Tensor  # (R + 2s, e): dt, B and C from the convolved tokens
    dt_weight: Tensor  # (e, R)
    dt_bias: Tensor  # (e,)
    A_log: Tensor  # (e, s), A = -exp(A_log)
    D: Tensor  # (e,)


def bimamba_reference(
    xz: Tensor,
    directions: tuple[Direction, Direction],
    time: Tensor | None = None,
    *,
    scale: float = 1.0,
    backend: str | None = "reference",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Composed of the other ops, each on `backend`; arguments and results as in `rmeeto.ops.bimamba`."""
    u, z = xz.chunk(2, dim=-1)
    total, projected = None, []
    for direction, reverse in zip(directions, (False, True), strict=True):
        y, p = _one_way(u, z, direction, time, reverse=reverse, backend=backend)
        total = y if total is None else total + y
        projected.append(p)
    assert total is not None
    return total if scale == 1.0 else total * scale, (projected[0], projected[1])


def _one_way(
    u: Tensor, z: Tensor, direction: Direction, time: Tensor | None, *, reverse: bool, backend: str | None
) -> tuple[Tensor, Tensor]:
    rank, state = direction.dt_weight.shape[1], direction.A_log.shape[1]
    u = causal_conv(u, direction.conv_weight.squeeze(1), direction.conv_bias, reverse=reverse, backend=backend)
    p = linear(u, direction.projection)
    dt, B, C = p.split([rank, state, state], dim=-1)
    delta = linear(dt, direction.dt_weight)
    wide = torch.promote_types(direction.A_log.dtype, torch.float32)  # half types are computed in float32
    A = -torch.exp(direction.A_log.to(wide))
    bias, D = direction.dt_bias.to(wide), direction.D.to(wide)
    y = selective_scan(u, delta, A, B, C, D, z, bias, time, reverse=reverse, backend=backend)
    return y, p
