"""The short depthwise convolution in front of every scan, with its SiLU."""

from __future__ import annotations

from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops.causal_conv.op import op as _conv
from rmeeto.ops.causal_conv.reference import causal_conv_reference

__all__ = ["causal_conv", "causal_conv_reference"]

MAX_TAPS = 8


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Depthwise causal convolution over the tokens, then SiLU:

        y_l = silu(bias + sum_j weight[:, k-1-j] x_{l-j}),   j = 0 .. k-1, tokens before the first count as zero.

    Shapes: x and the result (b, n, e); weight (e, k) with k from 1 to 8; bias (e,). No units.
    `reverse=True` looks ahead (l+j) instead of back: flip, convolve, flip back.
    Slices of larger projections cost no copy while their last dimension is contiguous. Half types are computed in
    float32; the result has x's dtype, every gradient its input's dtype. Nothing but x is kept for the backward pass.

    backend: "native", "triton", "reference" or "auto" (None: as `use_backend` says, "auto" at first). Torch's FLOP
    counter sees the kernels by the formula of `cost`; the reference is counted as the plain PyTorch ops it is made of.
    Raises ShapeError where shapes do not fit and BackendError where "native" or "triton" cannot run.
    Source: the convolution of the Mamba block, arXiv 2312.00752, figure 3.
    """
    if x.dim() != 3 or x.shape[1] < 1 or x.shape[2] < 1:
        raise ShapeError(f"x has shape {tuple(x.shape)}; it must be (batch, tokens, channels), one of each at least")
    channels = x.shape[2]
    if weight.dim() != 2 or weight.shape[0] != channels or not 1 <= weight.shape[1] <= MAX_TAPS:
        raise ShapeError(
            f"weight has shape {tuple(weight.shape)}; with this x it must be ({channels}, k), k from 1 to {MAX_TAPS}: "
            "drop a singleton dimension or check the channels"
        )
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"bias has shape {tuple(bias.shape)}; with this x it must be ({channels},): check it")
    if not backends.choose("causal_conv", (x, weight, bias), backend):
        return causal_conv_reference(x, weight, bias, reverse=reverse)
    return _conv(x, weight, bias, reverse)
