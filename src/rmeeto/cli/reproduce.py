"""`rmeeto reproduce`: a published table, run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rmeeto.cli.console import Screen, show
from rmeeto.cli.stopping import resumable
from rmeeto.cli.texts import reproduced_text, tables_text

NAME = "reproduce"
HELP = """Run a published table again, and print it beside the published numbers. What is finished is not run twice.

Examples:

    rmeeto reproduce

    rmeeto reproduce table1 --scale demo

    rmeeto reproduce table1 --scale full --data imagenet/ --weights official/ --workers 8 --output runs/published
"""


def command(
    table: Annotated[
        str | None, typer.Argument(help="name of the table, or table and its number; none lists all")
    ] = None,
    scale: Annotated[
        Literal["demo", "full"], typer.Option(help="demo: another model and data set, minutes; full: as published")
    ] = "demo",
    output: Annotated[Path, typer.Option(help="folder for the runs")] = Path("runs/reproduce"),
    data: Annotated[str | None, typer.Option(help="ImageNet, for --scale full")] = None,
    weights: Annotated[Path | None, typer.Option(help="folder of the official weight files, for --scale full")] = None,
    workers: Annotated[int, typer.Option(help="processes that decode images, for --scale full")] = 0,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="steps between two checkpoints of a run; none writes one at each epoch's end")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print table.json instead of the table")] = False,
) -> None:
    """Parse, call, print."""
    if table is None:
        from rmeeto.pipeline.reproducing import list_tables

        found = list_tables()
        show(tables_text(found), found, as_json=as_json)
        return
    with resumable(output, as_json=as_json):  # what is finished stays, what was begun goes on, without an option
        from rmeeto.pipeline.reproducing import reproduce

        result = reproduce(
            table,
            scale,
            output,
            data=data,
            weights=weights,
            workers=workers,
            checkpoint_every=checkpoint_every,
            watch=Screen(),
        )
    if result:
        show(reproduced_text(result), result, as_json=as_json)
