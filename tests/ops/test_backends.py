"""Choosing a backend, and saying why."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import BackendError
from rmeeto.models import create
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
def test_a_missing_library_warns_once() -> None:
    with pytest.warns(SlowPathWarning, match=r"selective_scan runs its slow reference: no file .*cure: .*compiler"):
        scan()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        causal_conv(torch.ones(1, 2, 3), torch.ones(3, 4))
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
def test_a_slow_model_warns_once_at_its_caller() -> None:
    model = create("vim_nano", depth=2).eval()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        model(torch.zeros(1, *model.config.input_shape))
    assert [(w.category, Path(w.filename)) for w in caught] == [(SlowPathWarning, Path(__file__))]


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


@native
def test_instruction_sets_are_chosen_and_given_back() -> None:
    known, before = instruction_sets(), native_info().instruction_set
    assert before == known[0]
    with use_instruction_set(known[-1]):
        assert native_info().instruction_set == known[-1]
    assert native_info().instruction_set == before
    with pytest.raises(BackendError, match="'mmx' is not to be had here; choose one of"), use_instruction_set("mmx"):
        pass
