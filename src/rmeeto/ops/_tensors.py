"""Small helpers that hand tensors to the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from rmeeto.ops._library import CHANNEL_PAD, CHUNK

LIBRARY = torch.library.Library("rmeeto", "FRAGMENT")
Kernel: TypeAlias = Callable[..., Any]


@overload
def dense(x: Tensor) -> Tensor: ...
@overload
def dense(x: None) -> None: ...
def dense(x: Tensor | None) -> Tensor | None:
    """The tensor as contiguous float32; itself where it is already."""
    if x is None:
        return None
    x = x if x.dtype is torch.float32 else x.float()
    return x if x.is_contiguous() else x.contiguous()


def all_dense(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Each as `dense` gives it; many are asked at once, which takes half as long."""
    plain = {t.dtype for t in tensors} <= {torch.float32} and all(map(Tensor.is_contiguous, tensors))
    return tensors if plain else [dense(t) for t in tensors]


@overload
def rows(x: Tensor) -> Tensor: ...
@overload
def rows(x: None) -> None: ...
def rows(x: Tensor | None) -> Tensor | None:
    """The tensor as float32 with a contiguous last dimension; token and batch strides may be anything."""
    if x is None:
        return None
    x = x if x.dtype is torch.float32 else x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


@overload
def as_rows(x: Tensor) -> Tensor: ...
@overload
def as_rows(x: None) -> None: ...
def as_rows(x: Tensor | None) -> Tensor | None:
    """The tensor in its own type with a contiguous last dimension; token and batch strides may be anything."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


@overload
def indices(x: Tensor) -> Tensor: ...
@overload
def indices(x: None) -> None: ...
def indices(x: Tensor | None) -> Tensor | None:
    """The tensor as contiguous int64; itself where it is already."""
    if x is None:
        return None
    x = x if x.dtype is torch.int64 else x.long()
    return x if x.is_contiguous() else x.contiguous()


def address(x: Tensor | None) -> int:
    """Where the data begins; 0 for an absent or unwanted tensor."""
    return 0 if x is None else x.data_ptr()


def walk(x: Tensor | None) -> tuple[int, int, int]:
    """Address, batch stride and token stride: a `Rows` of csrc/rmeeto.h."""
    if x is None:
        return 0, 0, 0
    strides = x.stride()
    return x.data_ptr(), strides[0], strides[1]


def empty(like: Tensor) -> Tensor:
    """Uninitialised contiguous float32 of the same shape."""
    if like.dtype is torch.float32 and like.is_contiguous():
        return torch.empty_like(like)
    return like.new_empty(*like.shape, dtype=torch.float32)


def wants_gradient(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd has to remember this call."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def dispatch(op: Kernel, wanted: bool, *arguments: Any) -> Any:  # noqa: FBT001
    """Call an op that has a hand-written kernel for the Autograd key, past that key where no gradient is wanted.

    It is a Python function, and going through it for nothing would take four microseconds.
    """
    if wanted or torch.compiler.is_compiling():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Inside, kernels are started on the tensor's own GPU."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def register(
    op: str,
    *,
    cpu: Kernel,
    fake: Kernel,
    gpu: Kernel | None = None,
    autograd: Kernel | None = None,
    flops: Kernel | None = None,
) -> None:
    """Register what computes `rmeeto::<op>`, which is defined already.

    Args:
        op: its name.
        cpu: computes it on a CPU.
        fake: its results without values.
        gpu: computes it on a GPU.
        autograd: kernel for the Autograd key, `through` or of its own; None where the op has no gradients.
        flops: its FLOP formula.
    """
    LIBRARY.impl(op, cpu, "CPU")
    if gpu is not None:
        LIBRARY.impl(op, gpu, "CUDA")
    if autograd is not None:
        LIBRARY.impl(op, autograd, "Autograd")
    torch.library.register_fake(f"rmeeto::{op}", fake, lib=LIBRARY)
    if flops is not None:
        register_flop_formula(getattr(torch.ops.rmeeto, op))(flops)


def through(op: str, function: type[torch.autograd.Function], tensors: int) -> Kernel:
    """The Autograd kernel of `rmeeto::<op>`, whose first `tensors` arguments are those with gradients.

    A hand-written one: torch.library.register_autograd would cost 50 microseconds a call.
    """
    plain = getattr(torch.ops.rmeeto, op).default

    def run(*arguments: Any) -> Any:
        if wants_gradient(arguments[:tensors]):
            return function.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return plain(*arguments)

    return run


def on_gpu(module: str, name: str) -> Kernel:
    """A function of a module of Triton kernels, imported when it is first called: Triton is not everywhere."""
    found: list[Kernel] = []

    def run(*arguments: Any) -> Any:
        if not found:
            found.append(getattr(import_module(module), name))
        return found[0](*arguments)

    return run


def states_shape(shape: Sequence[int], A: Tensor) -> tuple[int, int, int, int]:
    """Of the states that a forward scan of (batch, tokens, ...) keeps for the backward one; A is (channels, state).

    (batch, chunks, state, padded channels).
    """
    channels, state = A.shape
    return shape[0], -(-shape[1] // CHUNK), state, -(-channels // CHANNEL_PAD) * CHANNEL_PAD
