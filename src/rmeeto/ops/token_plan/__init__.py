"""From who leaves for whom to the new place of every token."""

from __future__ import annotations

from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops.token_plan import native
from rmeeto.ops.token_plan.reference import token_plan_reference

__all__ = ["token_plan", "token_plan_reference"]


def token_plan(
    leaving: Tensor,
    joined: Tensor,
    heads: Tensor,
    places: Tensor,
    tokens: int,
    *,
    rows: Tensor | None = None,
    ordered: bool = True,
    official: bool = False,
    prune: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Number the groups of a new sequence, and tell every old token which is its own.

    Patch tokens, the k protected ones left out, are numbered by rows 0 .. N-1. Shapes, all int64: leaving and joined
    (b, r), the rows that leave, each once, and the staying rows that they join; heads (b, h), staying rows; places
    (b, k), where the protected tokens stand, in any order; rows (b, N), the place of each row, without it in order of
    the sequence. The result: index (b, n), the new place of each of n = `tokens` tokens, and with `prune` (b, n) bool,
    False for those that leave, else None.

    ordered: a group stands where its staying row stood; else heads come first, then the others that stay.
    official: a protected token stands at floor(p (l - r) / l), l = n, unordered l = h + r but never behind the heads;
    else after exactly the rows that stay and stood before it, unordered after the heads that did.

    backend: "native", "reference" or "auto" (None: as `use_backend` says, "auto" at first).
    Raises ShapeError where shapes do not fit, IndexError for what is no row or no place, and BackendError where
    "native" cannot run.
    Source: the ordering of arXiv 2412.12496, section 3.
    """
    batch, k = places.shape
    count = tokens - k
    wanted = {"leaving": (batch, leaving.shape[-1]), "joined": tuple(leaving.shape), "heads": (batch, heads.shape[-1])}
    given = {"leaving": leaving, "joined": joined, "heads": heads}
    if rows is not None:
        wanted["rows"], given["rows"] = (batch, count), rows
    for name, shape in wanted.items():
        if tuple(given[name].shape) != shape:
            raise ShapeError(f"{name} has shape {tuple(given[name].shape)}; with these places it must be {shape}")
    if not leaving.shape[1] + heads.shape[1] <= count:
        raise ShapeError(f"{leaving.shape[1]} rows leave and {heads.shape[1]} head {count} rows; plan for fewer")
    if not backends.choose("token_plan", (leaving, joined, heads), backend, backends.INDICES):
        how = {"rows": rows, "ordered": ordered, "official": official, "prune": prune}
        return token_plan_reference(leaving, joined, heads, places, tokens, **how)  # type: ignore[arg-type]
    index, kept = native.op(leaving, joined, heads, places, tokens, rows, ordered, official, prune)
    return index, kept if prune else None
