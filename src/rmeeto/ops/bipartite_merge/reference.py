"""The merge in the three ops it is made of: the law where those run their references."""

from __future__ import annotations

from torch import Tensor

from rmeeto.ops.token_match import token_match
from rmeeto.ops.token_merge import token_merge
from rmeeto.ops.token_plan import token_plan
from rmeeto.schedule import MergeMode
from rmeeto.tokens import TokenMap


def bipartite_merge_reference(
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
    backend: str | None = "reference",
) -> tuple[Tensor, Tensor, Tensor, TokenMap]:
    """Composed of the other ops, each on `backend`; arguments and results as in `rmeeto.ops.bipartite_merge`."""
    match = token_match(
        values, places, r, similarity=similarity, rank=rank, first=first, by_sequence=by_sequence, backend=backend
    )
    index, kept = token_plan(
        match.leaving,
        match.joined,
        match.staying,
        places,
        x.shape[1],
        ordered=ordered,
        official=official,
        prune=mode == "prune",
        backend=backend,
    )
    mapping = TokenMap(index, x.shape[1] - r, kept)
    return *token_merge(x, size, mapping, places, mode, backend=backend), mapping
