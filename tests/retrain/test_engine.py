"""One process; several are tested where they train (tests/pipeline/test_processes.py)."""

from __future__ import annotations

import pytest
import torch

from rmeeto.errors import SettingsError
from rmeeto.retrain.engine import Processes


def test_one_process_asks_nobody():
    processes = Processes()
    assert (processes.index, processes.count, processes.is_main, processes.restarted) == (0, 1, True, False)
    assert processes.total([1.5, 2]) == [1.5, 2]
    assert (processes.any(True), processes.any(False), processes.first(0.1)) == (True, False, 0.1)
    assert processes.gathered("a") == ["a"]
    assert processes.told("b") == "b"
    assert torch.equal(processes.mean(torch.ones(2)), torch.ones(2))


def test_processes_that_do_not_meet_are_told(monkeypatch):
    """Each would train for itself and write over the others."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="several processes cannot train together on"):
        Processes()


def test_a_restart_is_known(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert Processes().restarted
