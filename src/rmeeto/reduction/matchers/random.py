"""Chance: the baseline that every other choice has to beat, random merging or, with `mode="prune"`, random dropping.

Any r patch tokens leave and each joins any of those that stay; no feature is looked at. `Settings.seed` chooses; all
images of a batch and all forward passes have the same draw, so that an image's answer does not depend on its company.
"""

from __future__ import annotations

from rmeeto.reduction.plan import Plan, Sight


def plan(sight: Sight, r: int) -> Plan:
    """r patch tokens drawn without replacement join tokens drawn from the others with replacement."""
    (batch, patches), draws = sight.rows.shape, sight.draw("random")
    drawn = draws.permutation(patches, sight.rows.device)
    joined = drawn[r:][draws.integers(patches - r, r, sight.rows.device)]
    leaving, joined, heads = (part.expand(batch, -1) for part in (drawn[:r], joined, drawn[r:]))
    return Plan(leaving, joined, heads)
