"""`rmeeto convert`: a published weight file as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmeeto.cli.console import show
from rmeeto.cli.texts import conversion_text

NAME = "convert"
HELP = """Write a weight file as a folder that rmeeto and timm read, without running code from it.

A published file is known by its name and brings its schedule, licence and accuracy; renamed, it needs --model with
the tag that `rmeeto models` lists; any other needs --model.

Examples:

    rmeeto convert vim_b_midclstok_81p9acc.pth --output models/vim_base

    rmeeto convert renamed.pth --model vim_tiny.rmeeto_in1k --output models/vim_tiny_merged

    rmeeto convert checkpoint.pth --model vim_tiny --part model_ema --output models/mine

    rmeeto convert videomamba_t16_in1k_res448.pth --model videomamba_tiny --img-size 448 --output models/448
"""


def command(
    file: Annotated[Path, typer.Argument(help="the weight file (.pth or .safetensors)")],
    output: Annotated[Path, typer.Option(help="folder for the model; made if it is not there")],
    model: Annotated[str | None, typer.Option(help="the network, such as vim_tiny; none goes by the file")] = None,
    part: Annotated[
        str | None, typer.Option(help="entry of the file to take; none takes the one that was published")
    ] = None,
    img_size: Annotated[
        int | None, typer.Option(help="side of the input it was trained with; none takes the network's own")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as JSON")] = False,
) -> None:
    """Parse, call, print."""
    from rmeeto.pipeline.converting import convert

    done = convert(file, output, model=model, part=part, img_size=img_size)
    show(conversion_text(done), done, as_json=as_json)
