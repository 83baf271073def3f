"""The new number of every token in plain PyTorch: the law for the integers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rmeeto._shapes import Bool, Int


def token_plan_reference(
    leaving: Int[Tensor, "b r"],
    joined: Int[Tensor, "b r"],
    heads: Int[Tensor, "b h"],
    places: Int[Tensor, "b k"],
    tokens: int,
    *,
    rows: Int[Tensor, "b N"] | None = None,
    ordered: bool = True,
    official: bool = False,
    prune: bool = False,
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"] | None]:
    """Cumulative sums and scatters; arguments and result as in `rmeeto.ops.token_plan`."""
    rows = patch_rows(places, tokens) if rows is None else rows
    r = leaving.shape[1]
    counted = _counted(leaving, heads, rows, ordered=ordered)
    numbers = _numbers(leaving, joined, heads, counted, ordered=ordered)
    standing = places.sort(dim=1).values
    if official:
        length = tokens if ordered else heads.shape[1] + r
        standing_new = standing * (length - r) // length
        standing_new = standing_new if ordered else standing_new.clamp(max=heads.shape[1])
    else:
        standing_new = _exact_places(standing, counted)
    index = torch.empty((rows.shape[0], tokens), dtype=torch.int64, device=rows.device)
    index = index.scatter(1, rows, _put_back(numbers, standing_new)).scatter(1, standing, standing_new)
    if not prune:
        return index, None
    return index, torch.ones_like(index, dtype=torch.bool).scatter(1, rows.gather(1, leaving), value=False)


def patch_rows(places: Int[Tensor, "b k"], tokens: int) -> Int[Tensor, "b N"]:
    """(b, k) places of the protected tokens -> (b, N) places of the others, in sequence order."""
    rows = torch.arange(tokens - places.shape[1], device=places.device)
    return _put_back(rows.expand(places.shape[0], -1), places.sort(dim=1).values)


def _counted(
    leaving: Int[Tensor, "b r"], heads: Int[Tensor, "b h"], rows: Int[Tensor, "b N"], *, ordered: bool
) -> Int[Tensor, "b N"]:
    """(b, N) ones for the rows that stay; where order is not kept, for the heads of the new sequence only."""
    if ordered:
        return torch.ones_like(rows).scatter(1, leaving, 0)
    return torch.zeros_like(rows).scatter(1, heads, 1)


def _numbers(
    leaving: Int[Tensor, "b r"],
    joined: Int[Tensor, "b r"],
    heads: Int[Tensor, "b h"],
    counted: Int[Tensor, "b N"],
    *,
    ordered: bool,
) -> Int[Tensor, "b N"]:
    """(b, N) new number of each row among the patches: that of the row it joins, if it leaves."""
    if ordered:
        numbers = counted.cumsum(1) - 1
    else:
        count = heads.shape[1]
        numbers = count - 1 + (1 - counted).scatter(1, leaving, 0).cumsum(1)
        numbers = numbers.scatter(1, heads, torch.arange(count, device=counted.device).expand_as(heads))
    return numbers.scatter(1, leaving, numbers.gather(1, joined))


def _exact_places(places: Int[Tensor, "b k"], counted: Int[Tensor, "b N"]) -> Int[Tensor, "b k"]:
    """(b, k) rising places -> rising new ones: each after as many counted rows as stood before it."""
    ranks = torch.arange(places.shape[1], device=places.device)
    return pad(counted.cumsum(1), (1, 0)).gather(1, places - ranks) + ranks


def _put_back(rows: Int[Tensor, "b N"], places: Int[Tensor, "b k"]) -> Int[Tensor, "b N"]:
    """(b, N) numbers that leave out protected tokens -> numbers that count them, at (b, k) rising places."""
    gaps = places - torch.arange(places.shape[1], device=places.device)
    return rows + (gaps.unsqueeze(2) <= rows.unsqueeze(1)).sum(dim=1)
