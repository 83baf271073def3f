"""The causal convolution in plain PyTorch: the law for outputs and gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, silu


def causal_conv_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """A sum of shifted sequences; arguments and result as in `rmeeto.ops.causal_conv`."""
    given = [t for t in (x, weight, bias) if t is not None]
    dtype = torch.float64 if any(t.dtype is torch.float64 for t in given) else torch.float32
    taps, tokens = weight.shape[1], x.shape[1]
    kernel = weight.to(dtype)
    padded = pad(x.to(dtype), (0, 0, 0, taps - 1) if reverse else (0, 0, taps - 1, 0))
    y = torch.zeros(x.shape, dtype=dtype, device=x.device) if bias is None else bias.to(dtype)
    for j in range(taps):  # weight[:, taps - 1 - j] meets the token j places back (reverse: ahead)
        start = j if reverse else taps - 1 - j
        y = y + kernel[:, taps - 1 - j] * padded[:, start : start + tokens]
    return silu(y).to(x.dtype)
