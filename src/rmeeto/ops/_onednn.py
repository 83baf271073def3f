"""Matrix products by oneDNN, through the op that torch's own compiler uses for linear layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

# Below this many columns a product over the tokens is faster the other way round.
_THIN = 16


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
    """dy^T x, the gradient of a weight: (t, m), (t, k) -> (m, k)."""
    if x.shape[1] <= _THIN:
        # clone, for contiguous() leaves the strides of single columns odd
        return (x.t() @ dy).t().clone(memory_format=torch.contiguous_format)
    if not _wide_vectors():
        return dy.t() @ x
    if x.shape[1] < dy.shape[1]:  # the first of the two is copied to rows: let it be the narrower one
        return times_transposed(x.t(), dy.t()).t().contiguous()
    return times_transposed(dy.t(), x.t())


@cache
def _wide_vectors() -> bool:
    # On AVX2 both libraries need the same time for this product, where rows are columns.
    return "AVX512" in torch.backends.cpu.get_cpu_capability()
