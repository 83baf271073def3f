"""The method: sources and destinations take turns, and the most similar pairs merge (arXiv 2412.12496, 2210.09461)."""

from __future__ import annotations

from rmeeto.ops import token_match
from rmeeto.reduction.features import compared
from rmeeto.reduction.plan import Plan, Sight


def plan(sight: Sight, r: int) -> Plan:
    """Each source chooses its most similar destination; the r most similar sources leave."""
    settings = sight.settings
    found = token_match(
        compared(sight.tokens, settings.feature),
        sight.tokens.places,
        r,
        rows=sight.shuffled,
        similarity=settings.similarity,
        rank=settings.rank,
        first=sight.first_source,
        by_sequence=settings.split == "sequence",
    )
    return Plan(found.leaving, found.joined, found.staying)
