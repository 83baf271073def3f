"""A whole merge as one op: match, plan, merge."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops.bipartite_merge import native
from rmeeto.ops.bipartite_merge.reference import bipartite_merge_reference
from rmeeto.ops.token_match import check_choice
from rmeeto.schedule import MergeMode
from rmeeto.tokens import TokenMap

__all__ = ["Merged", "Merging", "bipartite_merge", "bipartite_merge_reference", "check_merge"]


class Merged(NamedTuple):
    """What a merge gives."""

    x: Tensor  # (b, n - r, c)
    size: Tensor  # (b, n - r)
    places: Tensor  # (b, k)
    mapping: TokenMap  # of the n tokens onto n - r


class Merging(NamedTuple):
    """How a merge is done: the arguments of `bipartite_merge` that are no tensors."""

    r: int
    similarity: str = "cosine"
    rank: int = 1
    first: int = 0
    by_sequence: bool = False
    ordered: bool = True
    official: bool = False
    mode: MergeMode = "sum"


def bipartite_merge(
    x: Tensor,
    size: Tensor | None,
    values: Tensor,
    places: Tensor,
    r: int,
    *,
    similarity: str = "cosine",
    rank: int = 1,
    first: int = 0,
    by_sequence: bool = False,
    ordered: bool = True,
    official: bool = False,
    mode: MergeMode = "sum",
    backend: str | None = None,
) -> Merged:
    """`token_match` of the values, `token_plan` of what it answers, `token_merge` of x by that plan: see there.

    Shapes: x (b, n, c); size (b, n) float32, ones where absent; values (b, n, d); places (b, k) int64. Unordered, the
    sources that stay are the heads. `mode` is "sum", "mean" or "prune", whose r leaving tokens weigh nothing. x has
    gradients, the values have none; where size wants one, too, and in float64, the op is composed of the three.

    backend: "native", "reference" or "auto" (None: as `use_backend` says).
    Raises ShapeError where shapes do not fit or r is more than every second patch token, IndexError for what is no
    place, and BackendError where "native" cannot run.
    Source: arXiv 2412.12496, section 3.
    """
    if backends.setting(backend) in ("auto", "native") and native.fits(x, size, values, places, mode):
        check_merge(x, size, values, places, r, first, rank, similarity)
        weights, how = None if mode == "mean" else size, (similarity, rank, first, by_sequence, ordered, official, mode)
        y, sizes, moved, index, kept = native.op(x, weights, values, places, r, *how)
        mapping = TokenMap(index, x.shape[1] - r, kept if mode == "prune" else None)
        return Merged(y, sizes, moved, mapping)
    made = bipartite_merge_reference(
        x,
        size,
        values,
        places,
        r,
        similarity=similarity,
        rank=rank,
        first=first,
        by_sequence=by_sequence,
        ordered=ordered,
        official=official,
        mode=mode,
        backend=backend,
    )
    return Merged(*made)


def check_merge(
    x: Tensor, size: Tensor | None, values: Tensor, places: Tensor, r: int, first: int, rank: int, similarity: str
) -> None:
    """Raise ShapeError where these cannot be merged."""
    shape = x.shape[:2]
    if x.dim() != 3 or values.dim() != 3 or places.dim() != 2 or values.shape[:2] != shape:
        raise ShapeError(
            f"x {tuple(x.shape)}, values {tuple(values.shape)} and places {tuple(places.shape)} must be (b, n, c), "
            "(b, n, d) and (b, k): check them"
        )
    if places.shape[0] != shape[0] or (size is not None and size.shape != shape):
        given = None if size is None else tuple(size.shape)
        raise ShapeError(
            f"places {tuple(places.shape)} and sizes {given} do not fit x {tuple(x.shape)}; they must be (b, k) and "
            "(b, n)"
        )
    check_choice(shape[1] - places.shape[1], r, similarity=similarity, rank=rank, first=first)
