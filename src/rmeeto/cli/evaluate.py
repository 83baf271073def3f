"""`rmeeto evaluate`: accuracy of a model, merged or not."""

from __future__ import annotations

from typing import Annotated

import typer

from rmeeto.cli.console import Screen, show
from rmeeto.cli.options import given, with_options
from rmeeto.data.spec import DataSpec
from rmeeto.errors import SettingsError
from rmeeto.pipeline.specs import ModelSpec, ScheduleSpec
from rmeeto.reduction.settings import Settings

NAME = "evaluate"
HELP = """Top-1 and top-5 accuracy of a model; with --merge its tokens are merged without training.

Examples:

    rmeeto evaluate --model runs/demo --data demo

    rmeeto evaluate --model vim_tiny --weights vim_t.pth --data imagenet/ --merge --r 5 --class-place official
"""


@with_options(model=ModelSpec(), data=DataSpec(), schedule=ScheduleSpec(), settings=Settings())
def command(
    model: ModelSpec,
    data: DataSpec,
    schedule: ScheduleSpec,
    settings: Settings,
    context: typer.Context,
    merge: Annotated[bool, typer.Option("--merge", help="merge as --r and its neighbours say")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the record as JSON")] = False,
) -> None:
    """Parse, call, print."""
    from rmeeto.pipeline.measuring import evaluate

    if not merge and (idle := given(context, schedule, settings)):
        raise SettingsError(f"{idle[0]} says how to merge, and --merge is not given; add it, or leave {idle[0]} out")
    record = evaluate(
        model, data, schedule=schedule if merge else None, settings=settings if merge else None, watch=Screen()
    )
    text = f"top-1 {record.top1:.2f}  top-5 {record.top5:.2f}  on {record.images} images in {record.seconds:.1f} s"
    show(text, record.to_dict(), as_json=as_json)
