"""Torch ops whose kernels are Python functions, and the short way to them where nobody stands in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from rmeeto.errors import BackendError

LIBRARY = torch.library.Library("rmeeto", "FRAGMENT")
Kernel: TypeAlias = Callable[..., Any]

_PLAIN = {Tensor, torch.nn.Parameter}
_VALUES = {bool, int, float, str, tuple, type(None)}  # tuples of numbers: where an op takes tensors, it takes a list
_ON_CPU = attrgetter("is_cpu")
_KEYS = torch._C.DispatchKeySet
_INFERENCE = _KEYS(torch._C.DispatchKey.BackendSelect)
# What torch's dispatcher looks at for every call where nobody has told it to look at more, without and with
# torch.inference_mode.
_USUAL = {(_INFERENCE | _KEYS(torch._C.DispatchKey.ADInplaceOrView)).raw_repr(), _INFERENCE.raw_repr()}


class Op:
    """A torch op `rmeeto::<name>`: called as torch.ops.rmeeto.<name> is, with the same results, but sooner.

    Torch's dispatcher takes 13 microseconds to a kernel that is a Python function, and 40 where it gives nine tensors
    back. Where it would do nothing but call the CPU kernel, or the autograd function, that is called here. Whoever
    watches or changes calls of ops (modes, transforms, tracers, compilers, the profiler) finds this one as every other.

    Args:
        name: the op's.
        schema: its arguments and results, as torch writes them.
    """

    def __init__(self, name: str, schema: str) -> None:
        LIBRARY.define(name + schema)
        self.name = name
        self._packet = getattr(torch.ops.rmeeto, name)
        self._op = self._packet.default
        self._function: type[torch.autograd.Function] | None = None
        self._tensors = 0

    def register(
        self,
        *,
        cpu: Kernel,
        fake: Kernel,
        gpu: Kernel | None = None,
        function: type[torch.autograd.Function] | None = None,
        tensors: int = 0,
        flops: Kernel | None = None,
    ) -> None:
        """Say what computes it.

        Args:
            cpu: computes it on a CPU.
            fake: its results without values.
            gpu: computes it on a GPU.
            function: its gradients; None where it has none. Its forward pass calls `below`.
            tensors: so many of the first arguments may want gradients.
            flops: its FLOP formula.
        """
        self.cpu, self._function, self._tensors = cpu, function, tensors
        LIBRARY.impl(self.name, cpu, "CPU")
        if gpu is not None:
            LIBRARY.impl(self.name, gpu, "CUDA")
        if function is not None:
            # A hand-written kernel: torch.library.register_autograd would cost 50 microseconds a call.
            LIBRARY.impl(self.name, self._with_gradients, "Autograd")
        torch.library.register_fake(f"rmeeto::{self.name}", fake, lib=LIBRARY)
        if flops is not None:
            register_flop_formula(self._packet)(flops)

    def register_without_gradients(self) -> None:
        """Say that no result depends on its arguments smoothly."""
        LIBRARY.impl(self.name, torch.library.fallthrough_kernel, "Autograd")

    def __call__(self, *arguments: Any) -> Any:
        if self._function is None:
            return self.cpu(*arguments) if is_direct(arguments) else self._op(*arguments)
        if not wants_gradient(arguments[: self._tensors]) and not torch.compiler.is_compiling():
            return self.below(*arguments)  # on every device: autograd's kernel, too, is a Python function
        return self._function.apply(*arguments) if is_direct(arguments) else self._op(*arguments)

    def below(self, *arguments: Any) -> Any:
        """The same without autograd."""
        if is_direct(arguments):
            return self.cpu(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return self._op(*arguments)

    def _with_gradients(self, *arguments: Any) -> Any:
        assert self._function is not None
        if not wants_gradient(arguments[: self._tensors]):
            return self.below(*arguments)
        return self._function.apply(*arguments)


def is_direct(arguments: Iterable[object]) -> bool:
    """Whether torch's dispatcher would call the CPU kernel, and autograd's where gradients are wanted, and no other."""
    if torch.compiler.is_compiling():
        return False
    for each in arguments:
        kind = type(each)
        if kind in _PLAIN:
            if not each.is_cpu or each.is_neg():  # type: ignore[attr-defined]
                return False
        elif kind is list:
            if not _are_plain(each):  # type: ignore[arg-type]
                return False
        elif kind not in _VALUES:
            return False
    return (
        torch._C._dispatch_tls_local_include_set().raw_repr() in _USUAL
        and not torch._C._len_torch_function_stack()
        and not torch.autograd._profiler_enabled()
    )


def _are_plain(given: list[Any]) -> bool:
    """The same of many numbers or tensors, all weights of a model for one: each question is asked of all at once."""
    kinds = set(map(type, given))
    return kinds <= _VALUES or (kinds <= _PLAIN and all(map(_ON_CPU, given)) and not any(map(Tensor.is_neg, given)))


def wants_gradient(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd has to remember this call."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


class _Once(torch.autograd.Function):
    """Gradients as they are, and what they were made of, through which nothing comes back."""

    @staticmethod
    def forward(_ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[:count]

    @staticmethod
    def backward(_ctx: Any, *_: Any) -> tuple[None, ...]:
        raise BackendError(
            "a gradient of a kernel's gradient was asked for, and kernels have first derivatives only; "
            "compute under rmeeto.ops.use_backend('reference')"
        )


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward pass of an autograd function whose gradients cannot be differentiated again.

    Torch's own decorator costs 20 microseconds a call, and where the incoming gradient is a constant, as that of a sum
    is, it lets second derivatives be lost without a word. Here they raise BackendError, and they alone.
    """

    @wraps(backward)
    def run(ctx: Any, *gradients: Tensor | None) -> Any:
        if not torch.is_grad_enabled():  # nobody asked for more: not create_graph
            return backward(ctx, *gradients)
        with torch.no_grad():
            made = backward(ctx, *gradients)
        return _Once.apply(len(made), *made, *gradients, *ctx.saved_tensors)

    return run


def on_gpu(module: str, name: str) -> Kernel:
    """A function of a module of Triton kernels, imported when it is first called: Triton is not everywhere."""
    found: list[Kernel] = []

    def run(*arguments: Any) -> Any:
        if not found:
            found.append(getattr(import_module(module), name))
        return found[0](*arguments)

    return run
