"""How a run is carried out: what cannot be is refused in one line."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from rmeeto.errors import SettingsError
from rmeeto.retrain import RunSpec


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every 0 is no number of steps; give 1 or more"),
        ({"validate_every": -2}, "validate_every -2 is no number"),
        ({"log_every": 0}, "log_every 0 is no number"),
        ({"resume": "always"}, "resume 'always' is unknown; use auto"),
        ({"parallel": "pipeline"}, "parallel 'pipeline' is unknown; use ddp or fsdp"),
        ({"tracker": "tensorboard,paper"}, "tracker 'paper' is unknown; use tensorboard, wandb, trackio or none"),
    ],
)
def test_impossible_values(settings, words):
    with pytest.raises(SettingsError, match=words):
        RunSpec(**settings)


@pytest.mark.parametrize(
    ("tracker", "names"), [("tensorboard", ("tensorboard",)), ("none", ()), ("wandb, trackio", ("wandb", "trackio"))]
)
def test_trackers(tracker, names):
    assert RunSpec(tracker=tracker).trackers == names


def test_every_field_is_explained():
    documented = inspect.getdoc(RunSpec) or ""  # without its indentation, which Python 3.13 leaves out itself
    assert [f.name for f in dataclasses.fields(RunSpec) if f"\n    {f.name}: " not in documented] == []
