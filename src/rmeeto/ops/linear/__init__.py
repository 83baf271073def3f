"""The matrix product of a linear layer, by the fastest library that torch carries."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from rmeeto.ops import backends
from rmeeto.ops.linear import native

__all__ = ["linear"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """y = x W^T + bias.

    Shapes: x (..., k), weight (m, k), bias (m,), result (..., m). No units.

    In float32 on a CPU torch's own linear layer asks MKL, which uses narrow vectors on processors of other makers;
    oneDNN, which torch carries too, uses all that the processor has: 1.2 times as fast on AVX2, more than twice on
    AVX-512 (benchmarks/ops.py). Every other type and device, autocast and tensors that torch.compile traces for other
    backends are torch's own business.

    backend: "native" or "auto" (None: as `use_backend` says) ask oneDNN where it can run, "reference" never does.
    """
    if backends.setting(backend) in ("auto", "native") and native.fits(x, weight):
        return native.op(x, weight, bias)
    return functional.linear(x, weight, bias)
