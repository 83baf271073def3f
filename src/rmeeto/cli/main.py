"""The command `rmeeto`: it parses, calls `rmeeto.pipeline`, prints, and holds no logic.

Exit codes: 0 done, 2 an input that cannot be (one line says which and what to do), 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from rmeeto.cli import benchmark, demo, doctor, evaluate, pretrain, retrain
from rmeeto.errors import RmeetoError

app = typer.Typer(
    name="rmeeto",
    help="Make a Vision Mamba faster in minutes: merge its tokens, re-train it against itself, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with `rmeeto demo`. Every command prints JSON with --json.",
)
for _module in (demo, doctor, pretrain, retrain, evaluate, benchmark):
    app.command(_module.NAME, help=_module.HELP)(_module.command)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except RmeetoError as error:
        sys.stderr.write(f"rmeeto: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("rmeeto: interrupted; what was written stays, and --resume continues a training run\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
