"""The method: sources and destinations take turns, and the most similar pairs merge (arXiv 2412.12496, 2210.09461)."""

from __future__ import annotations

from torch import Tensor

from rmeeto._shapes import Int
from rmeeto.reduction.matching import match
from rmeeto.reduction.plan import Plan, Sight


def plan(sight: Sight, r: int) -> Plan:
    """Each source chooses its most similar destination; the r most similar sources leave."""
    settings, first = sight.settings, sight.first_source
    matching = match(sight.compared(), settings.similarity, settings.rank, first)
    destinations = matching.chosen.gather(1, matching.ranking[:, :r])
    return of_sources(sight, matching.ranking, 2 * destinations + 1 - first)


def of_sources(sight: Sight, ranking: Int[Tensor, "b S"], joined: Int[Tensor, "b r"]) -> Plan:
    """The plan where the first r of (b, S) ranked sources leave for the (b, r) rows that they join."""
    rows = 2 * ranking + sight.first_source
    leaving, staying = rows[:, : joined.shape[1]], rows[:, joined.shape[1] :]
    return Plan(leaving, joined, staying.sort(dim=1).values if sight.settings.split == "sequence" else staying)
