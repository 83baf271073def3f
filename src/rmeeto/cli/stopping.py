"""What a training command says when a signal ended it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from rmeeto.cli.console import show
from rmeeto.pipeline.command import command
from rmeeto.retrain.signals import Stopped, StopRequests

RESUMING = ("--resume", "auto")


@contextmanager
def resumable(output: Path, *more: str, as_json: bool = False) -> Iterator[None]:
    """A run that was stopped and saved ends the command well, with the command that continues it.

    Outside of the training loop, which finishes its step first, a signal stops at once.

    Args:
        output: folder of the run.
        more: words that the continuing command has and the first one had not.
        as_json: print to standard output for programs, too: {"stopped", "step", "checkpoint", "continue"}.

    Raises:
        typer.Exit: with code 0, where it was stopped.
    """
    try:
        with StopRequests() as requests, requests.at_once():
            yield
    except Stopped as stopped:
        if is_main():
            saved = stopped.checkpoint or _newest(output)
            where = f"saved in {saved}" if saved else "nothing was trained yet"
            again = continuing(sys.argv[1:], more)
            sys.stderr.write(f"rmeeto: {stopped}; {where}; continue with:\n{again}\n")
            if as_json:
                place = None if saved is None else str(saved)
                record = {"stopped": stopped.signal, "step": stopped.step, "checkpoint": place, "continue": again}
                show("", record, as_json=True)
        raise typer.Exit(0) from None


def _newest(output: Path) -> Path | None:
    """The checkpoint that was written last, of a run or of the runs in folders below."""
    from rmeeto.retrain.loop import CHECKPOINTS, Checkpoints

    runs = [output / CHECKPOINTS] if (output / CHECKPOINTS).exists() else output.rglob(CHECKPOINTS)
    newest = [folder for run in runs for folder in Checkpoints(run).all()[:1]]
    return max(newest, key=lambda folder: folder.stat().st_mtime, default=None)


def is_main() -> bool:
    """Whether this is the process that talks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def continuing(arguments: Sequence[str], more: Sequence[str]) -> str:
    """The same command, with `more` at its end and nowhere else; processes are started as they were."""
    kept = list(arguments)
    for option in more[:1]:
        kept = [
            word
            for place, word in enumerate(arguments)
            if word != option and not word.startswith(f"{option}=") and arguments[max(0, place - 1)] != option
        ]
    return command([*kept, *more])
