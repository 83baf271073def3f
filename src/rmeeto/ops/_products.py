"""Matrix products: by oneDNN, through the op that torch's own compiler uses for linear layers, and by our kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from rmeeto.ops._library import problem
from rmeeto.ops._structs import WeightGradient, run


def available() -> bool:
    """Whether this torch carries oneDNN and the op that reaches it."""
    return torch.backends.mkldnn.is_available() and _product() is not None


# torch.compile keeps the answer instead of tracing into it, as it would into a cache; see problem() in _library.py.
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _product() -> Callable[..., Tensor] | None:
    try:
        product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    except AttributeError:
        return None
    return product


def times_transposed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias without gradients: (..., k), (m, k), (m,) -> (..., m), float32 on the CPU, any strides."""
    product = _product()
    if product is None or not torch.backends.mkldnn.is_available() or not x.numel():
        return functional.linear(x, weight, bias)
    return product(x, weight, bias, "none", [], "")


def weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    """dy^T x, the gradient of a weight: (t, m), (t, k) -> (m, k), float32 on the CPU.

    By our own kernel, which reads both as they lie; oneDNN wants copies of them whose rows are columns.
    """
    dweight = dy.new_empty(dy.shape[1], x.shape[1])
    if problem() is not None or not dweight.numel():
        return dy.t() @ x
    run([WeightGradient(dy, x, dweight)])
    return dweight
