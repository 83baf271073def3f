"""Small helpers that hand tensors to the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

LIBRARY = torch.library.Library("rmeeto", "FRAGMENT")


def dense(x: Tensor | None) -> Tensor | None:
    """The tensor as contiguous float32; itself where it is already."""
    if x is None:
        return None
    x = x if x.dtype is torch.float32 else x.float()
    return x if x.is_contiguous() else x.contiguous()


def rows(x: Tensor | None) -> Tensor | None:
    """The tensor as float32 with a contiguous last dimension; token and batch strides may be anything."""
    if x is None:
        return None
    x = x if x.dtype is torch.float32 else x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def address(x: Tensor | None) -> int:
    """Where the data begins; 0 for an absent or unwanted tensor."""
    return 0 if x is None else x.data_ptr()


def walk(x: Tensor | None) -> tuple[int, int, int]:
    """Address, batch stride and token stride: a `Rows` of csrc/rmeeto.h."""
    return (0, 0, 0) if x is None else (x.data_ptr(), x.stride(0), x.stride(1))
