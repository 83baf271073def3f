"""The parts that all benchmarks share, without measuring anything that takes time."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    """Imports a benchmark as the script sees its neighbours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def read(name: str) -> ModuleType:
        return importlib.import_module(name)

    return read


def _options(repeats: int, limit: float) -> argparse.Namespace:
    return argparse.Namespace(repeats=repeats, limit=limit, cpu_time=False)


class _Clock:
    """Seconds that pass only where a way is called, and who was."""

    def __init__(self, harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def way(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            self.now += seconds

        return call


def test_ways_take_turns_and_the_slow_one_has_fewer(module, monkeypatch) -> None:
    harness = module("harness")
    clock = _Clock(harness, monkeypatch)
    ways = {"fast": clock.way("fast", 0.006), "slow": clock.way("slow", 0.02)}
    timings = harness.in_turns(ways, _options(5, 0.05))
    assert [len(timings[name].seconds) for name in ways] == [5, 2]
    assert clock.calls[-7:] == ["fast", "slow", "fast", "slow", "fast", "fast", "fast"]


def test_what_is_short_is_called_several_times_in_its_turn(module, monkeypatch) -> None:
    harness = module("harness")
    clock = _Clock(harness, monkeypatch)
    ways = {"short": clock.way("short", 0.0015), "long": clock.way("long", 0.006)}
    timings = harness.in_turns(ways, _options(2, 1.0))
    assert clock.calls[6:] == ["short", "short", "short", "long"] * 2  # behind three of each to warm up
    assert timings["short"].seconds == pytest.approx([0.0015] * 2)
    assert timings["long"].seconds == pytest.approx([0.006] * 2)


def test_a_ratio_is_of_one_rounds_neighbours(module) -> None:
    timing = module("harness").Timing
    ours, peer = timing((1.0, 10.0, 2.0, 3.0, 4.0, 9.0)), timing((2.0, 20.0, 4.0, 6.0, 80.0))
    assert ours.times_as_fast_as(peer) == 2.0
    assert ours.median == 3.5
    assert ours.fastest == 1.0


def test_a_ratio_of_few_rounds_is_that_of_the_medians(module) -> None:
    timing = module("harness").Timing
    disturbed, peer = timing((50.0, 1.0, 1.0, 1.0, 1.0)), timing((200.0,))
    assert disturbed.times_as_fast_as(peer) == 200.0


def test_threads_are_put_back(module) -> None:
    harness, before, seen = module("harness"), torch.get_num_threads(), []
    way = harness.Way(lambda: seen.append(torch.get_num_threads()), threads=before + 1)
    harness.in_turns({"more": way}, _options(1, 1.0))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_what_several_processes_found(module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    harness, lines = module("harness"), []
    options = argparse.Namespace(threads=2, repeats=5, limit=1.0, quick=False, cpu_time=True, plain=False, processes=3)

    def child(*line: str) -> str:
        lines.append(line)
        harness.tell({"one": harness.Timing((1.0, 2.0 + len(lines)))})
        return capsys.readouterr().out

    monkeypatch.setattr(harness, "child", child)
    found = harness.in_processes("tiny", options, "--state=4")
    wanted = ("--state=4", "--ways", "tiny", "--threads", "2", "--repeats", "5", "--limit", "1.0", "--cpu-time")
    assert lines == [wanted] * 3
    assert harness.together(found)["one"].seconds == (1.0, 3.0, 1.0, 4.0, 1.0, 5.0)
    assert harness.told([each["one"].median for each in found]) == "2.50x (2.00-3.00)"
    assert harness.told([1.5]) == "1.50x"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_published_loop_is_the_reference(module, *, gradients: bool, reverse: bool) -> None:
    """The peer that everybody is compared with computes what we compute, in either direction."""
    from rmeeto.ops.selective_scan import selective_scan_reference

    peers = module("peers")
    inputs = [x.double().requires_grad_(gradients) for x in peers.scan_inputs(2, 7, 5, 3)]
    mine = peers.as_op(peers.published)(*inputs, None, reverse=reverse)
    wanted = selective_scan_reference(*inputs, reverse=reverse)
    torch.testing.assert_close(mine, wanted)
    if gradients:
        torch.testing.assert_close(*(torch.autograd.grad(y.sum(), inputs) for y in (mine, wanted)))


def test_a_compilation_that_takes_too_long_ends(module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    compiled = module("compiling").compiled
    assert "0 s" in compiled(lambda: time.sleep(5), seconds=0.05, gradients=False)
    assert callable(compiled(lambda: None, seconds=5.0, gradients=False))


def test_one_benchmark_runs(tmp_path: Path) -> None:
    """Start-up, the quickest one: it needs no model and no peer."""
    file = tmp_path / "startup.json"
    line = [sys.executable, str(BENCHMARKS / "startup.py"), "--quick", "--repeats", "1", "--output", str(file)]
    told = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    found = json.loads(file.read_text())
    assert found["entry"] == "startup"
    assert str(tmp_path) not in found["command"]
    assert found["quick"] is True
    assert [row[0] for row in found["tables"]["startup"]["rows"]] == list(found["figures"]["startup"])
    assert "import torch" in told


def test_the_page_shows_the_results(module) -> None:
    page = module("page")
    table = {"headers": ["way", "ms"], "rows": [["native", "1.5"]]}
    where = {"cpu": "A", "cores": 2, "threads": 2, "packages": {"torch": "2.14"}}
    found = {"command": "python benchmarks/x.py", "quick": False, "tables": {"t": table}, "remarks": ["Said."]}
    found["environment"] = where
    marks = "".join(f"<!-- {name} -->\nold\n<!-- end -->\n" for name in ("x.t", "x.remarks", "y.t", "machine"))
    shown = page.rendered(marks, {"x": found})
    assert "| native | 1.5 |\n\nPrinted by `python benchmarks/x.py`." in shown
    assert "- Said." in shown
    assert "Not measured yet: `python benchmarks/y.py`." in shown
    assert "old" not in shown
    assert "1. A, 2 cores, 2 threads, no native kernels; torch 2.14." in shown
    assert page.rendered(shown, {"x": found}) == shown
    other = {**found, "environment": {**where, "cpu": "B"}}
    shown = page.rendered(marks, {"w": found, "x": other})
    assert "2. B, 2 cores" in shown
    assert "Printed by `python benchmarks/x.py` on machine 2." in shown


def test_the_page_is_what_the_results_say(module) -> None:
    page = module("page")
    text = page.PAGE.read_text()
    assert page.rendered(text, page.read(page.everything())) == text


def test_every_mark_of_the_page_has_a_benchmark(module) -> None:
    page = module("page")
    entries = {mark.group(2).partition(".")[0] for mark in page._MARK.finditer(page.PAGE.read_text())}
    folders = "|".join(path.name for path in page.RESULTS.iterdir() if path.is_dir())
    entries = {re.sub(f"^({folders})_", "", entry) for entry in entries - {"machine"}}
    assert entries
    assert all((BENCHMARKS / f"{entry}.py").is_file() for entry in entries)


def test_no_result_is_a_quick_one(module) -> None:
    page = module("page")
    assert not [name for name, found in page.read(page.everything()).items() if found["quick"]]
