"""What stands between the two big matrix products of a bidirectional Mamba mixer ("bimamba v2"), as one op."""

from __future__ import annotations

from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops._op import wants_gradient
from rmeeto.ops.bimamba import native
from rmeeto.ops.bimamba.reference import Direction, bimamba_reference

__all__ = ["Direction", "bimamba", "bimamba_reference"]


def bimamba(
    xz: Tensor,
    directions: tuple[Direction, Direction],
    time: Tensor | None = None,
    *,
    scale: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Mix tokens in both directions, per direction with its own parameters:

        u' = silu(causal_conv(u)),  (dt, B, C) = W_x u',  delta = W_dt dt,  y_d = scan(u', delta, A, B, C) + D u'

    and y = (y_forward + y_backward) silu(z) scale.

    Shapes: xz (b, n, 2e), u and z beside each other; time (b, n), the factor on A, 1 where absent; y (b, n, e); also
    returned is (dt, B, C) of each direction, (b, n, R + 2s), without gradients from the native kernels: it is there to
    be looked at. b images, n tokens, e channels, s states per channel, R the rank of delta; no units.

    The native form keeps no delta, gates both directions at once and sums them in the cache. Results do not depend on
    the number of threads beyond what the library of matrix products does. A second derivative raises BackendError.

    backend: "native", "triton", "reference" or "auto" (None: as `use_backend` says). Without native kernels, and so on
    every GPU, the op is composed of `causal_conv`, matrix products and `selective_scan`, each by its own best backend.
    Raises ShapeError where shapes do not fit and BackendError where "native" cannot run.
    Source: Vim, arXiv 2401.09417, algorithm 1; VideoMamba, arXiv 2403.06977, sums where Vim averages.
    """
    _check(xz, directions, time)
    tensors = (xz, time, *directions[0], *directions[1])
    if not native.fits(directions) or not backends.runs("bimamba", tensors, backend):
        return bimamba_reference(xz, directions, time, scale=scale, backend=backend)
    return native.bimamba(xz, directions, time, scale, keep=wants_gradient(tensors))


def _check(xz: Tensor, directions: tuple[Direction, Direction], time: Tensor | None) -> None:
    if xz.dim() != 3 or xz.shape[1] < 1 or xz.shape[2] < 2 or xz.shape[2] % 2:
        raise ShapeError(f"xz has shape {tuple(xz.shape)}; it must be (batch, tokens, 2 * channels): join u and z")
    check_directions(xz.shape[2] // 2, directions)
    if time is not None and time.shape != xz.shape[:2]:
        raise ShapeError(f"time has shape {tuple(time.shape)}; with this xz it must be {tuple(xz.shape[:2])}: check it")


def check_directions(channels: int, directions: tuple[Direction, Direction]) -> None:
    """Raise ShapeError where a parameter does not fit so many channels."""
    for name, direction in zip(("forward", "backward"), directions, strict=True):
        state, rank = direction.A_log.shape[-1], direction.dt_weight.shape[-1]
        wanted = (
            (channels, 1, direction.conv_weight.shape[-1]),
            (channels,),
            (rank + 2 * state, channels),
            (channels, rank),
            (channels,),
            (channels, state),
            (channels,),
        )
        found = tuple(tensor.shape for tensor in direction)
        if found == wanted:
            continue
        for field, shape, needed in zip(Direction._fields, found, wanted, strict=True):
            if shape != needed:
                raise ShapeError(
                    f"{field} of the {name} direction has shape {tuple(shape)}; with {channels} channels it must be "
                    f"{needed}: check it"
                )
