"""The command that started this program, as somebody would type it again."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_TORCHRUN = ("torchrun", "torch.distributed.run")


def typed() -> str:
    """The command line of this process; torchrun's own where that started it, with its options."""
    return command(sys.argv[1:])


def command(arguments: Sequence[str]) -> str:
    """The same program, started as it was, with other words after it."""
    return shlex.join([*_door(), *arguments])


def _door() -> list[str]:
    each = os.environ.get("LOCAL_WORLD_SIZE")
    if each is None:
        program = Path(sys.argv[0])
        return ["rmeeto"] if "rmeeto" in (program.name, program.parent.name) else ["python", str(program)]
    if started := _torchrun_words(_words_of_parent(), sys.argv[1:]):
        return started
    nodes = os.environ.get("GROUP_WORLD_SIZE", "1")
    return ["torchrun", *(["--nnodes", nodes] if nodes != "1" else []), "--nproc-per-node", each, "-m", "rmeeto"]


def _torchrun_words(parent: Sequence[str], own: Sequence[str]) -> list[str]:
    """What torchrun was called with before this program's own words; nothing where the parent is not torchrun."""
    before = len(parent) - len(own)
    names = [Path(word).name for word in parent[:before]]
    if list(parent[before:]) != list(own) or not any(name in names for name in _TORCHRUN):
        return []
    return ["torchrun", *parent[names.index("torchrun") + 1 : before]] if "torchrun" in names else list(parent[:before])


def _words_of_parent() -> list[str]:
    """The parent's command line, where the system tells it."""
    try:
        text = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return []
    return text.split("\0")[:-1]
