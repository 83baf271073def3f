"""From a plan to a map: where each group stands in the new sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto._shapes import Int
from rmeeto.errors import SettingsError
from rmeeto.ops import token_plan
from rmeeto.ops.draws import Draws
from rmeeto.ops.token_plan.reference import patch_rows
from rmeeto.reduction.plan import Plan, Sight
from rmeeto.reduction.settings import ClassPlace, Order
from rmeeto.tokens import TokenMap


def new_map(sight: Sight, plan: Plan, *, order: Order, class_place: ClassPlace, prune: bool) -> TokenMap:
    """The map of n tokens onto n - r, each protected token alone in its group.

    Args:
        sight: what the plan was made from.
        plan: who leaves and who joins whom, by rows.
        order: how the groups are ordered; "shuffled" as "ordered", for `shuffled_map` to follow.
        class_place: how the protected tokens are put back.
        prune: leaving rows weigh nothing instead of joining.

    Raises:
        SettingsError: the official class place with several protected tokens.
    """
    places, n = sight.tokens.places, sight.tokens.x.shape[1]
    if class_place == "official" and places.shape[1] != 1:
        raise SettingsError(
            f"class_place='official' is a rule for one protected token and this model has {places.shape[1]}; "
            "use class_place='exact'"
        )
    index, kept = token_plan(
        plan.leaving,
        plan.joined,
        plan.heads,
        places,
        n,
        rows=sight.shuffled,
        ordered=order != "unordered",
        official=class_place == "official",
        prune=prune,
    )
    return TokenMap(index, n - plan.leaving.shape[1], kept)


def shuffled_map(places: Int[Tensor, "b k"], tokens: int, draws: Draws) -> TokenMap:
    """The map under which all but the tokens at (b, k) places change places among themselves, alike in each image."""
    rows = patch_rows(places, tokens)
    permutation = draws.permutation(rows.shape[1], rows.device)
    same = torch.arange(tokens, device=rows.device).expand(rows.shape[0], -1)
    return TokenMap(same.scatter(1, rows, rows[:, permutation]), tokens)
