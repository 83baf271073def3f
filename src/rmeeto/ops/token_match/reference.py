"""Who is most like whom in plain PyTorch: the law, ties included."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto._shapes import Float, Int
from rmeeto.ops.token_plan.reference import patch_rows
from rmeeto.tokens import at_rows

# Similarities that are held at a time, of the whole batch (in a graph of each image): memory grows linearly with the
# tokens beyond.
AT_ONCE = 1 << 24


class Match(NamedTuple):
    """Which sources leave and whom they join, by rows; S sources.

    Attributes:
        leaving: (b, r) int64, the r sources most similar to the destination they chose, the most similar first; of
            equal ones the first.
        joined: (b, r) int64, the destination that each of them chose, of equally similar ones the first.
        staying: (b, S - r) int64, the other sources, by similarity too or by sequence.
        best: (b, S) the similarity of every source to the destination it chose, float32 (float64 for float64).
    """

    leaving: Int[Tensor, "b r"]
    joined: Int[Tensor, "b r"]
    staying: Int[Tensor, "b h"]
    best: Float[Tensor, "b S"]


@torch.no_grad()
def token_match_reference(
    values: Float[Tensor, "b n d"],
    places: Int[Tensor, "b k"],
    r: int,
    *,
    rows: Int[Tensor, "b N"] | None = None,
    similarity: str = "cosine",
    rank: int = 1,
    first: int = 0,
    by_sequence: bool = False,
) -> Match:
    """Similarities block by block, then a stable sort; arguments and result as in `rmeeto.ops.token_match`."""
    rows = patch_rows(places, values.shape[1]) if rows is None else rows
    patches = normalised(at_rows(values, rows))
    sources, destinations = patches[:, first::2], patches[:, 1 - first :: 2]
    images = 1 if torch.compiler.is_compiling() else destinations.shape[0]  # a graph is of any number of images
    block = max(1, AT_ONCE // max(1, images * destinations.shape[1]))
    found = [best_of(scores(part, destinations, similarity), rank) for part in sources.split(block, dim=1)]
    best, chosen = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    # A stable order: equal similarities leave by sequence on every device.
    ranking = best.argsort(dim=-1, descending=True, stable=True)
    leaving, staying = ranking[:, :r], ranking[:, r:]
    joined = 2 * chosen.gather(1, leaving) + 1 - first
    staying = staying.sort(dim=1).values if by_sequence else staying
    return Match(2 * leaving + first, joined, 2 * staying + first, best)


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


def pairwise(one: Float[Tensor, "b N d"], other: Float[Tensor, "b M d"], similarity: str) -> Float[Tensor, "b N"]:
    """(b, N, d) normalised rows and as many others, or one for all -> (b, N), larger for more alike."""
    if similarity == "cosine":
        return (one * other).sum(dim=-1)
    apart = one - other
    return -(apart.abs() if similarity == "l1" else apart.square()).sum(dim=-1)


def scores(
    sources: Float[Tensor, "b S d"], destinations: Float[Tensor, "b D d"], similarity: str
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
    return torch.autocast(device.type, enabled=False) if _has_autocast(device.type) else nullcontext()


def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


# As in _library.py: torch.compile asks once and keeps the answer.
_has_autocast._dynamo_marked_constant = True  # type: ignore[attr-defined]
