"""`rmeeto retrain`: merge a trained model's tokens, re-train it against itself, measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmeeto.cli.console import Screen, show
from rmeeto.cli.options import with_options
from rmeeto.cli.stopping import RESUMING, resumable
from rmeeto.cli.texts import result_text
from rmeeto.data.spec import Augment, DataSpec
from rmeeto.pipeline.recipes import load_recipe
from rmeeto.pipeline.specs import ModelSpec, ScheduleSpec, SpeedSpec
from rmeeto.reduction.settings import Settings
from rmeeto.retrain.recipe import Recipe
from rmeeto.retrain.run_spec import RunSpec

NAME = "retrain"
HELP = """Make a trained Vision Mamba faster: merge its tokens, re-train it against its un-merged self, measure.

Examples:

    rmeeto retrain --model runs/photos --data photos/ --r 11 --epochs 3 --output runs/photos-fast

    rmeeto retrain --model vim_small --weights vim_s.pth --data imagenet/ --r 11 --epochs 15 --output runs/vim_small

    rmeeto retrain --recipe vim_small_3_epochs --weights vim_s.pth --data imagenet/ --output runs/vim_small

    rmeeto retrain --model runs/photos --data photos/ --final 60 --time-limit 600 --output runs/photos-10min

Several processes, a checkpoint every 500 steps, and on from the newest whole one whatever stopped the run before:

    torchrun --nproc-per-node 8 -m rmeeto retrain --model vim_small --weights vim_s.pth --data imagenet/ --remove 11
    --output runs/vim_small --checkpoint-every 500 --resume auto
"""


@with_options(
    presets=lambda name: load_recipe(name, verb="retrain").groups,
    model=ModelSpec(),
    data=DataSpec(),
    schedule=ScheduleSpec(),
    settings=Settings(),
    recipe=Recipe(),
    augment=Augment(),
    run=RunSpec(),
    speed=SpeedSpec(),
    shared=("batch_size", "seed"),
)
def command(
    model: ModelSpec,
    data: DataSpec,
    schedule: ScheduleSpec,
    settings: Settings,
    recipe: Recipe,
    augment: Augment,
    run: RunSpec,
    speed: SpeedSpec,
    output: Annotated[Path, typer.Option(help="folder of the run; made if it is not there")],
    as_json: Annotated[bool, typer.Option("--json", help="print result.json instead of the table")] = False,
) -> None:
    """Parse, call, print."""
    with resumable(output, *RESUMING, as_json=as_json):
        from rmeeto.pipeline.retraining import retrain

        result = retrain(model, data, schedule, settings, recipe, augment, speed, output, spec=run, watch=Screen())
    if result:
        show(result_text(result, output), result, as_json=as_json)
