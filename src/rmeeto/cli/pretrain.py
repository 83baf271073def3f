"""`rmeeto pretrain`: the training loop without a teacher, from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmeeto.cli.console import Screen, show
from rmeeto.cli.options import with_options
from rmeeto.cli.stopping import RESUMING, is_main, resumable
from rmeeto.data.spec import Augment, DataSpec
from rmeeto.pipeline.recipes import load_recipe
from rmeeto.pipeline.specs import ModelSpec
from rmeeto.retrain.recipe import Recipe
from rmeeto.retrain.run_spec import RunSpec

NAME = "pretrain"
HELP = """Train a Vision Mamba from random weights.

Examples:

    rmeeto pretrain --model vim_nano --data demo --epochs 5 --output runs/nano

    rmeeto pretrain --model vim_tiny --img-size 64 --patch-size 4 --data photos/ --output runs/photos

    rmeeto pretrain --model vim_nano --in-chans 3 --img-size 32 --data train.tar --val-data test.tar --output runs/c10
"""


@with_options(
    presets=lambda name: load_recipe(name, verb="pretrain").groups,
    model=ModelSpec(),
    data=DataSpec(),
    recipe=Recipe.pretraining(),
    augment=Augment.light(),
    run=RunSpec(),
    shared=("batch_size",),
)
def command(
    model: ModelSpec,
    data: DataSpec,
    recipe: Recipe,
    augment: Augment,
    run: RunSpec,
    output: Annotated[Path, typer.Option(help="folder of the run; made if it is not there")],
    as_json: Annotated[bool, typer.Option("--json", help="print the run's record as JSON")] = False,
) -> None:
    """Parse, call, print."""
    with resumable(output, *RESUMING, as_json=as_json):
        from rmeeto.pipeline.training import pretrain

        record = pretrain(model, data, recipe, augment, output, spec=run, watch=Screen())
    last = record.epochs[-1]
    text = f"top-1 {last['top1']:.2f} after {record.images} images in {record.seconds:.0f} s; the model is in {output}"
    if is_main():
        show(text, record.to_dict(), as_json=as_json)
