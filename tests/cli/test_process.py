"""What the command line sets for its own process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rmeeto.cli.process import SPINS, sleep_soon

ENVIRONMENTS = [  # what is said before, whether that changes, what is said then
    pytest.param({}, True, {SPINS: "10000"}, id="nothing"),
    pytest.param({SPINS: "7"}, False, {SPINS: "7"}, id="the same"),
    pytest.param({"OMP_WAIT_POLICY": "active"}, False, {"OMP_WAIT_POLICY": "active"}, id="the standard's word"),
]
# What the process of the command line has when it is about to do something, torch not being loaded yet.
STARTED = f"""
import os, sys
import rmeeto.cli.main as cli
cli.app = lambda *_, **__: print(os.environ.get({SPINS!r}), "torch" in sys.modules)
cli.main()
"""


@pytest.mark.parametrize(("before", "changes", "after"), ENVIRONMENTS)
def test_threads_sleep_soon(before, changes: bool, after, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SPINS, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", {**os.environ})
    assert sleep_soon() is changes
    assert {name: os.environ[name] for name in (SPINS, "OMP_WAIT_POLICY") if name in os.environ} == after


def test_it_is_said_before_torch_is_loaded() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (SPINS, "OMP_WAIT_POLICY")}
    line = [sys.executable, "-c", STARTED]
    told = subprocess.run(line, check=True, capture_output=True, text=True, env=environment).stdout
    assert told.split() == ["10000", "False"]
