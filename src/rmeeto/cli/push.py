"""`rmeeto push`: a model onto the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmeeto.cli.console import show
from rmeeto.cli.texts import upload_text

NAME = "push"
HELP = """Put a model onto the Hugging Face hub: weights, config.json with the schedule, a card with what was measured.

Log in first with `hf auth login`, or set HF_TOKEN; HF_ENDPOINT names another hub.

Examples:

    rmeeto push runs/photos-fast me/vim-photos-fast --license apache-2.0

    rmeeto push runs/photos-fast me/vim-photos-fast --dry-run
"""


def command(
    folder: Annotated[Path, typer.Argument(help="a model's folder, such as a run's")],
    repo: Annotated[str, typer.Argument(help="owner/name; made if it is not there")],
    licence: Annotated[
        str | None, typer.Option("--license", help="of the weights; none takes that of the weights they were made of")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="a new repository is seen by its owner alone")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the card and the files, and put nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as JSON")] = False,
) -> None:
    """Parse, call, print."""
    from rmeeto.pipeline.publishing import push_to_hub

    done = push_to_hub(folder, repo, licence=licence, private=private, dry_run=dry_run)
    show(upload_text(done), done, as_json=as_json)
