"""A run's folder keeps the command that started it, and a stopped run prints it."""

from __future__ import annotations

import pytest

from rmeeto.pipeline.command import typed

OWN = ["retrain", "--output", "my run"]


@pytest.mark.parametrize(
    ("parent", "program", "expected"),
    [
        (None, "/usr/bin/rmeeto", "rmeeto"),
        (None, "/lib/rmeeto/__main__.py", "rmeeto"),
        (None, "mine/train.py", "python mine/train.py"),
        ("python /bin/torchrun --nproc-per-node 2 --max-restarts 3 -m rmeeto", "/lib/rmeeto/__main__.py",
         "torchrun --nproc-per-node 2 --max-restarts 3 -m rmeeto"),
        ("python -m torch.distributed.run --standalone --nproc-per-node 2 mine/train.py", "mine/train.py",
         "python -m torch.distributed.run --standalone --nproc-per-node 2 mine/train.py"),
        ("another launcher", "/lib/rmeeto/__main__.py", "torchrun --nnodes 2 --nproc-per-node 4 -m rmeeto"),
    ],
)  # fmt: skip
def test_the_command_is_what_was_typed(parent, program, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [program, *OWN])
    if parent is not None:
        for name, value in {"LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("rmeeto.pipeline.command._words_of_parent", lambda: [*parent.split(), *OWN])
    assert typed() == f"{expected} retrain --output 'my run'"
