"""Which implementation of an op runs here, and why not a faster one.

- "reference": plain PyTorch, any device and dtype; the law for outputs and gradients.
- "native": the compiled CPU kernels, float32, bfloat16 and float16.
- "triton": Triton kernels of the scan and the convolution on a GPU, the same dtypes; there `bimamba` is composed of
  them, and all other ops are torch's own, whose reference has no loop and is fast on a GPU.
- "auto": native on a CPU and triton on a GPU where they can run, else the reference. Never silently slow: the first
  call that runs a slow reference warns, once for each cause.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto.errors import BackendError
from rmeeto.ops import _library, _products, _triton

OPS = (
    *("selective_scan", "causal_conv", "bimamba", "rms_norm", "block", "blocks"),
    *("token_match", "token_plan", "token_merge", "bipartite_merge"),
)
# Composed of other ops where they have no kernel; what of.
_COMPOSED = {
    "bimamba": "causal_conv, linear and selective_scan",
    "block": "rms_norm, linear and bimamba",
    "blocks": "block and bipartite_merge",
    "bipartite_merge": "token_match, token_plan and token_merge",
}
# What their kernels are not for, where there are kernels.
_NOT_FOR_BLOCKS = {
    "block": "gradients of few images, half types and other devices",
    "blocks": "gradients, half types and other devices",
}
LOOPS = ("selective_scan", "causal_conv")  # their references walk over tokens or taps; Triton has kernels for them
NAMES = ("auto", "native", "triton", "reference")
DEVICES = {"native": "cpu", "triton": "cuda"}  # torch calls the GPUs of AMD cuda, too
KINDS = frozenset({torch.float32, torch.bfloat16, torch.float16})
INDICES = frozenset({torch.int64})

_setting = "auto"
_warned: set[tuple[str, str]] = set()


class SlowPathWarning(RuntimeWarning):
    """An op runs its slow reference because no kernel fits; said once per cause and process."""


@dataclass(frozen=True)
class BackendReport:
    """One op, one backend: does it exist here, does "auto" use it, on the CPU or on a GPU, and why."""

    op: str
    backend: str
    available: bool
    used: bool
    why: str


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Set the backend of all ops inside a `with` block: "reference", "native", "triton" or "auto".

    The setting holds for the whole process, all threads; an op's own `backend=` argument wins over it.
    Raises BackendError for an unknown name.
    """
    global _setting  # noqa: PLW0603
    _check(name)
    before, _setting = _setting, name
    try:
        yield
    finally:
        _setting = before


def setting(requested: str | None) -> str:
    """The backend asked for: the op's own argument, else what `use_backend` set. Raises for an unknown name.

    Inside a transform of torch.func (grad, vmap, jvp, ...) "auto" is the reference: kernels cannot be transformed.
    """
    name = _setting if requested is None else requested
    _check(name)
    if name == "auto" and _transformed():
        _warn_once("every op", "torch.func transforms no kernel", "use torch.autograd, or say backend='reference'")
        return "reference"
    return name


def runs(
    op: str, tensors: tuple[Tensor | None, ...], requested: str | None, kinds: frozenset[torch.dtype] = KINDS
) -> bool:
    """Whether a kernel is asked for and can be had. Raises BackendError where nothing else will do."""
    name = setting(requested)
    if name == "reference" or (name == "triton" and op not in LOOPS):
        return False
    native = name != "triton" and _all_native(tensors, kinds)
    why = _problem_of("native") if native else _obstacle(op, tensors, name, kinds)
    if why is not None and name != "auto":
        raise BackendError(f"{op} has no {name} kernel here: {why[0]}; {why[1]}")
    return why is None


def choose(
    op: str, tensors: tuple[Tensor | None, ...], requested: str | None, kinds: frozenset[torch.dtype] = KINDS
) -> bool:
    """True: run the kernel; False: run the reference, which is said once where it is slow and was not asked for."""
    if runs(op, tensors, requested, kinds):
        return True
    slow = op in LOOPS or any(x is not None and x.is_cpu for x in tensors)
    if slow and setting(requested) == "auto" and (why := _obstacle(op, tensors, "auto", kinds)) is not None:
        _warn_once(op, *why)
    return False


