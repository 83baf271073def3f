"""`rmeeto benchmark`: measured speed of a merged model against its un-merged self."""

from __future__ import annotations

from typing import Annotated

import typer

from rmeeto.cli.console import Screen, show
from rmeeto.cli.options import given, with_options
from rmeeto.cli.texts import benchmark_text
from rmeeto.pipeline.specs import ModelSpec, PrecisionSpec, ScheduleSpec, SpeedSpec
from rmeeto.reduction.settings import Settings

NAME = "benchmark"
HELP = """Measure speed and cost of a merged model and of its un-merged self, in turn.

Examples:

    rmeeto benchmark --model vim_tiny --r 5

    rmeeto benchmark --model vim_small --r 11 --precision int8

    rmeeto benchmark --model runs/demo --speed-batch 1 --threads 1 --json

A merged model is measured with the schedule and the settings it came with; options of schedule or settings replace
that group.
"""


@with_options(
    model=ModelSpec(), schedule=ScheduleSpec(), settings=Settings(), speed=SpeedSpec(), precision=PrecisionSpec()
)
def command(
    model: ModelSpec,
    schedule: ScheduleSpec,
    settings: Settings,
    speed: SpeedSpec,
    precision: PrecisionSpec,
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Parse, call, print."""
    from rmeeto.pipeline.measuring import benchmark

    own = {"own_schedule": not given(context, schedule), "own_settings": not given(context, settings)}
    result = benchmark(model, speed, schedule=schedule, settings=settings, precision=precision, **own, watch=Screen())
    show(benchmark_text(result), result, as_json=as_json)
