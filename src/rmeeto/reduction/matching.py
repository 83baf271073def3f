"""Who merges into whom (arXiv 2412.12496, section 3; bipartite soft matching of arXiv 2210.09461).

Patch tokens, the protected ones left out, are numbered by rows j = 0 .. N-1. Sources are every second row, usually the
even ones, destinations the others. Letters: b batch, S sources, D destinations, d width of the compared feature.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto._shapes import Float, Int
from rmeeto.reduction.settings import Similarity


@dataclass(frozen=True)
class Matching:
    """A plan for every possible number of merges.

    Attributes:
        ranking: (b, S) int64, the sources by falling similarity to the destination they chose: the first r leave.
        chosen: (b, S) int64, the destination that each source chose.
        destinations: D.
    """

    ranking: Int[Tensor, "b S"]
    chosen: Int[Tensor, "b S"]
    destinations: int


@torch.no_grad()
def match(
    patches: Float[Tensor, "b N d"], similarity: Similarity = "cosine", rank: int = 1, first: int = 0
) -> Matching:
    """Let every source choose its `rank`-th most similar destination.

    Args:
        patches: (b, N, d) features of the patch tokens in sequence order, N >= 2, any floating dtype; compared
            in float32 (float64 for float64).
        similarity: cosine, or minus a distance of the normalised rows.
        rank: 1 for the best; cut to the number of destinations.
        first: row of the first source, 0 or 1.
    """
    rows = normalised(patches)
    similarities = scores(rows[:, first::2], rows[:, 1 - first :: 2], similarity)
    best, chosen = best_of(similarities, rank)
    # A stable order: equal similarities leave by sequence on every device.
    ranking = best.argsort(dim=-1, descending=True, stable=True)
    return Matching(ranking, chosen, similarities.shape[-1])


def normalised(values: Float[Tensor, "b N d"]) -> Float[Tensor, "b N d"]:
    """(b, N, d) rows of length 1 (zero rows stay zero) in float32, or float64 for float64."""
    return F.normalize(values.to(torch.promote_types(values.dtype, torch.float32)), dim=-1)


def best_of(similarities: Float[Tensor, "b S D"], rank: int = 1) -> tuple[Float[Tensor, "b S"], Int[Tensor, "b S"]]:
    """The `rank`-th largest of each row and its place, the first of equal ones; `rank` is cut to what there is."""
    rank = min(rank, similarities.shape[-1])
    if rank == 1:
        best, chosen = similarities.max(dim=-1)
        return best, chosen
    ranked, places = similarities.sort(dim=-1, descending=True, stable=True)
    return ranked[..., rank - 1], places[..., rank - 1]


def pairwise(
    one: Float[Tensor, "b N d"], other: Float[Tensor, "b M d"], similarity: Similarity
) -> Float[Tensor, "b N"]:
    """(b, N, d) normalised rows and as many others, or one for all -> (b, N), larger for more alike."""
    if similarity == "cosine":
        return (one * other).sum(dim=-1)
    apart = one - other
    return -(apart.abs() if similarity == "l1" else apart.square()).sum(dim=-1)


def scores(
    sources: Float[Tensor, "b S d"], destinations: Float[Tensor, "b D d"], similarity: Similarity
) -> Float[Tensor, "b S D"]:
    """(b, S, d) and (b, D, d) normalised rows -> (b, S, D), larger for more alike."""
    if similarity == "l1":
        return -torch.cdist(sources, destinations, p=1.0)
    with _without_autocast(sources.device):
        cosine = sources @ destinations.transpose(1, 2)
    if similarity == "cosine":
        return cosine
    # Minus the squared distance, ordered as the distance is. Rows have length 1, zero rows 0, and no other: written
    # so, the order of the cosine is kept to the last bit.
    squares = [rows.ne(0).any(dim=-1).to(cosine.dtype) for rows in (sources, destinations)]
    return 2 * cosine - squares[0].unsqueeze(2) - squares[1].unsqueeze(1)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Full precision: a match must not depend on how the blocks are run."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
