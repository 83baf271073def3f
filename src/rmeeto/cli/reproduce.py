"""`rmeeto reproduce`: a published table, run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rmeeto.cli.console import Screen, show
from rmeeto.cli.stopping import resumable
from rmeeto.cli.texts import reproduced_text

NAME = "reproduce"
HELP = """Run a published table again, and print it beside the published numbers. What is finished is not run twice.

Tables: images, minutes, order, videos, vim_small_by_r.

Examples:

    rmeeto reproduce vim_small_by_r --scale demo

    rmeeto reproduce images --scale full --data imagenet/ --weights official/ --output runs/published
"""


def command(
    table: Annotated[str, typer.Argument(help="name of the table")],
    scale: Annotated[
        Literal["demo", "full"], typer.Option(help="demo: another model and data set, minutes; full: as published")
    ] = "demo",
    output: Annotated[Path, typer.Option(help="folder for the runs")] = Path("runs/reproduce"),
    data: Annotated[str | None, typer.Option(help="ImageNet, for --scale full")] = None,
    weights: Annotated[Path | None, typer.Option(help="folder of the official weight files, for --scale full")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print table.json instead of the table")] = False,
) -> None:
    """Parse, call, print."""
    with resumable(output):  # what is finished is not run again, and what was begun goes on, without an option
        from rmeeto.pipeline.reproducing import reproduce

        result = reproduce(table, scale, output, data=data, weights=weights, watch=Screen())
    show(reproduced_text(result), result, as_json=as_json)
