"""`rmeeto models`: what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from rmeeto.cli.console import show
from rmeeto.cli.texts import models_text
from rmeeto.pipeline.listing import list_models

NAME = "models"
HELP = """List networks and published weights: size, input, accuracy, where the weights are, their licence.

Examples:

    rmeeto models

    rmeeto models --json
"""


def command(as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False) -> None:
    """Parse, call, print."""
    found = list_models()
    show(models_text(found), found, as_json=as_json)
