from __future__ import annotations

import pytest
import torch
from torch import nn

from rmeeto.errors import SettingsError
from rmeeto.evaluate import measure_speed, speed


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the models move."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def taking(clock, seconds, log, name):
    waits = iter(seconds)

    def model(images):
        log.append((name, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        clock.now += next(waits)
        return images

    return model


def test_models_are_timed_in_turn_and_compared_within_a_round(clock):
    log = []
    models = {
        "plain": taking(clock, [100, 1, 2, 4], log, "plain"),
        "merged": taking(clock, [100, 0.5, 0.5, 4], log, "merged"),
    }
    rounds = []
    result = measure_speed(
        models, torch.zeros(8, 1), warmup=1, repeats=3, progress=lambda done, of: rounds.append((done, of))
    )
    assert [name for name, *_ in log] == ["plain", "merged"] * 4
    assert rounds == [(1, 3), (2, 3), (3, 3)]
    plain, merged = result["plain"], result["merged"]
    assert plain.seconds == pytest.approx((1, 2, 4))
    assert (plain.low, plain.images_per_second, plain.high) == pytest.approx((2.4, 4, 7.2))
    assert (plain.peer, plain.ratio, plain.ratio_low, plain.ratio_high) == (None,) * 4
    assert merged.images_per_second == 16
    assert merged.peer == "plain"
    assert (merged.ratio_low, merged.ratio, merged.ratio_high) == pytest.approx((1.2, 2, 3.6))
    assert (merged.batch, merged.warmup, merged.device, merged.dtype) == (8, 1, "cpu", "float32")


@pytest.mark.parametrize("threads", [1, None])
def test_threads_are_set_meanwhile_and_put_back(clock, threads):
    before = torch.get_num_threads()
    log = []
    result = measure_speed(
        {"one": taking(clock, [1, 1], log, "one")}, torch.zeros(1), warmup=1, repeats=1, threads=threads
    )
    meanwhile = threads or before
    assert [(inference, used) for _, inference, used in log] == [(True, meanwhile)] * 2
    assert result["one"].threads == meanwhile
    assert torch.get_num_threads() == before


def test_threads_are_put_back_after_an_error():
    before = torch.get_num_threads()

    def fail(images):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure_speed({"one": fail}, torch.zeros(1), threads=before + 1)
    assert torch.get_num_threads() == before


def test_modules_run_in_eval_mode_and_keep_theirs():
    model = nn.Sequential(nn.Dropout(1.0), nn.Flatten()).train()
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(float(output.sum())))
    measured = measure_speed({"one": model}, torch.ones(2, 3), warmup=0, repeats=2)["one"]
    assert seen == [6, 6]
    assert model.training
    assert model[0].training
    assert len(measured.seconds) == 2
    assert min(measured.seconds) > 0


@pytest.mark.parametrize(
    ("models", "settings"),
    [
        ({}, {}),
        ({"a": nn.Identity()}, {"repeats": 0}),
        ({"a": nn.Identity()}, {"warmup": -1}),
        ({"a": nn.Identity()}, {"threads": 0}),
    ],
)
def test_nothing_to_time_is_refused(models, settings):
    with pytest.raises(SettingsError, match="cannot time"):
        measure_speed(models, torch.zeros(1), **settings)
