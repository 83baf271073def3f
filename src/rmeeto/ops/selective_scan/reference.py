"""The selective scan in plain PyTorch: the law for outputs and gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.nn.functional import softplus as softplus_of


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    time: Tensor | None = None,
    *,
    softplus: bool = True,
    reverse: bool = False,
) -> Tensor:
    """A loop over the tokens; float32 inside for half types, float64 where an input is float64.

    Arguments and result as in `rmeeto.ops.selective_scan`.
    """
    given = [x for x in (u, delta, A, B, C, D, z, delta_bias, time) if x is not None]
    dtype = torch.float64 if any(x.dtype is torch.float64 for x in given) else torch.float32
    inputs = u.to(dtype)
    step = delta.to(dtype)
    step = step if delta_bias is None else step + delta_bias.to(dtype)
    step = softplus_of(step) if softplus else step
    drive = step * inputs
    step = step if time is None else step * time.to(dtype).unsqueeze(-1)
    A, B, C = A.to(dtype), B.to(dtype), C.to(dtype)

    batch, tokens, channels = u.shape
    h = torch.zeros(batch, channels, A.shape[1], dtype=dtype, device=u.device)
    outputs: list[Tensor] = [h] * tokens
    for token in reversed(range(tokens)) if reverse else range(tokens):
        decay = torch.exp(step[:, token, :, None] * A)
        h = decay * h + drive[:, token, :, None] * B[:, token, None, :]
        outputs[token] = (h * C[:, token, None, :]).sum(-1)
    y = torch.stack(outputs, 1)
    y = y if D is None else y + D.to(dtype) * inputs
    y = y if z is None else y * silu(z.to(dtype))
    return y.to(u.dtype)
