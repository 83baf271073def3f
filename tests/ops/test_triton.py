"""The Triton kernels on a machine without a GPU: the compiler takes them, and in Triton's interpreter they are right.

With a GPU the tables of the ops' tests run on it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from rmeeto.ops import _triton, rms_norm, use_backend
from rmeeto.ops.backends import BackendError, report

from .kernels import INTERPRETED
from .test_backends import scan

HERE = Path(__file__).parent
TABLES = ("test_selective_scan.py", "test_exponential.py", "test_causal_conv.py", "test_bimamba.py")
# Each form of the inputs once; what says the same of the kernels again is left to GPUs.
CASES = "triton and (equals_the_reference or absent or strides or slices or growing or empty) and not anywhere"
HALVES = ("absent", "not absent")  # side by side, about as long as each other

has_triton = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
no_gpu = pytest.mark.skipif(_triton.problem() is None, reason="the kernels run on this machine's GPU")
pytestmark = pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")


@has_triton
@no_gpu
def test_the_kernels_equal_the_references_in_the_interpreter() -> None:
    processes = [_interpreting(f"{CASES} and {half}") for half in HALVES]
    told = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert sum(int(number) for text in told for number in re.findall(r"(\d+) passed", text)) > 60


def _interpreting(cases: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", cases, *map(str, TABLES)]
    surroundings = {**os.environ, "TRITON_INTERPRET": "1"}
    return subprocess.Popen(
        line, cwd=HERE, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


SCAN = {"LANES": 32, "CHUNK": 16, "SOFTPLUS": True, "WIDE": False}
CONV = {"LANES": 128, "LENGTH": 4, "STEPS": 2, "TAPS": 4}
ALL = dict.fromkeys(("D", "z", "bias", "time"))
# op, kernel, what it is compiled for, type of the large tensors, warps
COMPILED = [
    ("selective_scan", "_forward_kernel", {**SCAN, "TILE": 16, "GROUP": 1, "REVERSE": True}, "bf16", 1),
    ("selective_scan", "_forward_kernel", {**SCAN, **ALL, "TILE": 16, "GROUP": 4, "REVERSE": False}, "fp32", 4),
    ("selective_scan", "_backward_kernel", {**SCAN, "TILE": 8, "GROUP": 1, "REVERSE": True}, "bf16", 1),
    ("selective_scan", "_backward_kernel", {**SCAN, **ALL, "TILE": 8, "GROUP": 4, "REVERSE": False}, "fp32", 4),
    ("selective_scan", "_pack_kernel", {"LENGTH": 64, "STATES": 16, "CHUNK": 16, "REVERSE": True}, "bf16", 4),
    ("selective_scan", "_unpack_kernel", {"LENGTH": 64, "STATES": 16, "CHUNK": 16, "REVERSE": True}, "bf16", 4),
    ("causal_conv", "_forward_kernel", {**CONV, "REVERSE": True}, "bf16", 1),
    ("causal_conv", "_backward_kernel", {**CONV, "SUMS": 8, "REVERSE": False, "bias": None}, "fp32", 1),
]
LARGE = ("u", "delta", "z", "y", "dy", "du", "ddelta", "dz", "B", "C", "dB", "dC", "x", "dx")
FLOATS = ("rates", "packed", "D", "bias", "time", "states", "partial", "scratch", "sums", "dtime", "weights")


@pytest.mark.filterwarnings("ignore:AnnAssign.__init__ missing:DeprecationWarning")  # Triton itself, on Python 3.13
@has_triton
@pytest.mark.parametrize(("op", "kernel", "fixed", "large", "warps"), COMPILED)
def test_the_compiler_takes_them_without_a_gpu(
    op: str, kernel: str, fixed: dict[str, Any], large: str, warps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(kernels_of(op), kernel)
    types = {**dict.fromkeys(FLOATS, "*fp32"), **dict.fromkeys(LARGE, f"*{large}"), **dict.fromkeys(fixed, "constexpr")}
    names = function.arg_names
    signature = {name: types.get(name, "i32") for name in names}
    source = ASTSource(function, signature, {(names.index(name),): value for name, value in fixed.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert ".entry" in compiled.asm["ptx"]


def kernels_of(op: str) -> ModuleType:
    return __import__(f"rmeeto.ops.{op}.triton", fromlist=["forward"])


@no_gpu
def test_triton_is_refused_on_a_cpu_in_one_line() -> None:
    with pytest.raises(
        BackendError, match="selective_scan has no triton kernel here: the tensors are on cpu"
    ) as caught:
        scan(backend="triton")
    assert "\n" not in str(caught.value)


def test_ops_without_loops_run_torchs_own_where_triton_is_asked_for() -> None:
    x = torch.randn(1, 2, 3)
    with use_backend("triton"):
        found = rms_norm(x, torch.ones(3))
    assert torch.equal(found, rms_norm(x, torch.ones(3), backend="reference"))


@no_gpu
def test_the_doctor_says_why_triton_is_not_used() -> None:
    rows = {row.op: row for row in report() if row.backend == "triton"}
    assert not any(row.used or row.available for row in rows.values())
    assert "torch finds no GPU" in rows["selective_scan"].why
    assert "composed" in rows["bimamba"].why
    assert "not needed" in rows["token_match"].why


def test_what_hinders_triton_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setitem(sys.modules, "rmeeto.ops._jit", None)
    monkeypatch.delattr("rmeeto.ops._jit", raising=False)
    problem = _triton._find_problem()
    assert problem is not None
    assert problem.startswith("Triton cannot make kernels for a GPU (")
