"""The norm in plain PyTorch: the law for outputs and gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Torch's own; arguments and result as in `rmeeto.ops.rms_norm`."""
    wide = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    return functional.rms_norm(x.to(wide), x.shape[-1:], weight.to(wide), eps).to(x.dtype)
