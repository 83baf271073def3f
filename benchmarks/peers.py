"""The scan as others compute it in PyTorch, each brought to our arguments: channels last, (b, n, e).

"published" is the loop that the field uses as its reference; mambapy and transformers are installed by the extra
`bench`. A peer that is not there, or that no longer has what is called here, is left out with a sentence saying so.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def scan_inputs(b: int, n: int, e: int, s: int) -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias as a Vision Mamba has them, u and z slices of one projection."""
    projection, selection = torch.randn(b, n, 2 * e), torch.randn(b, n, 2 * s)
    rates = -torch.arange(1, s + 1, dtype=torch.float32).repeat(e, 1)
    bias = torch.empty(e).uniform_(-7, -2)
    u, z = projection[..., :e], projection[..., e:]
    return [u, torch.randn(b, n, e), rates, selection[..., :s], selection[..., s:], torch.ones(e), z, bias]


def published(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
    """The published loop's mathematics: decay and drive of all tokens first, as (b, e, n, s), then token by token."""
    u, delta, z = u.transpose(1, 2), delta.transpose(1, 2), z.transpose(1, 2)
    step = functional.softplus(delta + bias.unsqueeze(1))
    decay = torch.exp(torch.einsum("ben,es->bens", step, A))
    drive = torch.einsum("ben,bns,ben->bens", step, B, u)
    state, outputs = torch.zeros_like(decay[:, :, 0]), []
    for token in range(u.shape[2]):
        state = decay[:, :, token] * state + drive[:, :, token]
        outputs.append(torch.einsum("bes,bs->be", state, C[:, token]))
    y = torch.stack(outputs, dim=2) + u * D.unsqueeze(1)
    return (y * functional.silu(z)).transpose(1, 2)


def as_op(scan: Scan) -> Callable[..., Tensor]:
    """A scan with the face of our op: the other direction is that of turned tensors."""

    def run(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        bias: Tensor,
        time: Tensor | None,
        *,
        reverse: bool,
        **_: object,
    ) -> Tensor:
        assert time is None
        if not reverse:
            return scan(u, delta, A, B, C, D, z, bias)
        u, delta, B, C, z = (x.flip(1) for x in (u, delta, B, C, z))
        return scan(u, delta, A, B, C, D, z, bias).flip(1)

    return run


def mambapy() -> Scan | str:
    """mambapy's parallel scan inside its own selective scan, or why there is none."""
    try:
        from mambapy.pscan import pscan
    except ImportError as error:
        return f"mambapy is not here ({error}); install the extra bench"

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
        step = functional.softplus(delta + bias).unsqueeze(-1)
        states = pscan(torch.exp(step * A), step * B.unsqueeze(2) * u.unsqueeze(-1))
        return ((states @ C.unsqueeze(-1)).squeeze(3) + D * u) * functional.silu(z)

    return scan


def transformers_scan() -> Scan | str:
    """The scan of transformers' Mamba where no CUDA kernel is, or why there is none."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        from transformers.models.mamba.modeling_mamba import mamba_selective_scan
    except ImportError as error:
        return f"the scan of transformers is not here ({error}); install the extra bench"

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
        u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))
        y: Tensor = mamba_selective_scan(u, delta, A, B, C, D=D, z=z, delta_bias=bias, delta_softplus=True)
        return y.transpose(1, 2)

    return scan


def transformers_mixer(c: int, state: int, rank: int) -> torch.nn.Module | str:
    """One direction of a mixer, transformers' slow path, or why there is none."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer
    except ImportError as error:
        return f"the mixer of transformers is not here ({error}); install the extra bench"
    config = MambaConfig(hidden_size=c, state_size=state, time_step_rank=rank, expand=2, num_hidden_layers=1)
    mixer: torch.nn.Module = MambaMixer(config, 0).eval()
    return mixer
