"""`rmeeto recipes`: the settings that were published, as data."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from rmeeto.cli.console import show
from rmeeto.pipeline.recipes import load_recipe, recipe_names, to_toml
from rmeeto.report.table import Table

NAME = "recipes"
HELP = """List the recipes that come with the package, or show one with all its settings.

Examples:

    rmeeto recipes

    rmeeto recipes vim_small_3_epochs
"""


def command(
    name: Annotated[str | None, typer.Argument(help="a recipe's name, or a .toml file; none lists all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """Parse, call, print."""
    if name is None:
        found = [load_recipe(one) for one in recipe_names()]
        table = Table.of(("recipe", "what"), [(one.name, one.about) for one in found])
        show(table.to_text(), [dataclasses.asdict(one) for one in found], as_json=as_json)
        return
    recipe = load_recipe(name)
    values = {group: dataclasses.asdict(value) for group, value in recipe.values().items()}
    text = to_toml(recipe.verb, recipe.values(), about=recipe.about)
    published = "".join(f"\n# published: {key} {value}" for key, value in recipe.published.items())
    show(text + published, {**dataclasses.asdict(recipe), "groups": values}, as_json=as_json)
