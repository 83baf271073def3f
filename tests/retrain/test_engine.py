"""One process; several are tested where they train (tests/pipeline/test_processes.py)."""

from __future__ import annotations

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

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


@pytest.mark.parametrize(
    ("name", "project", "settings"),
    [
        ("tensorboard", "tensorboard", {"purge_step": 8}),
        ("wandb", "rmeeto", {"name": "run", "dir": "{output}"}),
        ("trackio", "rmeeto", {"name": "run"}),
    ],
)
def test_what_trackers_call_a_run(name, project, settings, tmp_path):
    tracker = Processes().trackers((), tmp_path / "run")._tracker(name, 7)
    expected = {key: tmp_path / "run" if value == "{output}" else value for key, value in settings.items()}
    assert tracker.run_name == project
    assert {key: str(value) for key, value in tracker.init_kwargs.items()} == {k: str(v) for k, v in expected.items()}


def test_a_tracker_that_refuses_is_told(tmp_path, monkeypatch):
    def refuse(_tracker):
        raise ValueError("no API key\nconfigured")

    trackers = Processes().trackers(("tensorboard",), tmp_path)
    trackers._engine.log_with = ["wandb"]
    monkeypatch.setattr(trackers, "_tracker", lambda *_: LOGGER_TYPE_TO_CLASS["wandb"]("rmeeto"))
    monkeypatch.setattr("accelerate.tracking.WandBTracker.start", refuse)
    with pytest.raises(SettingsError, match="tracker wandb cannot start: no API key configured; log in"):
        trackers.open(0, {})
    trackers.close()
