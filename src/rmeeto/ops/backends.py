"""Which implementation of an op runs here, and why not a faster one.

- "reference": plain PyTorch, any device and dtype; the law for outputs and gradients.
- "native": the compiled CPU kernels, float32, bfloat16 and float16.
- "auto": native where it can run, else the reference, never silently: the first such call of an op warns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto.errors import BackendError
from rmeeto.ops import _library, _onednn

OPS = ("selective_scan", "causal_conv", "bimamba", "rms_norm", "token_match", "token_plan", "token_merge")
NAMES = ("auto", "native", "reference")
KINDS = frozenset({torch.float32, torch.bfloat16, torch.float16})
INDICES = frozenset({torch.int64})

_setting = "auto"
_warned: set[str] = set()


class SlowPathWarning(RuntimeWarning):
    """An op runs its slow reference because no kernel fits; said once per op and process."""


@dataclass(frozen=True)
class BackendReport:
    """One op, one backend: does it exist here, does "auto" use it on the CPU, and why."""

    op: str
    backend: str
    available: bool
    used: bool
    why: str


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Set the backend of all ops inside a `with` block: "reference", "native" or "auto".

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
    """The backend asked for: the op's own argument, else what `use_backend` set. Raises for an unknown name."""
    name = _setting if requested is None else requested
    _check(name)
    return name


def runs(
    op: str, tensors: tuple[Tensor | None, ...], requested: str | None, kinds: frozenset[torch.dtype] = KINDS
) -> bool:
    """Whether the native kernel is asked for and can be had. Raises BackendError where nothing else will do."""
    name = setting(requested)
    if name == "reference":
        return False
    why = _obstacle(tensors, kinds)
    if why is not None and name == "native":
        raise BackendError(f"{op} has no native kernel here: {why[0]}; {why[1]}")
    return why is None


def choose(
    op: str, tensors: tuple[Tensor | None, ...], requested: str | None, kinds: frozenset[torch.dtype] = KINDS
) -> bool:
    """True: run the native kernel; False: run the reference, which is said once where it was not asked for."""
    if runs(op, tensors, requested, kinds):
        return True
    if setting(requested) == "auto" and (why := _obstacle(tensors, kinds)) is not None:
        _warn_once(op, *why)
    return False


def report() -> list[BackendReport]:
    """What every backend of every op offers on this machine's CPU, for `rmeeto doctor`."""
    problem = _library.problem()
    info = _library.native_info()
    rows = []
    for op in OPS:
        if info is None:
            rows.append(BackendReport(op, "native", False, False, f"{problem}; {_library.CURE}"))
        else:
            threads = f"{torch.get_num_threads()} threads" if info.openmp else "one thread, built without OpenMP"
            rows.append(BackendReport(op, "native", True, True, f"{info.instruction_set}, {threads}, {info.compiler}"))
        why = "float64 and other devices" if info else "no native kernels"
        rows.append(BackendReport(op, "reference", True, info is None, f"plain PyTorch; used for {why}"))
    found = _onednn.available()
    why = f"oneDNN of torch, {torch.backends.cpu.get_cpu_capability()}" if found else "this torch has no oneDNN"
    rows.append(BackendReport("linear", "native", found, found, why))
    rows.append(BackendReport("linear", "reference", True, not found, "torch's own; used for all but float32 on a CPU"))
    return rows


def _check(name: str) -> None:
    if name not in NAMES:
        raise BackendError(f"backend {name!r} is unknown; it must be one of {', '.join(NAMES)}")


def _obstacle(tensors: tuple[Tensor | None, ...], kinds: frozenset[torch.dtype]) -> tuple[str, str] | None:
    """(why no native kernel runs on these tensors, the cure), or None."""
    meta = False
    for x in tensors:
        if x is None:
            continue
        if x.dtype not in kinds:
            return f"{x.dtype} has no kernel", "use float32, or say backend='reference'"
        if x.is_cpu:
            continue
        if not x.is_meta:
            return f"the tensors are on {x.device.type}, the kernels are for CPUs", "say backend='reference'"
        meta = True
    if meta:  # only shapes are computed
        return None
    problem = _library.problem()
    return None if problem is None else (problem, _library.CURE)


def _warn_once(op: str, why: str, cure: str) -> None:
    if op in _warned:
        return
    _warned.add(op)
    text = f"{op} runs its slow reference: {why}; cure: {cure}"
    warnings.warn(text, SlowPathWarning, stacklevel=4)
