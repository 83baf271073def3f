"""The command `rmeeto`: it parses, calls `rmeeto.pipeline`, prints, and holds no logic.

Exit codes: 0 done, or a training run that a signal ended and that is saved; 2 an input that cannot be (one line says
which and what to do); 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import sys
import threading
import warnings
from typing import Any

import typer

from rmeeto.cli import benchmark, convert, demo, doctor, evaluate, models, pretrain, push, recipes, reproduce, retrain
from rmeeto.cli.process import keep_freed_memory, sleep_soon
from rmeeto.errors import RmeetoError

app = typer.Typer(
    name="rmeeto",
    help="Make a Vision Mamba faster in minutes: merge its tokens, re-train it against itself, measure.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with `rmeeto demo`. Every command prints JSON with --json.",
)
for _module in (demo, doctor, models, convert, pretrain, retrain, evaluate, benchmark, recipes, reproduce, push):
    app.command(_module.NAME, help=_module.HELP)(_module.command)

# Typer takes click from elsewhere in one version than in the next; the base of its public error is right in all.
_UsageError: Any = typer.BadParameter.__mro__[1]
_INTERRUPTED = 130
_show_warning = warnings.showwarning
# What a machine may refuse at any moment; every other OSError is a fault of this program and keeps its traceback.
_REFUSALS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "free some space",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "name a folder that can be written",
    errno.EPERM: "name a folder that can be written",
    errno.EIO: "check the disk",
    errno.EMFILE: "allow more open files",
    errno.ENOMEM: "use smaller batches",
}


def main() -> None:
    """Run the command line."""
    _open_streams()
    threading.excepthook = _tell_thread_fault
    warnings.showwarning = _tell_warning
    keep_freed_memory()
    sleep_soon()
    try:
        # Not standalone: its own way of telling a wrong option takes several lines.
        code = app(_words(sys.argv[1:]) or ["--help"], prog_name="rmeeto", standalone_mode=False)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except (RmeetoError, OSError, MemoryError, RuntimeError, _UsageError) as error:
        line = _line(error)
        if line is None:
            raise
        sys.stderr.write(f"rmeeto: {line}\n")
        code = 2
    if code == _INTERRUPTED:
        sys.stderr.write("rmeeto: interrupted; what was written stays, and --resume auto continues a training run\n")
    sys.exit(code)


def _words(words: list[str]) -> list[str]:
    """What was typed, where each word says something: the name in a variable that is not set is the current folder."""
    for before, word in zip(["rmeeto", *words], words, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            name = word.removesuffix("=") or before
            raise typer.BadParameter(f"An empty value follows {name}; say one, or leave the option out.")
    return words


class _Nowhere(io.TextIOBase):
    """Takes what nobody reads."""

    def write(self, text: str) -> int:
        return len(text)


def _open_streams() -> None:
    """Let nothing that is printed end a command: a closed stream, or an encoding that lacks a letter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _Nowhere())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _tell_warning(message: Any, category: type[Warning], *where: Any, **how: Any) -> None:
    """Print a warning of this package as one line; the line of code that it points at is nothing to a user."""
    if category.__module__.startswith("rmeeto."):
        sys.stderr.write(f"rmeeto: warning: {message}\n")
    else:
        _show_warning(message, category, *where, **how)


def _tell_thread_fault(fault: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, unless the disk refused it: then the main thread is told and tells."""
    if not isinstance(fault.exc_value, OSError):
        threading.__excepthook__(fault)


def _line(error: Any) -> str | None:
    """What to tell the user, or None for a fault of this program."""
    if isinstance(error, RmeetoError):
        return str(error)
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "rmeeto"
        said = error.format_message().strip()
        return " ".join(f"{said}{'' if said[-1:] in '.?!' else '.'} See `{command} --help`.".split())
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        cure = _REFUSALS.get(error.errno or 0)
        return f"{error.strerror}{where}; {cure}; what was written before is whole" if cure else None
    if "DataLoader worker" in str(error):
        reason = str(error).split(": ", 1)[-1].strip(" .")
        return (
            f"a process that decodes images was ended from outside ({reason}), mostly because the memory does not "
            "suffice; use fewer --workers or a smaller --prefetch, and --resume auto to continue a training run"
        )
    # torch raises a RuntimeError where Python would raise a MemoryError.
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return "the memory does not suffice; use smaller batches (--batch-size, --accumulate), images or models"
    return None


if __name__ == "__main__":
    main()
