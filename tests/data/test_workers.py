"""A scheduler's signal to a whole job leaves workers at work; only their parent ends them."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
from pathlib import Path

import pytest

from rmeeto.data import Augment, DataSpec, InputSpec, open_data

# Python 3.12 warns that a process with torch's threads is forked; the workers use none of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_signals_from_others_cost_no_image(folder: Path) -> None:
    data = open_data(DataSpec(str(folder), batch_size=3, workers=1, prefetch=1), InputSpec.of((3, 8, 8)))
    before = set(multiprocessing.active_children())
    batches = data.train_batches(Augment.none(), seed=0)
    shown = iter(batches)
    next(shown)
    (worker,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGTERM, signal.SIGINT):
        subprocess.run(["kill", f"-{number}", str(worker.pid)], check=True)  # another process than its parent
        next(shown)
    assert len(list(shown)) == len(batches) - 3
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
