"""Small helpers that hand tensors to the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import overload

import torch
from torch import Tensor

from rmeeto.ops._library import CHANNEL_PAD, CHUNK


@overload
def dense(x: Tensor) -> Tensor: ...
@overload
def dense(x: None) -> None: ...
def dense(x: Tensor | None) -> Tensor | None:
    """The tensor as contiguous float32; itself where it is already."""
    if x is None:
        return None
    x = x if x.dtype is torch.float32 else x.float()
    return x if x.is_contiguous() else x.contiguous()


def all_dense(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Each as `dense` gives it; many are asked at once, which takes half as long."""
    plain = {t.dtype for t in tensors} <= {torch.float32} and all(map(Tensor.is_contiguous, tensors))
    return tensors if plain else [dense(t) for t in tensors]


@overload
def rows(x: Tensor) -> Tensor: ...
@overload
def rows(x: None) -> None: ...
def rows(x: Tensor | None) -> Tensor | None:
    """The tensor as float32 with a contiguous last dimension; token and batch strides may be anything."""
    if x is None:
        return None
    x = x if x.dtype is torch.float32 else x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


@overload
def as_rows(x: Tensor) -> Tensor: ...
@overload
def as_rows(x: None) -> None: ...
def as_rows(x: Tensor | None) -> Tensor | None:
    """The tensor in its own type with a contiguous last dimension; token and batch strides may be anything."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


@overload
def indices(x: Tensor) -> Tensor: ...
@overload
def indices(x: None) -> None: ...
def indices(x: Tensor | None) -> Tensor | None:
    """The tensor as contiguous int64; itself where it is already."""
    if x is None:
        return None
    x = x if x.dtype is torch.int64 else x.long()
    return x if x.is_contiguous() else x.contiguous()


def address(x: Tensor | None) -> int:
    """Where the data begins; 0 for an absent or unwanted tensor."""
    return 0 if x is None else x.data_ptr()


def walk(x: Tensor | None) -> tuple[int, int, int]:
    """Address, batch stride and token stride: a `Rows` of csrc/rmeeto.h."""
    if x is None:
        return 0, 0, 0
    strides = x.stride()
    return x.data_ptr(), strides[0], strides[1]


def empty(like: Tensor) -> Tensor:
    """Uninitialised contiguous float32 of the same shape."""
    if like.dtype is torch.float32 and like.is_contiguous():
        return torch.empty_like(like)
    return like.new_empty(*like.shape, dtype=torch.float32)


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Inside, kernels are started on the tensor's own GPU."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def states_shape(shape: Sequence[int], A: Tensor) -> tuple[int, int, int, int]:
    """Of the states that a forward scan of (batch, tokens, ...) keeps for the backward one; A is (channels, state).

    (batch, chunks, state, padded channels).
    """
    channels, state = A.shape
    return shape[0], -(-shape[1] // CHUNK), state, -(-channels // CHANNEL_PAD) * CHANNEL_PAD
