"""From a matching to a map: where each group stands in the new sequence.

Patch tokens are numbered by rows 0 .. N-1 (the protected ones left out), then the k protected tokens are put back.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto._shapes import Int
from rmeeto.errors import SettingsError
from rmeeto.reduction.matching import Matching
from rmeeto.reduction.settings import ClassPlace, Order
from rmeeto.tokens import TokenMap


def patch_rows(places: Int[Tensor, "b k"], tokens: int) -> Int[Tensor, "b N"]:
    """(b, k) places of the protected tokens -> (b, N) places of the others, in sequence order."""
    rows = torch.arange(tokens - places.shape[1], device=places.device)
    return _put_back(rows.expand(places.shape[0], -1), places.sort(dim=1).values)


def new_map(
    matching: Matching,
    rows: Int[Tensor, "b N"],
    places: Int[Tensor, "b k"],
    r: int,
    *,
    order: Order,
    class_place: ClassPlace,
    prune: bool,
) -> TokenMap:
    """The map of n tokens onto n - r.

    Args:
        matching: who would join whom, by rows.
        rows: (b, N) the place in the sequence of each row.
        places: (b, k) places of the protected tokens, each alone in its group.
        r: how many sources leave, at most the number of destinations.
        order: how the groups are ordered.
        class_place: how the protected tokens are put back.
        prune: leaving sources weigh nothing instead of joining.

    Raises:
        SettingsError: the official class place with several protected tokens.
    """
    n = rows.shape[1] + places.shape[1]
    leaving = 2 * matching.ranking[:, :r]
    numbers = _number_ordered(matching, r) if order == "ordered" else _number_unordered(matching, r)
    standing = places.sort(dim=1).values
    if class_place == "official":
        heads = n if order == "ordered" else matching.ranking.shape[1]
        standing_new = _official_places(standing, heads, r)
        if order == "unordered":
            standing_new = standing_new.clamp(max=heads - r)
    else:
        standing_new = _exact_places(standing, leaving, rows.shape[1], order)
    index = torch.empty((rows.shape[0], n), dtype=torch.int64, device=rows.device)
    index = index.scatter(1, rows, _put_back(numbers, standing_new)).scatter(1, standing, standing_new)
    if not prune:
        return TokenMap(index, n - r)
    kept = torch.ones_like(index, dtype=torch.bool).scatter(1, rows.gather(1, leaving), value=False)
    return TokenMap(index, n - r, kept)


def _number_ordered(matching: Matching, r: int) -> Int[Tensor, "b N"]:
    """(b, N) new number of each row among the patches: a group stands where its destination stood."""
    batch, sources = matching.ranking.shape
    chosen = 2 * matching.chosen.gather(1, matching.ranking[:, :r]) + 1
    leaving = 2 * matching.ranking[:, :r]
    stays = matching.ranking.new_ones(batch, sources + matching.destinations).scatter(1, leaving, 0)
    numbers = stays.cumsum(1) - 1
    return numbers.scatter(1, leaving, numbers.gather(1, chosen))


def _number_unordered(matching: Matching, r: int) -> Int[Tensor, "b N"]:
    """(b, N) new number of each row: staying sources by falling similarity, then the destinations."""
    batch, sources = matching.ranking.shape
    leaving, staying = matching.ranking[:, :r], matching.ranking[:, r:]
    device = leaving.device
    ranks = torch.arange(sources - r, device=device).expand(batch, -1)
    numbers = matching.ranking.new_empty(batch, sources + matching.destinations)
    numbers[:, 1::2] = sources - r + torch.arange(matching.destinations, device=device)
    numbers = numbers.scatter(1, 2 * staying, ranks)
    return numbers.scatter(1, 2 * leaving, sources - r + matching.chosen.gather(1, leaving))


def _official_places(places: Int[Tensor, "b k"], length: int, r: int) -> Int[Tensor, "b k"]:
    """floor(p (length - r) / length): the published estimate, the same for every image."""
    if places.shape[1] != 1:
        raise SettingsError(
            f"class_place='official' is a rule for one protected token and this model has {places.shape[1]}; "
            "use class_place='exact'"
        )
    return places * (length - r) // length


def _exact_places(
    places: Int[Tensor, "b k"], leaving: Int[Tensor, "b r"], patches: int, order: Order
) -> Int[Tensor, "b k"]:
    """(b, k) rising new places: each after as many kept tokens as stood before it.

    Where order is not kept, only the sources count, because the destinations stand at the end.
    """
    ranks = torch.arange(places.shape[1], device=places.device)
    counts = torch.ones((places.shape[0], patches), dtype=torch.int64, device=places.device).scatter(1, leaving, 0)
    if order == "unordered":
        counts[:, 1::2] = 0
    before = F.pad(counts.cumsum(1), (1, 0))
    return before.gather(1, places - ranks) + ranks


def _put_back(rows: Int[Tensor, "b N"], places: Int[Tensor, "b k"]) -> Int[Tensor, "b N"]:
    """(b, N) numbers that leave out protected tokens -> numbers that count them, at (b, k) rising places."""
    gaps = places - torch.arange(places.shape[1], device=places.device)
    return rows + (gaps.unsqueeze(2) <= rows.unsqueeze(1)).sum(dim=1)
