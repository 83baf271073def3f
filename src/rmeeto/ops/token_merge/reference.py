"""The merge in plain PyTorch: the map's own."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto._shapes import Float, Int
from rmeeto.schedule import MergeMode
from rmeeto.tokens import TokenMap


def token_merge_reference(
    x: Float[Tensor, "b n c"],
    size: Float[Tensor, "b n"] | None,
    mapping: TokenMap,
    places: Int[Tensor, "b k"],
    mode: MergeMode = "sum",
) -> tuple[Float[Tensor, "b m c"], Float[Tensor, "b m"], Int[Tensor, "b k"]]:
    """`TokenMap.merge` and `TokenMap.move`; arguments and result as in `rmeeto.ops.token_merge`."""
    sizes = torch.ones_like(mapping.index, dtype=torch.float32) if size is None else size
    merged, new_size = mapping.merge(x, sizes, mode)
    return merged, new_size, mapping.move(places)
