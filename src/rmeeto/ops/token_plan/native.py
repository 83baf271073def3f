"""The numbering as the torch op `rmeeto::token_plan`."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto.ops._op import Op
from rmeeto.ops._structs import TokenPlan, run

op = Op(
    "token_plan",
    "(Tensor leaving, Tensor joined, Tensor heads, Tensor places, int tokens, Tensor? rows, bool ordered,"
    " bool official, bool prune) -> (Tensor index, Tensor kept)",
)


def _forward(
    leaving: Tensor,
    joined: Tensor,
    heads: Tensor,
    places: Tensor,
    tokens: int,
    rows: Tensor | None,
    ordered: bool,  # noqa: FBT001
    official: bool,  # noqa: FBT001
    prune: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor]:
    index, kept = _new(leaving, joined, heads, places, tokens, rows, ordered, official, prune)
    if index.numel():
        wanted = kept if prune else None
        run([TokenPlan(leaving, joined, heads, places, rows, ordered, official, index, wanted)])
    return index, kept


def _new(leaving: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
    tokens, prune = arguments[3], arguments[-1]
    assert isinstance(tokens, int)
    shape = (leaving.shape[0], tokens)
    return leaving.new_empty(shape, dtype=torch.int64), leaving.new_empty(shape if prune else (0,), dtype=torch.bool)


op.register(cpu=_forward, fake=_new)
