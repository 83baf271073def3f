"""The block as the torch op `rmeeto::block`, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmeeto.ops import _library
from rmeeto.ops._tensors import LIBRARY, register, wants_gradient
from rmeeto.ops.bimamba.native import fits as taps_fit
from rmeeto.ops.bimamba.reference import Direction
from rmeeto.ops.block import cost
from rmeeto.ops.block.structs import BlockForward, outputs_of

_PLAIN = {Tensor, torch.nn.Parameter}
NAMES = ", ".join(f"Tensor {name}{suffix}" for suffix in ("", "_b") for name in Direction._fields)

LIBRARY.define(
    f"block(Tensor x, Tensor? time, Tensor norm_weight, Tensor in_proj, Tensor out_proj, {NAMES}, float eps,"
    " float scale) -> (Tensor y, Tensor hidden, Tensor p, Tensor p_b)"
)


def fits(tensors: Sequence[Tensor | None], directions: tuple[Direction, Direction]) -> bool:
    """Whether the kernel is there and has code for these, which nobody wants gradients of.

    The tensors of many blocks of one shape may be asked about at once, with the directions of one of them.
    """
    given, (one, other) = [t for t in tensors if t is not None], directions
    return (
        # Other types of tensors (quantised, distributed) have ways of their own, whatever dtype they name.
        {type(t) for t in given} <= _PLAIN
        and {t.dtype for t in given} <= {torch.float32}
        and all(t.is_cpu for t in given)
        and not wants_gradient(given)
        and not torch.is_autocast_enabled("cpu")
        and _library.problem() is None
        and one.projection.shape == other.projection.shape
        and one.A_log.shape == other.A_log.shape
        and one.conv_weight.shape == other.conv_weight.shape
        and taps_fit(directions)
    )


def block(
    x: Tensor,
    norm_weight: Tensor,
    in_proj: Tensor,
    directions: tuple[Direction, Direction],
    out_proj: Tensor,
    time: Tensor | None,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The op: see `rmeeto.ops.block`."""
    op = torch.ops.rmeeto.block.default
    y, hidden, *projected = op(x, time, norm_weight, in_proj, out_proj, *directions[0], *directions[1], eps, scale)
    return y, hidden, (projected[0], projected[1])


def _forward(x: Tensor, time: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    *weights, eps, scale = arguments
    made = _results(x, outputs_of(weights))
    if x.numel():
        y, hidden, *projected = made
        BlockForward(x, time, weights, eps, scale, (projected[0], projected[1]), (y, hidden)).run()
    return made


def _fake(x: Tensor, time: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
    return _results(x, outputs_of(arguments))


def _results(x: Tensor, outputs: int) -> tuple[Tensor, ...]:
    batch, tokens, width = x.shape
    # Sizes one by one: torch takes a microsecond longer to read a tuple of them.
    y, hidden = x.new_empty(batch, tokens, width), x.new_empty(batch, tokens, width)
    return y, hidden, x.new_empty(batch, tokens, outputs), x.new_empty(batch, tokens, outputs)


register("block", cpu=_forward, fake=_fake, flops=cost.forward_formula)
