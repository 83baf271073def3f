"""Published tables as lists of runs: TOML files of the package, read to the letter."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files

from rmeeto.errors import SettingsError
from rmeeto.pipeline.recipes import GROUPS, NamedRecipe, load_recipe, parse_toml, require_known, section_of, table_names

_KEYS = ("number", "about", "source", "missing", "run")


@dataclass(frozen=True)
class PublishedTable:
    """Runs that belong together.

    Attributes:
        name: of its file.
        number: its place in the list of tables; "table1" is another name of the first.
        about: one line for people.
        source: where its numbers come from.
        missing: what of the published table is not in it.
        runs: label -> recipe, its changes made.
    """

    name: str
    number: int
    about: str
    source: str
    missing: str
    runs: dict[str, NamedRecipe] = field(default_factory=dict)

    @property
    def of_videos(self) -> bool:
        """Whether its models take videos."""
        return any("_k400_" in recipe.values()["model"].model for recipe in self.runs.values())


def tables() -> list[PublishedTable]:
    """All tables of the package, by their numbers."""
    return sorted(map(_read, table_names()), key=lambda table: table.number)


def load_table(name: str) -> PublishedTable:
    """Read a table of the package.

    Args:
        name: of the table, or "table" and its number.

    Raises:
        SettingsError: it is unknown, or has an unknown key or a value that cannot be.
    """
    if name in table_names():
        return _read(name)
    found = tables()
    if numbered := [table for table in found if name == f"table{table.number}"]:
        return numbered[0]
    known = ", ".join(f"table{table.number} ({table.name})" for table in found)
    raise SettingsError(f"table {name!r} is unknown; choose one of {known}")


def _read(name: str) -> PublishedTable:
    text = (files("rmeeto") / "recipes" / "tables" / f"{name}.toml").read_text(encoding="utf-8")
    values = parse_toml(text, name)
    require_known(values, _KEYS, name)
    runs: dict[str, NamedRecipe] = {}
    for run in values["run"]:
        require_known(run, ("label", "base", "published", *GROUPS), f"{name} [[run]]")
        changes = {group: section_of(group, run[group], name) for group in GROUPS if group in run}
        # A run that is another than its recipe's has other published numbers, or none.
        published = run.get("published", {} if changes else None)
        recipe = load_recipe(run["base"]).with_changes(changes, published)
        runs[run["label"]] = recipe
    return PublishedTable(name, values["number"], values["about"], values["source"], values["missing"], runs)
