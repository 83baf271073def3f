"""Recipes as data: TOML files with the settings of a run, read strictly; the published ones come with the package."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rmeeto.data.spec import Augment, DataSpec
from rmeeto.errors import SettingsError
from rmeeto.pipeline.specs import ModelSpec, ScheduleSpec, SpeedSpec
from rmeeto.reduction.settings import Settings
from rmeeto.retrain.recipe import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Verb = Literal["retrain", "pretrain"]
Values = dict[str, Any]

# Section -> what it sets.
GROUPS: dict[str, type] = {
    "model": ModelSpec,
    "data": DataSpec,
    "schedule": ScheduleSpec,
    "settings": Settings,
    "recipe": Recipe,
    "augment": Augment,
    "speed": SpeedSpec,
}
# Sections that are of no meaning to a command.
_UNREAD: dict[Verb, tuple[str, ...]] = {"retrain": (), "pretrain": ("schedule", "settings", "speed")}
_ABOUT = ("about", "source", "verb", "weights_file")
_PUBLISHED = (
    "data", "views", "unmerged", "unmerged_gflops_paper", "training_free", "top1", "top1_against_ordered",
    "gflops_paper", "speedup_low", "speedup_high", "minutes_8_h100", "minutes_16_h100", "minutes_32_h100",
)  # fmt: skip
SUFFIX = ".toml"
KEPT = "recipe.toml"


@dataclass(frozen=True)
class NamedRecipe:
    """What one file says.

    Attributes:
        name: of the file.
        about: one line for people.
        source: where its numbers come from.
        verb: the command that takes it.
        weights_file: name of the official weight file that the run starts from.
        groups: section -> field -> value, only those that the file sets.
        published: what was published of this run.
    """

    name: str
    about: str = ""
    source: str = ""
    verb: Verb = "retrain"
    weights_file: str | None = None
    groups: Mapping[str, Values] = field(default_factory=dict)
    published: Values = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Each section that its command reads, as the dataclass that it sets; defaults where the file says nothing.

        Raises:
            SettingsError: values that cannot be together.
        """
        read = {name: kind for name, kind in GROUPS.items() if name not in _UNREAD[self.verb]}
        return {name: kind(**self.groups.get(name, {})) for name, kind in read.items()}

    def with_changes(self, changes: Mapping[str, Values], published: Values | None) -> NamedRecipe:
        """The same with some fields replaced, and with other published numbers where they are given."""
        merged = {name: {**self.groups.get(name, {}), **changes.get(name, {})} for name in GROUPS}
        kept = self.published if published is None else published
        return dataclasses.replace(self, groups={name: v for name, v in merged.items() if v}, published=kept)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return _names(files("rmeeto") / "recipes")


def load_recipe(name: str, *, verb: Verb | None = None) -> NamedRecipe:
    """Read a recipe.

    Args:
        name: of the package's, or the path of a .toml.
        verb: the command that will take it.

    Raises:
        SettingsError: there is none, it is no TOML or of another verb, or has an unknown key or a value that cannot be.
    """
    if name.endswith(SUFFIX):
        path = Path(name)
        if not path.is_file():
            raise SettingsError(f"recipe {name} does not exist; name a file, or one of {', '.join(recipe_names())}")
        found = parse_recipe(path.read_text(encoding="utf-8"), str(path))
    else:
        if name not in recipe_names():
            known = ", ".join(recipe_names())
            raise SettingsError(f"recipe {name!r} is unknown; choose one of {known}, or a .toml file")
        found = parse_recipe((files("rmeeto") / "recipes" / f"{name}{SUFFIX}").read_text(encoding="utf-8"), name)
    if verb is not None and found.verb != verb:
        raise SettingsError(f"recipe {name} is for `rmeeto {found.verb}`, not for `rmeeto {verb}`; use that command")
    return found


def parse_recipe(text: str, name: str) -> NamedRecipe:
    """Read a recipe's text, to the letter.

    Raises:
        SettingsError: it is no TOML, has an unknown key or a value that cannot be.
    """
    values = parse_toml(text, name)
    require_known(values, (*_ABOUT, *GROUPS, "published"), name)
    groups = {group: section_of(group, values[group], name) for group in GROUPS if group in values}
    published = values.get("published", {})
    require_known(published, _PUBLISHED, f"{name} [published]")
    if values.get("verb", "retrain") not in ("retrain", "pretrain"):
        raise SettingsError(f"recipe {name}: verb {values['verb']!r} is unknown; use retrain or pretrain")
    verb: Verb = values.get("verb", "retrain")
    if unread := [group for group in groups if group in _UNREAD[verb]]:
        raise SettingsError(f"recipe {name}: `rmeeto {verb}` reads no section [{unread[0]}]; leave it out")
    about = {key: values[key] for key in _ABOUT if key in values}
    found = NamedRecipe(Path(name).stem, groups=groups, published=published, **about)
    found.values()
    return found


def section_of(group: str, values: Any, name: str) -> Values:
    """One section, checked against the dataclass that it sets.

    Raises:
        SettingsError: it is no table, or has an unknown key or a value of another type.
    """
    if not isinstance(values, dict):
        raise SettingsError(f"recipe {name}: {group} is {values!r}; make it a section [{group}]")
    hints = typing.get_type_hints(GROUPS[group])
    require_known(values, tuple(hints), f"{name} [{group}]")
    read = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key, value in read.items():
        if not _fits(value, hints[key]):
            kind = getattr(hints[key], "__name__", None) or str(hints[key])
            raise SettingsError(f"recipe {name}: [{group}] {key} = {value!r} is no {kind}; correct it")
    return read


def parse_toml(text: str, name: str) -> Values:
    """The values of a TOML text.

    Raises:
        SettingsError: it is none.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"recipe {name} is no TOML: {error}; correct it") from None


def require_known(values: Iterable[str], known: tuple[str, ...], name: str) -> None:
    """Check that every key is one that somebody reads.

    Raises:
        SettingsError: one is not.
    """
    if unknown := [key for key in values if key not in known]:
        raise SettingsError(f"recipe {name}: unknown key {unknown[0]!r}; known keys are {', '.join(known)}")


def to_toml(verb: Verb, values: Mapping[str, Any], *, about: str = "", command: str = "") -> str:
    """What `parse_recipe` reads: every field of every section, those that are None as comments."""
    lines = [f"# {line}" for line in command.splitlines()]
    lines += [f"about = {_literal(about)}"] if about else []
    lines.append(f"verb = {_literal(verb)}")
    for group, value in values.items():
        lines += ["", f"[{group}]"]
        for name, one in dataclasses.asdict(value).items():
            lines.append(f"# {name} is not set" if one is None else f"{name} = {_literal(one)}")
    return "\n".join(lines) + "\n"


def table_names() -> list[str]:
    """The tables of published runs that come with the package."""
    return _names(files("rmeeto") / "recipes" / "tables")


def _names(folder: Any) -> list[str]:
    return sorted(entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX))


def _literal(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; a whole number is a number too."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        rest = arguments[-1] is Ellipsis
        kinds = (arguments[0],) * len(value) if rest and isinstance(value, tuple) else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, bool) == (hint is bool) and isinstance(value, hint)
