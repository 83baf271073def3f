"""What a training command says when a signal ended it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from rmeeto.pipeline.command import command
from rmeeto.retrain.signals import Stopped


@contextmanager
def resumable() -> Iterator[None]:
    """A run that was stopped and saved ends the command well, with the command that continues it.

    Raises:
        typer.Exit: with code 0, where it was stopped.
    """
    try:
        yield
    except Stopped as stopped:
        if is_main():
            where = f"saved in {stopped.checkpoint}" if stopped.checkpoint else "nothing was trained yet"
            sys.stderr.write(f"rmeeto: {stopped}; {where}; continue with:\n{resume_command(sys.argv[1:])}\n")
        raise typer.Exit(0) from None


def is_main() -> bool:
    """Whether this is the process that talks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def resume_command(arguments: Sequence[str]) -> str:
    """The same command, continuing; processes are started as they were."""
    kept = [
        word
        for place, word in enumerate(arguments)
        if word != "--resume" and not word.startswith("--resume=") and arguments[max(0, place - 1)] != "--resume"
    ]
    return command([*kept, "--resume", "auto"])
