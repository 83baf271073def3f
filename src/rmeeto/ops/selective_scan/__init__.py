"""The selective scan of Mamba (arXiv 2312.00752, equations 2a, 2b and 4), channel-last."""

from __future__ import annotations

from torch import Tensor

from rmeeto.errors import ShapeError
from rmeeto.ops import backends
from rmeeto.ops._op import wants_gradient
from rmeeto.ops.selective_scan.op import op as _scan
from rmeeto.ops.selective_scan.reference import selective_scan_reference

__all__ = ["selective_scan", "selective_scan_reference"]


def selective_scan(
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
    backend: str | None = None,
) -> Tensor:
    """Scan a sequence with input-dependent steps: d = softplus(delta + delta_bias),

        h_l = exp(d_l time_l A) h_{l-1} + d_l B_l u_l,   y_l = C_l . h_l + D u_l,   y <- y silu(z).

    Shapes: u, delta, z and the result (b, n, e); A (e, s); B, C (b, n, s); D, delta_bias (e,); time (b, n).
    b images, n tokens, e channels, s states per channel; no units. A is negative in a Mamba, but may be anything.
    `softplus=False` takes d = delta + delta_bias as it is. `reverse=True` runs from the last token to the first: flip,
    scan, flip back. `time` multiplies A per token: how much time passes there (1 where absent).

    Slices of larger projections cost no copy while their last dimension is contiguous. Half types are computed in
    float32; the result has u's dtype, every gradient its input's dtype. The kernels keep one state in 16 tokens
    for the backward pass; results do not depend on the number of threads. A second derivative raises BackendError.

    backend: "native", "triton", "reference" or "auto" (None: as `use_backend` says, "auto" at first). Torch's FLOP
    counter sees the kernels by the formula of `cost`; the reference is counted as the plain PyTorch ops it is made of.
    Raises ShapeError where shapes do not fit and BackendError where "native" or "triton" cannot run.
    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", equations 2a, 2b, 4.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, time)
    tensors = (u, delta, A, B, C, D, z, delta_bias, time)
    if not backends.choose("selective_scan", tensors, backend):
        return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, time, softplus=softplus, reverse=reverse)
    y: Tensor = _scan(*tensors, softplus, reverse, wants_gradient(tensors))[0]
    return y


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    time: Tensor | None,
) -> None:
    if u.dim() != 3:
        raise ShapeError(f"u has shape {tuple(u.shape)}; it must be (batch, tokens, channels): reshape it")
    if A.dim() != 2:
        raise ShapeError(f"A has shape {tuple(A.shape)}; it must be (channels, state): reshape it")
    batch, tokens, channels = u.shape
    state = A.shape[1]
    if tokens < 1 or channels < 1 or state < 1:
        raise ShapeError(f"u {tuple(u.shape)} and A {tuple(A.shape)} need at least one token, channel and state each")
    full, selected, single = (batch, tokens, channels), (batch, tokens, state), (channels,)
    if delta.shape != full:
        raise _misfit("delta", delta, "(b, n, e)", full)
    if A.shape[0] != channels:
        raise _misfit("A", A, "(e, s)", (channels, state))
    if B.shape != selected:
        raise _misfit("B", B, "(b, n, s)", selected)
    if C.shape != selected:
        raise _misfit("C", C, "(b, n, s)", selected)
    if D is not None and D.shape != single:
        raise _misfit("D", D, "(e,)", single)
    if z is not None and z.shape != full:
        raise _misfit("z", z, "(b, n, e)", full)
    if delta_bias is not None and delta_bias.shape != single:
        raise _misfit("delta_bias", delta_bias, "(e,)", single)
    if time is not None and time.shape != (batch, tokens):
        raise _misfit("time", time, "(b, n)", (batch, tokens))


def _misfit(name: str, value: Tensor, letters: str, wanted: tuple[int, ...]) -> ShapeError:
    return ShapeError(
        f"{name} has shape {tuple(value.shape)}; with these u and A it must be {letters} = {wanted}: "
        f"check which tensor was passed as {name}"
    )
