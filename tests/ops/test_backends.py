"""Choosing a backend, saying why, and the accuracy of the kernels' own exponential."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import BackendError
from rmeeto.ops import (
    SlowPathWarning,
    _library,
    backends,
    causal_conv,
    instruction_sets,
    native_info,
    report,
    selective_scan,
    use_backend,
    use_instruction_set,
)

native = pytest.mark.skipif(native_info() is None, reason="no native kernels here")


def scan(dtype: torch.dtype = torch.float32, backend: str | None = None) -> torch.Tensor:
    x = torch.ones(1, 2, 3, dtype=dtype)
    return selective_scan(x, x, -torch.ones(3, 2, dtype=dtype), x[..., :2], x[..., :2], backend=backend)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose install has no compiled kernels, and a process that has warned of nothing yet."""
    monkeypatch.setattr(_library, "_library", None)
    monkeypatch.setattr(_library, "_problem", None)
    monkeypatch.setattr(_library, "SUFFIXES", (".absent",))
    monkeypatch.setattr(backends, "_warned", set())


@pytest.mark.usefixtures("missing")
def test_a_missing_library_warns_once_per_op() -> None:
    with pytest.warns(SlowPathWarning, match=r"selective_scan runs its slow reference: no file .*cure: .*compiler"):
        scan()
    with pytest.warns(SlowPathWarning, match="causal_conv runs its slow reference"):
        causal_conv(torch.ones(1, 2, 3), torch.ones(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan()
        scan(backend="reference")


@pytest.mark.usefixtures("missing")
def test_a_missing_library_warns_in_a_graph_too() -> None:
    torch._dynamo.reset()
    x, weight = torch.arange(6.0).view(1, 2, 3), torch.ones(3, 4)
    compiled = torch.compile(causal_conv, backend="eager", fullgraph=True)
    with pytest.warns(SlowPathWarning, match="causal_conv runs its slow reference"):
        found = compiled(x, weight)
    assert torch.equal(found, causal_conv(x, weight))


@pytest.mark.usefixtures("missing")
def test_a_missing_library_is_reported_and_native_is_refused() -> None:
    with pytest.raises(BackendError, match="has no native kernel here") as caught:
        scan(backend="native")
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="native kernels are missing"):
        torch.ops.rmeeto.causal_conv(torch.ones(1, 2, 3), torch.ones(3, 4), None, False)
    assert native_info() is None
    used = {row.op: row.backend for row in report() if row.used}
    assert used == {**dict.fromkeys(backends.OPS, "reference"), "linear": used["linear"]}


@pytest.mark.usefixtures("missing")
def test_a_warning_points_at_the_caller() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scan()
    assert [Path(w.filename) for w in caught] == [Path(__file__)]


def test_a_broken_library_is_named(missing: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "_rmeeto_native.absent").write_text("not a library")
    monkeypatch.setattr("rmeeto.__path__", [str(tmp_path)])
    assert "cannot be loaded" in str(_library.problem())


@native
def test_float64_runs_the_reference_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_warned", set())
    with pytest.warns(SlowPathWarning, match="float64 has no kernel"):
        assert scan(torch.float64).dtype is torch.float64
    with pytest.raises(BackendError, match="float64"):
        scan(torch.float64, backend="native")


def ran(backend: str | None = None) -> str:
    """Which backend a call takes: the FLOP counter knows the native op by its name."""
    with FlopCounterMode(display=False) as counter:
        scan(backend=backend)
    return "native" if torch.ops.rmeeto.selective_scan in counter.get_flop_counts().get("Global", {}) else "reference"


@native
def test_the_setting_holds_inside_and_the_argument_wins() -> None:
    assert ran() == "native"
    with use_backend("reference"):
        assert ran() == "reference"
        assert ran("native") == "native"
        with use_backend("auto"):
            assert ran() == "native"
        assert ran() == "reference"
    assert ran() == "native"
    assert ran("reference") == "reference"


@native
def test_the_setting_is_undone_by_an_error() -> None:
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    assert backends._setting == "auto"


@pytest.mark.parametrize("name", ["cuda", "", "Native"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(BackendError, match="must be one of auto, native, triton, reference"), use_backend(name):
        pass
    with pytest.raises(BackendError, match="unknown"):
        scan(backend=name)


@native
def test_the_report_names_the_machine() -> None:
    info = native_info()
    assert info is not None
    assert info.instruction_set in {"avx512", "avx2+fma", "neon", "baseline"}
    rows = [row for row in report() if row.used and row.op != "linear"]  # its vectors are oneDNN's business
    assert {(row.op, row.backend) for row in rows} == {(op, "native") for op in backends.OPS}
    assert all(info.instruction_set in row.why for row in rows)


@native
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory map")
def test_the_kernels_share_torchs_openmp() -> None:
    """Two OpenMP runtimes would fight over the cores."""
    scan()
    torch.ones(100_000).exp()
    info = native_info()
    if info is None or not info.openmp or "clang" in info.compiler:
        pytest.skip("built by clang or without OpenMP")
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    assert len({line.split()[-1] for line in lines if "libgomp" in line or "libomp" in line}) == 1


def test_importing_loads_no_library() -> None:
    code = "import rmeeto.ops, rmeeto.ops._library as l; assert l._library is None and l._problem is None"
    subprocess.run([sys.executable, "-c", code], check=True)


# The numbers of csrc/kernels.cpp's map().
EXP2, EXP, SOFTPLUS, SIGMOID, NEAR_EXP2, LOW_EXP2, SHALLOW_EXP2 = range(7)


def mapped(function: int, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    _library.library().rmeeto_map(function, x.numel(), x.data_ptr(), y.data_ptr())
    return y


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.double() - wanted) / wanted).abs().max().item()


@native
@pytest.mark.parametrize(
    ("function", "law", "low", "high", "bound"),
    [
        (EXP2, torch.exp2, -125.49, 127.999, 2e-7),
        (NEAR_EXP2, torch.exp2, -125.0, 125.0, 2e-7),
        (LOW_EXP2, torch.exp2, -2.5, 0.0, 4.5e-7),
        (SHALLOW_EXP2, torch.exp2, -1.25, 0.0, 2.1e-7),
        (EXP, torch.exp, -86.98, 88.72, 2.5e-7),
        (SOFTPLUS, torch.nn.functional.softplus, -86.0, 100.0, 3.5e-7),
        (SIGMOID, torch.sigmoid, -86.0, 100.0, 3.5e-7),
    ],
)
def test_relative_error_over_the_whole_range(function: int, law, low: float, high: float, bound: float) -> None:
    x = torch.linspace(low, high, 4_000_003)
    assert relative(mapped(function, x), law(x.double())) <= bound
    near = torch.linspace(max(low, -1), min(high, 1), 400_001)
    assert relative(mapped(function, near), law(near.double())) <= bound


@native
def test_the_ends_of_the_range() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([-inf, -1e30, -200.0, -0.0, 0.0, 128.0, 1e30, inf, nan])
    wanted = torch.tensor([0, 0, 0, 1, 1, inf, inf, inf, nan])
    torch.testing.assert_close(mapped(EXP2, x), wanted, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(mapped(EXP, x), wanted, equal_nan=True, rtol=0, atol=0)
    ones = torch.tensor([-0.0, 0.0])
    for function in (NEAR_EXP2, LOW_EXP2, SHALLOW_EXP2):
        torch.testing.assert_close(mapped(function, ones), torch.ones(2), rtol=0, atol=0)
    softplus = torch.tensor([0, 0, 0, 0.6931472, 0.6931472, 128, 1e30, inf, nan])
    torch.testing.assert_close(mapped(SOFTPLUS, x), softplus, equal_nan=True, rtol=1e-6, atol=0)
    sigmoid = torch.tensor([0, 0, 0, 0.5, 0.5, 1, 1, 1, nan])
    torch.testing.assert_close(mapped(SIGMOID, x), sigmoid, equal_nan=True, rtol=1e-6, atol=0)


@native
def test_instruction_sets_are_chosen_and_given_back() -> None:
    known, before = instruction_sets(), native_info().instruction_set
    assert before == known[0]
    with use_instruction_set(known[-1]):
        assert native_info().instruction_set == known[-1]
    assert native_info().instruction_set == before
    with pytest.raises(BackendError, match="'mmx' is not to be had here; choose one of"), use_instruction_set("mmx"):
        pass
