"""The least important tokens leave, importance told by delta: the idea of MTR (arXiv 2507.14042), MaMe (2508.13599).

A token's time step says how much of it the scan writes into its state: where delta is small, the state passes as if the
token were not there. The papers leave open here: the average over channels (plain, over both directions, before bias
and softplus, which are the same for every token), which tokens may take up the leaving ones (all that stay), and the
weights of the merge (sizes, as everywhere). `mode="prune"` drops the least important.
"""

from __future__ import annotations

from rmeeto.ops.token_match.reference import best_of, normalised, scores
from rmeeto.reduction.features import compared
from rmeeto.reduction.plan import Plan, Sight, reading
from rmeeto.tokens import at_rows


@reading("delta")
def plan(sight: Sight, r: int) -> Plan:
    """The r patch tokens of the least mean delta join the staying ones most similar to them (of the rank-th rank)."""
    settings = sight.settings
    importance = sight.patches(compared(sight.tokens, "delta").float().mean(dim=-1, keepdim=True)).squeeze(-1)
    ranking = importance.argsort(dim=1, stable=True)
    leaving, staying = ranking[:, :r], ranking[:, r:]
    rows = normalised(sight.compared())
    similarities = scores(at_rows(rows, leaving), at_rows(rows, staying), settings.similarity)
    joined = staying.gather(1, best_of(similarities, settings.rank)[1])
    return Plan(leaving, joined, staying.flip(1))
