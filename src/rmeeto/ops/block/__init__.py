"""A whole block of a Vision Mamba as one op: norm, projection, mixer, projection, residual sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops._op import wants_gradient
from rmeeto.ops.bimamba import Direction, check_directions
from rmeeto.ops.bipartite_merge import Merged, Merging, bipartite_merge, check_merge
from rmeeto.ops.block import merging as native_merge
from rmeeto.ops.block import native, stack
from rmeeto.ops.block.reference import block_reference
from rmeeto.ops.token_match import check_choice
from rmeeto.tokens import TokenMap

__all__ = ["BlockWeights", "Blocked", "Stacked", "block", "block_reference", "blocks", "merged_block"]

Feature = Literal["hidden", "x"]


class Blocked(NamedTuple):
    """What a block gives."""

    y: Tensor  # (b, n, c)
    hidden: Tensor  # (b, n, c)
    projected: tuple[Tensor, Tensor]  # per direction (b, n, R + 2s)


class BlockWeights(NamedTuple):
    """The parameters of a block, as `block` takes them."""

    norm_weight: Tensor  # (c,)
    in_proj: Tensor  # (2e, c)
    directions: tuple[Direction, Direction]
    out_proj: Tensor  # (c, e)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, as the kernels take them."""
        return (self.norm_weight, self.in_proj, self.out_proj, *self.directions[0], *self.directions[1])


class Stacked(NamedTuple):
    """What blocks in a row give."""

    y: Tensor  # (b, m, c)
    last: Blocked | None  # of the last block; None where its tokens were merged
    merged: Merged | None  # of the last merge, but for its x, which is y; None where there was none


def block(
    x: Tensor,
    norm_weight: Tensor,
    in_proj: Tensor,
    directions: tuple[Direction, Direction],
    out_proj: Tensor,
    time: Tensor | None = None,
    *,
    eps: float = 1e-5,
    scale: float = 1.0,
    backend: str | None = None,
) -> Blocked:
    """hidden = W_out bimamba(W_in rms_norm(x)), y = x + hidden.

    Shapes: x, hidden and y (b, n, c), norm_weight (c,), in_proj (2e, c), directions as in `bimamba`, out_proj (c, e),
    time (b, n), the factor on A, 1 where absent; also returned is (dt, B, C) of each direction, (b, n, R + 2s). b
    images, n tokens, c the model's and e the inner channels, s states, R the rank of delta; no units.

    The native form is for float32 on a CPU: one image at a time stays in the caches from its norm to the sum, and
    Python is asked once. For gradients, where every thread has two shares of the batch or more, it keeps the states at
    the start of every 16 tokens and computes all else again; a second derivative raises BackendError, and (dt, B, C)
    is there to be looked at. Where it cannot run, the op is composed of `rms_norm`, `linear` and `bimamba`, each by its
    own best backend. Results and gradients do not depend on the number of threads, results not on the other images.

    backend: "native", "reference" or "auto" (None: as `use_backend` says).
    Raises ShapeError where shapes do not fit and BackendError where "native" cannot run.
    Source: Vim, arXiv 2401.09417, algorithm 1.
    """
    _check(x, norm_weight, in_proj, directions, out_proj, time)
    weights = (norm_weight, in_proj, out_proj, *directions[0], *directions[1])
    if backends.setting(backend) in ("auto", "native"):
        tensors = (x, time, *weights)
        keep = wants_gradient(tensors)
        if native.fits_training(x, time, weights, directions) if keep else native.fits(tensors, directions):
            # Autograd keeps what it needs by itself: a graph that is exported here may run without it.
            keep = keep and not torch.compiler.is_exporting()
            return Blocked(*native.block(x, norm_weight, in_proj, directions, out_proj, time, eps, scale, keep=keep))
    found = block_reference(x, norm_weight, in_proj, directions, out_proj, time, eps=eps, scale=scale, backend=backend)
    return Blocked(*found)


def merged_block(
    x: Tensor,
    norm_weight: Tensor,
    in_proj: Tensor,
    directions: tuple[Direction, Direction],
    out_proj: Tensor,
    time: Tensor | None,
    size: Tensor | None,
    places: Tensor,
    merging: Merging,
    *,
    feature: Feature = "hidden",
    eps: float = 1e-5,
    scale: float = 1.0,
    backend: str | None = None,
) -> Merged:
    """`block`, and `bipartite_merge` of its y by the likeness of hidden, or of y itself where feature is "x".

    Shapes as there. The native form is for what that of `block` is for, and for 2,048 tokens at most: what an image's
    block gives is merged while it is in the cache, and only what is left of it is written. Else the two are called one
    after the other. Backends, errors and sources are theirs.
    """
    _check(x, norm_weight, in_proj, directions, out_proj, time)
    tensors = (x, norm_weight, in_proj, out_proj, time, *directions[0], *directions[1])
    asked = backends.setting(backend) in ("auto", "native")
    if asked and native.fits(tensors, directions) and native_merge.fits(x, size, places, merging.mode):
        check_merge(x, size, x, places, merging.r, merging.first, merging.rank, merging.similarity)
        weights = (norm_weight, in_proj, out_proj, *directions[0], *directions[1])
        made = native_merge.op(x, time, *weights, eps, scale, feature, size, places, *merging)
        y, sizes, moved, index, kept = made
        return Merged(y, sizes, moved, TokenMap(index, y.shape[1], kept if merging.mode == "prune" else None))
    found = block(x, norm_weight, in_proj, directions, out_proj, time, eps=eps, scale=scale, backend=backend)
    values = found.hidden if feature == "hidden" else found.y
    how: dict[str, Any] = merging._asdict()
    return bipartite_merge(found.y, size, values, places, backend=backend, **how)


