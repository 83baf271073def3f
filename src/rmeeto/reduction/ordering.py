"""From a plan to a map: where each group stands in the new sequence.

Patch tokens are numbered by rows 0 .. N-1 (the protected ones left out), then the k protected tokens are put back.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto._shapes import Int
from rmeeto.errors import SettingsError
from rmeeto.reduction.plan import Plan
from rmeeto.reduction.settings import ClassPlace, Order
from rmeeto.tokens import TokenMap


def patch_rows(places: Int[Tensor, "b k"], tokens: int) -> Int[Tensor, "b N"]:
    """(b, k) places of the protected tokens -> (b, N) places of the others, in sequence order."""
    rows = torch.arange(tokens - places.shape[1], device=places.device)
    return _put_back(rows.expand(places.shape[0], -1), places.sort(dim=1).values)


def new_map(
    plan: Plan,
    rows: Int[Tensor, "b N"],
    places: Int[Tensor, "b k"],
    *,
    order: Order,
    class_place: ClassPlace,
    prune: bool,
) -> TokenMap:
    """The map of n tokens onto n - r.

    Args:
        plan: who leaves and who joins whom, by rows.
        rows: (b, N) the place in the sequence of each row.
        places: (b, k) places of the protected tokens, each alone in its group.
        order: how the groups are ordered; "shuffled" as "ordered", for `shuffled_map` to follow.
        class_place: how the protected tokens are put back.
        prune: leaving rows weigh nothing instead of joining.

    Raises:
        SettingsError: the official class place with several protected tokens.
    """
    n, r = rows.shape[1] + places.shape[1], plan.leaving.shape[1]
    counted = _counted(plan, rows, order)
    numbers = _numbers(plan, counted, order)
    standing = places.sort(dim=1).values
    if class_place == "official":
        standing_new = _official_places(standing, n if order != "unordered" else plan.heads.shape[1] + r, r)
        if order == "unordered":
            standing_new = standing_new.clamp(max=plan.heads.shape[1])
    else:
        standing_new = _exact_places(standing, counted)
    index = torch.empty((rows.shape[0], n), dtype=torch.int64, device=rows.device)
    index = index.scatter(1, rows, _put_back(numbers, standing_new)).scatter(1, standing, standing_new)
    if not prune:
        return TokenMap(index, n - r)
    kept = torch.ones_like(index, dtype=torch.bool).scatter(1, rows.gather(1, plan.leaving), value=False)
    return TokenMap(index, n - r, kept)


def shuffled_map(places: Int[Tensor, "b k"], tokens: int, generator: torch.Generator) -> TokenMap:
    """The map under which all but the tokens at (b, k) places change places among themselves, alike in each image."""
    rows = patch_rows(places, tokens)
    permutation = torch.randperm(rows.shape[1], generator=generator).to(rows.device)
    same = torch.arange(tokens, device=rows.device).expand(rows.shape[0], -1)
    return TokenMap(same.scatter(1, rows, rows[:, permutation]), tokens)


def _counted(plan: Plan, rows: Int[Tensor, "b N"], order: Order) -> Int[Tensor, "b N"]:
    """(b, N) ones for the rows that stay; where order is not kept, for the heads of the new sequence only."""
    if order != "unordered":
        return torch.ones_like(rows).scatter(1, plan.leaving, 0)
    return torch.zeros_like(rows).scatter(1, plan.heads, 1)


def _numbers(plan: Plan, counted: Int[Tensor, "b N"], order: Order) -> Int[Tensor, "b N"]:
    """(b, N) new number of each row among the patches: that of the row it joins, if it leaves."""
    if order != "unordered":
        numbers = counted.cumsum(1) - 1
    else:
        heads = plan.heads.shape[1]
        numbers = heads - 1 + (1 - counted).scatter(1, plan.leaving, 0).cumsum(1)
        numbers = numbers.scatter(1, plan.heads, torch.arange(heads, device=counted.device).expand_as(plan.heads))
    return numbers.scatter(1, plan.leaving, numbers.gather(1, plan.joined))


def _official_places(places: Int[Tensor, "b k"], length: int, r: int) -> Int[Tensor, "b k"]:
    """floor(p (length - r) / length): the published estimate, the same for every image."""
    if places.shape[1] != 1:
        raise SettingsError(
            f"class_place='official' is a rule for one protected token and this model has {places.shape[1]}; "
            "use class_place='exact'"
        )
    return places * (length - r) // length


def _exact_places(places: Int[Tensor, "b k"], counted: Int[Tensor, "b N"]) -> Int[Tensor, "b k"]:
    """(b, k) rising places -> rising new ones: each after as many counted rows as stood before it."""
    ranks = torch.arange(places.shape[1], device=places.device)
    return F.pad(counted.cumsum(1), (1, 0)).gather(1, places - ranks) + ranks


def _put_back(rows: Int[Tensor, "b N"], places: Int[Tensor, "b k"]) -> Int[Tensor, "b N"]:
    """(b, N) numbers that leave out protected tokens -> numbers that count them, at (b, k) rising places."""
    gaps = places - torch.arange(places.shape[1], device=places.device)
    return rows + (gaps.unsqueeze(2) <= rows.unsqueeze(1)).sum(dim=1)
