"""The norm in front of every mixer."""

from __future__ import annotations

from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops.rms_norm import native
from rmeeto.ops.rms_norm.reference import rms_norm_reference

__all__ = ["rms_norm", "rms_norm_reference"]


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, *, backend: str | None = None) -> Tensor:
    """y = x weight / sqrt(mean(x^2) + eps), token by token.

    Shapes: x and the result (b, n, c), weight (c,). No units. Half types are computed in float32; the result has x's
    type. Torch's own form takes five passes over memory and as many more for the gradients.

    backend: "native", "reference" or "auto" (None: as `use_backend` says).
    Raises ShapeError where shapes do not fit and BackendError where "native" cannot run.
    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467, equation 4.
    """
    if x.dim() != 3 or x.shape[-1] < 1:
        raise ShapeError(f"x has shape {tuple(x.shape)}; it must be (batch, tokens, channels): reshape it")
    if weight.shape != x.shape[-1:]:
        raise ShapeError(f"weight has shape {tuple(weight.shape)}; with this x it must be {tuple(x.shape[-1:])}")
    if not backends.choose("rms_norm", (x, weight), backend):
        return rms_norm_reference(x, weight, eps)
    return native.op(x, weight, eps)
