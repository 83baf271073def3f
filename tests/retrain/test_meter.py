from __future__ import annotations

import math

import pytest
import torch

from rmeeto.retrain.meter import Meter, Reading
from rmeeto.retrain.state import Position


def test_the_share_of_time_that_is_waiting_for_data(monkeypatch):
    now = 0.0
    monkeypatch.setattr("rmeeto.retrain.meter.time.perf_counter", lambda: now)
    told: list[Reading] = []
    meter = Meter(
        Position(), batch_size=4, read_every=1, window=2, gather=lambda numbers: numbers, tell=told.append,
        note=lambda _line: None, rescue=lambda: "",
    )  # fmt: skip

    def batches(seconds):
        nonlocal now
        for wait in seconds:
            now += wait
            yield torch.zeros(4), torch.zeros(4)

    for _ in meter.timed(batches([3.0, 0.0, 0.0])):
        now += 1.0
        with meter.paused():
            now += 100.0  # validation is neither training nor waiting
        meter.add(torch.tensor([0.5, 1.0]))
    assert [reading.data_wait for reading in told] == [0.75, 0.6, 0.0]
    assert meter.data_wait == 0.5


@pytest.mark.parametrize(("losses", "mean"), [([1.0, 2.0], 1.5), ([1.0, math.nan], 1.0), ([math.nan] * 2, None)])
def test_the_mean_is_of_steps_that_were_taken(losses, mean):
    meter = Meter(
        Position(), batch_size=4, read_every=1, window=2, gather=lambda numbers: numbers, tell=lambda _reading: None,
        note=lambda _line: None, rescue=lambda: "",
    )  # fmt: skip
    for loss in losses:
        meter.add(torch.tensor([loss, 1.0]))
    assert (meter.loss, meter.skipped) == (mean, sum(map(math.isnan, losses)))