def report() -> list[BackendReport]:
    """What every backend of every op offers on this machine, for `rmeeto doctor`."""
    native, gpu = _native_report(), _triton.problem()
    rows = []
    for op in OPS:
        rows += [BackendReport(op, "native", *native), BackendReport(op, "triton", *_triton_report(op, gpu))]
        slow = "" if op in LOOPS else ", and on GPUs: it has no loop, torch's own ops are fast there"
        slow = f", composed of {_COMPOSED[op]}" if op in _COMPOSED else slow
        unused = "float64 and other devices" if native[0] else "no native kernels"
        unused = _NOT_FOR_BLOCKS.get(op, unused) if native[0] else unused
        rows.append(BackendReport(op, "reference", True, not native[0], f"plain PyTorch; used for {unused}{slow}"))
    found = _products.available()
    why = f"oneDNN of torch, {torch.backends.cpu.get_cpu_capability()}" if found else "this torch has no oneDNN"
    rows.append(BackendReport("linear", "native", found, found, why))
    rows.append(BackendReport("linear", "reference", True, not found, "torch's own; used for all but float32 on a CPU"))
    return rows


def _transformed() -> bool:
    return torch._C._are_functorch_transforms_active()


# torch.compile keeps the answer; it cannot trace the question.
_transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _native_report() -> tuple[bool, bool, str]:
    info = _library.native_info()
    if info is None:
        return False, False, f"{_library.problem()}; {_library.CURE}"
    threads = f"{torch.get_num_threads()} threads" if info.openmp else "one thread, built without OpenMP"
    return True, True, f"{info.instruction_set}, {threads}, {info.compiler}"


def _triton_report(op: str, problem: str | None) -> tuple[bool, bool, str]:
    if op in _COMPOSED:
        return False, False, f"composed of {_COMPOSED[op]}"
    if op not in LOOPS:
        return False, False, "not needed: the reference is fast on a GPU"
    if problem is not None:
        return False, False, f"{problem}; {_triton.CURE}"
    return True, True, f"kernels for {torch.cuda.get_device_name()}"


def _check(name: str) -> None:
    if name not in NAMES:
        raise BackendError(f"backend {name!r} is unknown; it must be one of {', '.join(NAMES)}")


def _obstacle(
    op: str, tensors: tuple[Tensor | None, ...], name: str, kinds: frozenset[torch.dtype]
) -> tuple[str, str] | None:
    """(why no kernel of this backend, "auto" any, runs on these tensors, the cure), or None."""
    given = [x for x in tensors if x is not None]
    for x in given:
        if x.dtype not in kinds:
            return f"{x.dtype} has no kernel", "use float32, or say backend='reference'"
    homes = {x.device.type: None for x in given if not x.is_meta}
    if not homes:  # only shapes are computed, which takes no kernel
        return None
    home = next(iter(homes))
    if len(homes) > 1:
        return f"the tensors are on {' and '.join(homes)}", "move them to one device"
    if name == "auto":
        name = next((known for known, device in DEVICES.items() if device == home), "native")
    if name == "triton" and op not in LOOPS:
        return f"on a GPU {op} is torch's own", "say backend='reference'"
    if DEVICES[name] != home:
        kind = "CPUs" if name == "native" else "GPUs that torch calls cuda"
        return f"the tensors are on {home}, the kernels are for {kind}", "say backend='reference'"
    return _problem_of(name)


def _all_native(tensors: tuple[Tensor | None, ...], kinds: frozenset[torch.dtype]) -> bool:
    """Whether all is on a CPU and of these kinds: asked first, for it is quickly said."""
    for x in tensors:  # noqa: SIM110 - a generator takes longer than what it asks
        if x is not None and not (x.is_cpu and x.dtype in kinds):
            return False
    return True


def _problem_of(name: str) -> tuple[str, str] | None:
    problem, cure = (_triton.problem(), _triton.CURE) if name == "triton" else (_library.problem(), _library.CURE)
    return None if problem is None else (problem, cure)


def _warn_once(op: str, why: str, cure: str) -> None:
    if (why, cure) in _warned:
        return
    _warned.add((why, cure))
    text = f"{op} runs its slow reference: {why}; cure: {cure}; said once for all ops that it concerns"
    warnings.warn(text, SlowPathWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """`stacklevel` of the line outside of this package and of torch that `_warn_once` was called for."""
    frame, level = sys._getframe(2), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("rmeeto.", "torch.")):
        frame, level = frame.f_back, level + 1
    return level


# As in _library.py: torch.compile says it while it traces, for a graph cannot.
_warn_once._dynamo_marked_constant = True  # type: ignore[attr-defined]
