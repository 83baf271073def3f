"""Bipartite soft matching: every source finds the destination most like it, and the most alike pairs are taken."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops.token_match import native
from rmeeto.ops.token_match.reference import Match, token_match_reference

__all__ = ["Match", "check_choice", "token_match", "token_match_reference"]


def token_match(
    values: Tensor,
    places: Tensor,
    r: int,
    *,
    rows: Tensor | None = None,
    similarity: str = "cosine",
    rank: int = 1,
    first: int = 0,
    by_sequence: bool = False,
    backend: str | None = None,
) -> Match:
    """Let every source choose its `rank`-th most similar destination, and r sources leave.

    Patch tokens, the k protected ones left out, are numbered by rows 0 .. N-1. Sources are every second row from
    `first` (0 or 1) on, destinations the others. Rows of values are brought to length 1 (zero rows stay zero).

    Shapes: values (b, n, d) of all tokens, protected ones too; places (b, k) int64, where those stand; rows (b, N)
    int64, the place of each row, without it in order of the sequence. No units. For what is answered see `Match`.
    `similarity` is "cosine", or minus the "l1" or the squared "l2" distance. A rank beyond the destinations is cut.
    `by_sequence` sorts the sources that stay. Half types are compared in float32. There are no gradients.

    Memory grows with n d, never with n^2. Equal tokens are exactly equally similar in the native kernel, and its
    results do not depend on the number of threads. NaN counts as most similar, as torch sorts it.

    backend: "native", "reference" or "auto" (None: as `use_backend` says, "auto" at first). float64, the type of
    checks, is compared by the reference; so does, unlike in other ops, "auto" without a word.
    Raises ShapeError where shapes do not fit, IndexError for what is no place, and BackendError where "native" cannot
    run.
    Source: arXiv 2412.12496, section 3; bipartite soft matching of arXiv 2210.09461.
    """
    if values.dim() != 3 or places.dim() != 2 or values.shape[0] != places.shape[0]:
        raise ShapeError(
            f"values have shape {tuple(values.shape)} and places {tuple(places.shape)}; "
            "they must be (batch, tokens, width) and (batch, protected): check them"
        )
    patches = values.shape[1] - places.shape[1]
    check_choice(patches, r, similarity=similarity, rank=rank, first=first)
    if rows is not None and tuple(rows.shape) != (values.shape[0], patches):
        raise ShapeError(f"rows has shape {tuple(rows.shape)}; with these values it must be {(len(values), patches)}")
    decide = backends.runs if values.dtype is torch.float64 else backends.choose
    how = {"rows": rows, "similarity": similarity, "rank": rank, "first": first, "by_sequence": by_sequence}
    if not decide("token_match", (values,), backend):
        return token_match_reference(values, places, r, **how)  # type: ignore[arg-type]
    return Match(*native.op(values, places, rows, r, similarity, rank, first, by_sequence))


def check_choice(patches: int, r: int, *, similarity: str, rank: int, first: int) -> None:
    """Raise ShapeError where r of so many patch tokens cannot be chosen so."""
    if first not in (0, 1) or rank < 1 or similarity not in native.SIMILARITIES:
        raise ShapeError(
            f"first = {first}, rank = {rank}, similarity = {similarity!r}; they must be 0 or 1, 1 or more, "
            f"and one of {', '.join(native.SIMILARITIES)}"
        )
    if patches < 2 or not 0 <= r <= (patches - first + 1) // 2:
        raise ShapeError(f"r = {r} of {patches} patch tokens; there must be 2 or more, and r at most every second one")
