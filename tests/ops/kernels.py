"""On which backends the tests of kernels run here, and where their tensors are.

Where no GPU is, test_triton.py runs a part of the Triton cases in Triton's interpreter: a process of its own with
TRITON_INTERPRET=1, in which Triton's kernels stand where the compiled ones do, on CPU tensors.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rmeeto.evaluate.mode import on_threads
from rmeeto.ops import _triton, backends, native_info
from rmeeto.ops._op import LIBRARY

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MOST_INTERPRETED = 8  # chunks of an image times states

native = pytest.mark.skipif(native_info() is None or INTERPRETED, reason="no native kernels here")
triton = pytest.mark.skipif(
    _triton.problem() is not None and not INTERPRETED,
    reason="no GPU for Triton here; test_triton.py runs some of these cases in the interpreter",
)
counted = pytest.mark.skipif(
    native_info() is None and _triton.problem() is not None, reason="no kernels here, and references are not counted"
)
KERNELS = [pytest.param("native", marks=native), pytest.param("triton", marks=triton)]


def by_threads(compute: Callable[[], Any], counts: Sequence[int] = (1, 2, 3)) -> list[Any]:
    """What each number of threads computes."""
    found = []
    for count in counts:
        with on_threads(count):
            found.append(compute())
    return found


def home(backend: str) -> str:
    """The device of a backend's tensors."""
    return "cuda" if backend == "triton" and not INTERPRETED else "cpu"


def bear(backend: str, chunks: int, states: int = 1) -> None:
    """Skip what takes the interpreter too long."""
    if backend == "triton" and INTERPRETED and chunks * states > MOST_INTERPRETED:
        pytest.skip("takes long in the interpreter")


def interpret() -> None:
    """Put the Triton kernels in the place of the compiled ones, and let the interpreter scan by rows."""
    from triton.runtime.interpreter import ScanOps

    ScanOps.generic_scan = _scan_by_rows
    backends.DEVICES["triton"] = "cpu"
    _triton._problem, _triton._asked = None, True
    for op in backends.LOOPS:
        kernels = importlib.import_module(f"rmeeto.ops.{op}.triton")
        if op == "causal_conv":  # larger and fewer blocks: here every step costs the same
            kernels._LENGTH.update(forward=16, backward=16)
            kernels._STEPS.update(backward=2)
        ops = importlib.import_module(f"rmeeto.ops.{op}.op")
        for each, kernel in ((ops.op, kernels.forward), (ops.backward_op, kernels.backward)):
            LIBRARY.impl(each.name, kernel, "CPU")
            each.cpu = kernel


def _scan_by_rows(scan: Any, given: Sequence[Any]) -> list[Any]:
    """What the interpreter does number by number, 40 times as slow."""
    rows = list(zip(*(np.moveaxis(x.handle.data, scan.axis, 0) for x in given), strict=True))
    one = [[scan.to_tensor(part, x.dtype) for part, x in zip(row, given, strict=True)] for row in rows]
    made = [tuple(one[0])]
    for row in one[1:]:
        made.append(scan.combine_fn.fn(*made[-1], *row))
    columns = zip(*([part.handle.data for part in row] for row in made), strict=True)
    return [scan.to_tensor(np.stack(column, scan.axis), x.dtype) for column, x in zip(columns, given, strict=True)]


if INTERPRETED:
    interpret()

on_each = pytest.mark.parametrize("backend", KERNELS)


def moved(values: dict[str, torch.Tensor], backend: str) -> dict[str, torch.Tensor]:
    """Tensors by name, on the backend's device."""
    return {name: value.to(home(backend)) for name, value in values.items()}
