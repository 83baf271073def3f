"""Only neighbours merge, the idea of Sequential Token Merging (STM, arXiv 2509.22691).

Every second patch token chooses the more similar of the two beside it, and the r most similar leave. The paper leaves
open what a neighbour is where protected tokens stand between (here the next patch token beyond them) and how a token
that both sides choose is weighed (here by size, as everywhere). Its protection of the states around the class token is
not done here. Costs O(N d) instead of O(N^2 d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rmeeto.ops.token_match.reference import normalised, pairwise
from rmeeto.reduction.plan import Plan, Sight


def plan(sight: Sight, r: int) -> Plan:
    """Each source chooses its more similar neighbour (the other one for a rank above 1); the r most similar leave."""
    rows, first = normalised(sight.compared()), sight.first_source
    beside = pairwise(rows[:, :-1], rows[:, 1:], sight.settings.similarity)
    beside = F.pad(beside, (1, 1), value=float("-inf"))
    before, after = beside[:, :-1][:, first::2], beside[:, 1:][:, first::2]
    backward = (before >= after) | (after == float("-inf"))  # nobody stands behind the last, whatever is no number
    if sight.settings.rank > 1:
        backward = backward ^ (before.isfinite() & after.isfinite())
    best = torch.where(backward, before, after)
    ranking = best.argsort(dim=-1, descending=True, stable=True)
    step = torch.where(backward, -1, 1)
    sources = 2 * ranking + first
    joined, staying = (sources + step.gather(1, ranking))[:, :r], sources[:, r:]
    return Plan(sources[:, :r], joined, staying.sort(dim=1).values if sight.settings.split == "sequence" else staying)
