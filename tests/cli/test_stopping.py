"""A signal ends a training command well, with the command that continues it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rmeeto.cli.stopping import RESUMING, _newest, continuing
from rmeeto.retrain.progress import Lines

from .conftest import Told
from .test_main import MODEL, PRETRAIN, RETRAIN


@pytest.mark.parametrize(
    ("line", "environment", "expected"),
    [
        ("retrain --output runs/a", {}, "rmeeto retrain --output runs/a --resume auto"),
        ("retrain --resume auto --output a", {}, "rmeeto retrain --output a --resume auto"),
        ("retrain --resume=no --output a", {}, "rmeeto retrain --output a --resume auto"),
        ("retrain --output 'my run'", {}, "rmeeto retrain --output 'my run' --resume auto"),
        (
            "retrain --output a",
            {"LOCAL_WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "1"},
            "torchrun --nproc-per-node 8 -m rmeeto retrain --output a --resume auto",
        ),
        (
            "retrain --output a",
            {"LOCAL_WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2"},
            "torchrun --nnodes 2 --nproc-per-node 8 -m rmeeto retrain --output a --resume auto",
        ),
    ],
)
def test_the_command_that_continues(line, environment, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/rmeeto", *shlex.split(line)])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert continuing(shlex.split(line), RESUMING) == expected


def test_stopped_and_continued(
    rmeeto_says: Callable[[str], Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"{PRETRAIN} --data photos --output {tmp_path} --tracker none"
    with monkeypatch.context() as patch:
        patch.setattr(Lines, "step", lambda _lines, report: report.step == 1 and os.kill(os.getpid(), signal.SIGTERM))
        said = rmeeto_says(line)
    assert (said.code, said.out) == (0, "")
    told, command = said.err.splitlines()[-2:]
    assert re.fullmatch(
        r"rmeeto: SIGTERM stopped the run after step 1; saved in .*/epoch-0000-step-00000001; continue with:",
        told,
    )
    assert command == f"rmeeto {line} --resume auto"
    said = rmeeto_says(command.removeprefix("rmeeto "))
    assert said.code == 0
    assert "resuming after step 1, in epoch 1 of" in said.err
    assert said.out.startswith("top-1 ")


def test_programs_are_told_that_it_was_stopped(
    rmeeto_says: Callable[[str], Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"{PRETRAIN} --data photos --output {tmp_path} --tracker none --json"
    monkeypatch.setattr(Lines, "step", lambda _lines, report: report.step == 1 and os.kill(os.getpid(), signal.SIGTERM))
    said = rmeeto_says(line)
    assert said.code == 0
    assert json.loads(said.out) == {
        "stopped": "SIGTERM",
        "step": 1,
        "checkpoint": str(tmp_path / "checkpoints" / "epoch-0000-step-00000001"),
        "continue": f"rmeeto {line} --resume auto",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_training_ends_as_well(
    number: signal.Signals, rmeeto_says: Callable[[str], Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"{RETRAIN} {MODEL} --r 3 --output {tmp_path / 'run'}"
    monkeypatch.setattr("rmeeto.pipeline.retraining.validation", lambda *_: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    said = rmeeto_says(line)
    assert (said.code, said.out, signal.getsignal(number)) == (0, "", before)
    assert said.err.splitlines()[-2:] == [
        f"rmeeto: {number.name} stopped the run; nothing was trained yet; continue with:",
        f"rmeeto {line} --resume auto",
    ]


def test_the_newest_checkpoint_of_several_runs_is_named(tmp_path: Path) -> None:
    for age, name in enumerate(
        ["a/checkpoints/epoch-0002", "b/c/checkpoints/epoch-0001", "b/c/checkpoints/epoch-0000"]
    ):
        (tmp_path / name).mkdir(parents=True)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    assert _newest(tmp_path) == tmp_path / "b/c/checkpoints/epoch-0001"
    assert _newest(tmp_path / "nothing") is None
