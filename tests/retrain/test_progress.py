"""What a run shows on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rmeeto.records import Epoch
from rmeeto.retrain import progress_on
from rmeeto.retrain.progress import clock

from .conftest import net, recipe, train


def shown(tmp_path, data, *, terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, no_color=True)
    settings = recipe(ema_decay=0.5)
    train(net(), None, data, settings, tmp_path, validate=data.validate, progress=progress_on(console), trackers=())
    return file.getvalue()


def test_one_line_per_epoch_in_a_pipe(tmp_path, data):
    lines = shown(tmp_path, data, terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert all(word in lines[0] for word in ("loss", "top-1", "averaged weights", "images/s", "lr 8"))


def test_a_bar_on_a_terminal(tmp_path, data):
    text = shown(tmp_path, data, terminal=True)
    assert "epoch 3/3  loss" in text
    assert "0:00 left" in text
    assert "100%" in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3725, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_notes_are_not_markup():
    file = io.StringIO()
    progress = progress_on(Console(file=file))
    progress.note("[red]an error[/red] of 3 [x]")
    progress.epoch(Epoch(epoch=1, steps=1, loss=1.0, lr=0.1, images_per_second=3.0, seconds=65.0, data_wait=0.07))
    progress.close()
    assert file.getvalue().splitlines() == [
        "[red]an error[/red] of 3 [x]",
        "epoch 1  loss 1.0000  lr 1.00e-01  3.0 images/s  1:05, 7 % of it waiting for images",
    ]
