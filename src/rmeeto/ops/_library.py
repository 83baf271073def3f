"""Finds and loads the compiled kernels through ctypes. Nothing happens before the first use."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rmeeto
from rmeeto.errors import BackendError

STEM = "_rmeeto_native"
SUFFIXES = (".so", ".dylib", ".dll")
ABI = 9
KERNELS = (
    *(f"rmeeto_{op}_{way}" for op in ("scan", "conv", "norm") for way in ("forward", "backward")),
    "rmeeto_weight_gradient",
    "rmeeto_block_forward",
    "rmeeto_block_backward",
    "rmeeto_bipartite_merge",
    *(f"rmeeto_token_{step}" for step in ("match", "plan", "merge", "merge_backward")),
)
OUTSIDE = 2  # what a kernel answers where an index is none
CHUNK = 16  # tokens between two kept states
CHANNEL_PAD = 16  # kept states are padded to a multiple of this many channels
CURE = "install a C++17 compiler (g++ or clang++) and install rmeeto again"

_library: ctypes.CDLL | None = None
_problem: str | None = None


@dataclass(frozen=True)
class NativeInfo:
    """What was compiled and what this processor uses of it."""

    path: str
    instruction_set: str  # "avx512", "avx2+fma", "neon" or "baseline"
    openmp: bool
    compiler: str


def problem() -> str | None:
    """Why the compiled kernels cannot be used here, or None when they can; loads them on the first call."""
    if _library is None and _problem is None:
        _load()
    return _problem


# torch.compile calls this once while tracing and keeps the answer, instead of tracing into ctypes. The public
# torch.compiler.assume_constant_result sets this same mark, but imports the whole compiler to do so.
problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


def library() -> ctypes.CDLL:
    """The loaded library; only after `problem()` said None."""
    if _library is None and problem() is not None:
        raise BackendError(f"the native kernels are missing: {_problem}; {CURE}")
    assert _library is not None
    return _library


def native_info() -> NativeInfo | None:
    """Instruction set, OpenMP and compiler of the loaded kernels, or None where there are none."""
    if problem() is not None:
        return None
    lib = library()
    return NativeInfo(lib._name, lib.rmeeto_isa().decode(), bool(lib.rmeeto_openmp()), lib.rmeeto_compiler().decode())


def call(name: str, structures: bytes, count: int) -> None:
    """Run one kernel on `count` packed call structures (see csrc/rmeeto.h)."""
    answer = getattr(library(), name)(structures, count)
    if answer == OUTSIDE:
        raise IndexError(f"{name} was given an index outside its range, or a protected place twice; check them")
    if answer:
        raise MemoryError(f"{name} found no scratch memory; use a smaller batch or fewer tokens")


def instruction_sets() -> list[str]:
    """Instruction sets that were compiled in and that this processor has, best first; empty without kernels."""
    if problem() is not None:
        return []
    lib = library()
    return [lib.rmeeto_isa_name(i).decode() for i in range(lib.rmeeto_isa_count()) if lib.rmeeto_isa_runs(i)]


@contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Run the kernels of one instruction set inside a `with` block, whole process: to test and to compare them.

    Raises:
        BackendError: this processor has it not, or it was not compiled.
    """
    if name not in (known := instruction_sets()):
        raise BackendError(
            f"instruction set {name!r} is not to be had here; choose one of {', '.join(known) or 'none'}"
        )
    lib = library()
    places = {lib.rmeeto_isa_name(i).decode(): i for i in range(lib.rmeeto_isa_count())}
    before = lib.rmeeto_isa().decode()
    lib.rmeeto_isa_use(places[name])
    try:
        yield
    finally:
        lib.rmeeto_isa_use(places[before])


def _find() -> Path | None:
    # An editable install keeps the Python files in the checkout and the compiled one in site-packages: both folders
    # are entries of the package's path.
    for folder in rmeeto.__path__:
        for suffix in SUFFIXES:
            path = Path(folder) / f"{STEM}{suffix}"
            if path.is_file():
                return path
    return None


def _load() -> None:
    global _library, _problem  # noqa: PLW0603
    path = _find()
    if path is None:
        _problem = f"no file {STEM}.* in the installed package"
        return
    try:
        lib = ctypes.CDLL(str(path))
        _declare(lib)
    except (OSError, AttributeError) as error:
        _problem = f"{path.name} cannot be loaded ({error})"
        return
    found = (lib.rmeeto_abi(), lib.rmeeto_chunk(), lib.rmeeto_channel_pad())
    if found != (ABI, CHUNK, CHANNEL_PAD):
        _problem = f"{path.name} was built from another version of the sources"
        return
    _library = lib


def _declare(lib: ctypes.CDLL) -> None:
    for name in ("rmeeto_abi", "rmeeto_openmp", "rmeeto_chunk", "rmeeto_channel_pad", "rmeeto_isa_count"):
        getattr(lib, name).restype = ctypes.c_int64
    for name in ("rmeeto_isa", "rmeeto_compiler", "rmeeto_isa_name"):
        getattr(lib, name).restype = ctypes.c_char_p
    for name in ("rmeeto_isa_name", "rmeeto_isa_runs", "rmeeto_isa_use"):
        getattr(lib, name).argtypes = [ctypes.c_int64]
    lib.rmeeto_isa_runs.restype = ctypes.c_int64
    for name in KERNELS:
        getattr(lib, name).argtypes = [ctypes.c_char_p, ctypes.c_int64]
    lib.rmeeto_map.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    lib.rmeeto_map.restype = None
