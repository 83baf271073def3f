"""`rmeeto doctor`: what this machine computes with, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from rmeeto.cli.console import show
from rmeeto.cli.texts import doctor_text

NAME = "doctor"
HELP = """Show what this machine computes with: each op's backends, which is used, and why the others are not.

Examples:

    rmeeto doctor

    rmeeto doctor --json
"""


def command(as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False) -> None:
    """Parse, call, print."""
    from rmeeto.pipeline.measuring import doctor

    found = doctor()
    show(doctor_text(found), found, as_json=as_json)
