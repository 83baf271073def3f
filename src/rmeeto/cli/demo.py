"""`rmeeto demo`: the main job on embedded images and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmeeto.cli.console import Screen, show
from rmeeto.cli.texts import result_text

NAME = "demo"
HELP = """See it work: merge the tokens of an embedded Vision Mamba, re-train it for minutes, measure.

Examples:

    rmeeto demo

    rmeeto demo --output runs/first --json
"""


def command(
    output: Annotated[Path, typer.Option(help="folder for the results")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="few images, under a minute; accuracies mean little")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print result.json instead of the table")] = False,
) -> None:
    """Parse, call, print."""
    from rmeeto.pipeline.demonstration import demo

    result = demo(output, quick=quick, watch=Screen())
    show(result_text(result, output), result, as_json=as_json)
