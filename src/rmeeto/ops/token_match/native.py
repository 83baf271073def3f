"""The match as the torch op `rmeeto::token_match`."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto.ops._op import Op
from rmeeto.ops._structs import TokenMatch, run
from rmeeto.ops.token_match import cost

SIMILARITIES = ("cosine", "l1", "l2")  # in the order of csrc/match.h

op = Op(
    "token_match",
    "(Tensor values, Tensor places, Tensor? rows, int r, str similarity, int rank, int first,"
    " bool by_sequence) -> (Tensor leaving, Tensor joined, Tensor staying, Tensor best)",
)


def _forward(
    values: Tensor,
    places: Tensor,
    rows: Tensor | None,
    r: int,
    similarity: str,
    rank: int,
    first: int,
    by_sequence: bool,  # noqa: FBT001
) -> tuple[Tensor, ...]:
    made = _new(values, places, rows, r, similarity, rank, first, by_sequence)
    if made[-1].numel():
        run([TokenMatch(values, places, rows, r, SIMILARITIES.index(similarity), rank, first, by_sequence, *made)])
    return made


def _new(values: Tensor, places: Tensor, rows: Tensor | None, r: int, *how: object) -> tuple[Tensor, ...]:  # noqa: ARG001
    first = how[2]
    assert isinstance(first, int)
    sources = (values.shape[1] - places.shape[1] - first + 1) // 2
    counts = (r, r, sources - r)
    made = [values.new_empty((values.shape[0], count), dtype=torch.int64) for count in counts]
    return (*made, values.new_empty((values.shape[0], sources), dtype=torch.float32))


op.register(cpu=_forward, fake=_new, flops=cost.formula)
op.register_without_gradients()  # whole numbers have none