def blocks(
    x: Tensor,
    size: Tensor | None,
    places: Tensor,
    weights: Sequence[BlockWeights],
    merges: Sequence[Merging | None],
    *,
    feature: Feature = "hidden",
    eps: float = 1e-5,
    scale: float = 1.0,
    backend: str | None = None,
) -> Stacked:
    """`block` after `block`, behind each the merge of its name as in `merged_block`, or none.

    Shapes as there; no blocks is no stack. The native form is for what those of `block` and `merged_block` are for, and
    for blocks of one shape: Python prepares all of them at once, and what one writes for the next stays in two buffers
    that they use in turn. Else they are called one after the other. Backends, errors and sources are theirs.
    """
    if not weights or len(weights) != len(merges):
        raise ShapeError(
            f"{len(weights)} blocks and {len(merges)} merges; it must be one for each block: None is no merge"
        )
    flat = [tensor for own in weights for tensor in own.tensors]
    asked = backends.setting(backend) in ("auto", "native")
    if asked and _stack_fits(x, flat, weights[0]) and _merges_fit(x, size, places, merges):
        numbers = [n for each in merges for n in stack.numbers_of(each, by_stream=feature == "x")]
        y, hidden, p, p_b, sizes, moved, index, kept = stack.op(x, size, places, flat, numbers, eps, scale)
        last = None if merges[-1] else Blocked(y, hidden, (p, p_b))
        final = next((each for each in reversed(merges) if each), None)
        if final is None:
            return Stacked(y, last, None)
        mapping = TokenMap(index, sizes.shape[1], kept if final.mode == "prune" else None)
        return Stacked(y, last, Merged(y, sizes, moved, mapping))
    merged: Merged | None = None
    for own, merging in zip(weights, merges, strict=True):
        how: dict[str, Any] = {"eps": eps, "scale": scale, "backend": backend}
        if merging is None:
            last = block(x, *own, None, **how)
            x = last.y
        else:
            merged = merged_block(x, *own, None, size, places, merging, feature=feature, **how)
            last, (x, size, places, _) = None, merged
    return Stacked(x, last, merged and merged._replace(x=x))


def _stack_fits(x: Tensor, flat: Sequence[Tensor], first: BlockWeights) -> bool:
    """Whether blocks whose weights are all in `flat` can be one op; raises where those of the first do not fit x."""
    _check(x, *first, None)
    # All at once: asking block after block would take longer than the kernels of a small model. Weights of another
    # shape are asked by their own block.
    alike = [t.shape for t in flat] == [t.shape for t in first.tensors] * (len(flat) // len(first.tensors))
    return alike and native.fits((x, *flat), first.directions)


def _merges_fit(x: Tensor, size: Tensor | None, places: Tensor, merges: Sequence[Merging | None]) -> bool:
    """The same of the merges behind the blocks."""
    wanted = [each for each in merges if each is not None]
    if not wanted:
        return True
    if not all(native_merge.fits(x, size, places, mode) for mode in {each.mode for each in wanted}):
        return False
    first = wanted[0]
    check_merge(x, size, x, places, 0, first.first, first.rank, first.similarity)
    patches = x.shape[1] - places.shape[1]
    for each in wanted:
        check_choice(patches, each.r, similarity=each.similarity, rank=each.rank, first=each.first)
        patches -= each.r
    return True


def _check(
    x: Tensor,
    norm_weight: Tensor,
    in_proj: Tensor,
    directions: tuple[Direction, Direction],
    out_proj: Tensor,
    time: Tensor | None,
) -> None:
    if x.dim() != 3 or not x.shape[1] or not x.shape[2]:
        raise ShapeError(f"x has shape {tuple(x.shape)}; it must be (batch, tokens, width) with a token: reshape it")
    width, inner = x.shape[2], out_proj.shape[-1]
    wanted = {
        "norm_weight": (norm_weight, (width,)),
        "in_proj": (in_proj, (2 * inner, width)),
        "out_proj": (out_proj, (width, inner)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; with this x it must be {shape}: check it")
    check_directions(inner, directions)
    if time is not None and time.shape != x.shape[:2]:
        raise ShapeError(f"time has shape {tuple(time.shape)}; with this x it must be {tuple(x.shape[:2])}: check it")
