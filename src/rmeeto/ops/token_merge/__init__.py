"""Make each group of tokens one token."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops._op import wants_gradient
from rmeeto.ops.token_merge import native
from rmeeto.ops.token_merge.reference import token_merge_reference
from rmeeto.schedule import MergeMode
from rmeeto.tokens import TokenMap

__all__ = ["token_merge", "token_merge_reference"]


def token_merge(
    x: Tensor,
    size: Tensor | None,
    mapping: TokenMap,
    places: Tensor,
    mode: MergeMode = "sum",
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The size-weighted mean of each group, its size, and the new places of some tokens, in one pass over memory.

        x'_j = sum_i x_i s_i / sum_i s_i,   s'_j = sum_i s_i,   over the tokens i with mapping.index_i = j.

    Shapes: x (b, n, c); size (b, n) float32, ones where absent; places (b, k) int64; the result (b, m, c) in x's dtype,
    (b, m) and (b, k). No units. Tokens that `mapping.kept` leaves out weigh nothing; `mode` "mean" forgets the sizes,
    before and after; "amax" and "amin" are not linear and always run the reference, `TokenMap.merge`.
    Slices of larger tensors cost no copy while their last dimension is contiguous. Half types are summed in float32. A
    token alone in its group passes bit for bit. x has gradients, exact ones; where size wants one, too, and in
    float64, the type of checks, the reference runs without a word.

    backend: "native", "reference" or "auto" (None: as `use_backend` says, "auto" at first).
    Raises ShapeError where x, size and the map do not fit, SettingsError for an unknown mode, IndexError for what is
    no place, and BackendError where "native" cannot run.
    Source: arXiv 2412.12496, section 3.
    """
    shape = tuple(mapping.index.shape)  # by shape and never by len(), which would fix an exported graph's batch
    if x.dim() != 3 or x.shape[:2] != shape or places.dim() != 2 or places.shape[0] != x.shape[0]:
        raise ShapeError(
            f"values {tuple(x.shape)} and places {tuple(places.shape)} do not fit a map of {shape} tokens; merge the "
            "tensor that the map was made for"
        )
    if size is not None and size.shape != shape:
        raise ShapeError(f"sizes {tuple(size.shape)} do not fit a map of {shape} tokens; give one size a token")
    if mode in native.MODES and _decide(x, size, backend):
        weights = None if mode == "mean" else size
        return native.op(x, weights, mapping.index, mapping.kept, places, mapping.length, mode == "mean")
    return token_merge_reference(x, size, mapping, places, mode)


def _decide(x: Tensor, size: Tensor | None, backend: str | None) -> bool:
    if size is not None and (size.dtype is not torch.float32 or wants_gradient((size,))):
        return False
    decide = backends.runs if x.dtype is torch.float64 else backends.choose
    return decide("token_merge", (x, size), backend)
