"""Options made from a dataclass: one place declares name, type, default and help."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import typer

Presets = Callable[[str], Mapping[str, Mapping[str, Any]]]
_CONTEXT = "context"
_PRESET = "preset"


def with_options(
    *, shared: tuple[str, ...] = (), presets: Presets | None = None, **groups: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's dataclass parameters by one option per field.

    Args:
        shared: fields that two groups have in common; each becomes one option with the last group's default and
            help, and all groups receive its value.
        presets: of a name, group -> field -> value; adds an option --recipe whose values replace the defaults, and
            are replaced by the options that were given.
        groups: parameter name -> an instance of a dataclass, whose values are the defaults. The command
            receives an instance built from the options; the help of each option is the field's line under
            "Attributes:" in the dataclass's docstring, and the field's metadata may have a second "flag".

    Raises:
        TypeError: two groups have a field of the same name that is not said to be shared.
    """
    _refuse_collisions(groups, shared)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = set(inspect.signature(command).parameters) - set(groups)

        @functools.wraps(command)
        def run(**values: Any) -> None:
            preset: dict[str, Mapping[str, Any]] = {}
            if presets is not None and values[_PRESET] is not None:
                preset = _untyped(presets(values[_PRESET]), values[_CONTEXT])
            # What a recipe says of one group is shared by another that it says nothing of.
            filled = {**values, **{name: value for fields in preset.values() for name, value in fields.items()}}
            made = {
                name: type(group)(**_of(group, {**filled, **preset.get(name, {})})) for name, group in groups.items()
            }
            command(**made, **{name: value for name, value in values.items() if name in own})

        parameters = list({parameter.name: parameter for parameter in _expanded(command, groups)}.values())
        if presets is not None:
            parameters = [*_preset_parameters(), *parameters]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def given(context: typer.Context, *groups: Any) -> list[str]:
    """The options of some groups that somebody typed, even with the default's value."""
    names = (field.name for group in groups for field in dataclasses.fields(group))
    sources = ((name, context.get_parameter_source(name)) for name in names)
    return [_flag(name) for name, source in sources if source is not None and source.name != "DEFAULT"]


def help_of(group: type) -> dict[str, str]:
    """Field name -> its description in the "Attributes:" part of the docstring, on one line."""
    text = inspect.getdoc(group) or ""
    part = re.split(r"^Attributes:\n", text, flags=re.MULTILINE)[-1]
    part = re.split(r"^\S", part, maxsplit=1, flags=re.MULTILINE)[0]
    found: dict[str, str] = {}
    for match in re.finditer(r"^    (\w[\w, ]*): (.*(?:\n {5,}.*)*)", part, flags=re.MULTILINE):
        for name in match[1].split(","):
            found[name.strip()] = re.sub(r"\s+", " ", match[2]).strip()
    return found


def _untyped(preset: Mapping[str, Mapping[str, Any]], context: typer.Context) -> dict[str, Mapping[str, Any]]:
    """What a recipe says and nobody typed: it wins over the defaults, and what was typed wins over it."""

    def is_typed(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")

    return {
        group: {name: value for name, value in fields.items() if not is_typed(name)} for group, fields in preset.items()
    }


def _of(group: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in dataclasses.fields(group)}


def _preset_parameters() -> Iterator[inspect.Parameter]:
    kind = inspect.Parameter.KEYWORD_ONLY
    help = "a recipe's name (see `rmeeto recipes`) or a .toml file; options that are given win over it"
    option = typer.Option(None, "--recipe", help=help)
    yield inspect.Parameter(_CONTEXT, kind, annotation=typer.Context)
    yield inspect.Parameter(_PRESET, kind, default=option, annotation=str | None)


def _refuse_collisions(groups: dict[str, Any], shared: tuple[str, ...]) -> None:
    """One option must not mean two things without anybody having said so."""
    owner: dict[str, str] = {}
    for group, values in groups.items():
        for field in dataclasses.fields(values):
            if field.name in owner and field.name not in shared:
                raise TypeError(f"{field.name} is a field of {owner[field.name]} and of {group}; rename one of them")
            owner[field.name] = group


def _expanded(command: Callable[..., None], groups: dict[str, Any]) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            yield from _options(groups[parameter.name], title=parameter.name)
        else:
            yield parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)


def _options(group: Any, title: str) -> Iterator[inspect.Parameter]:
    hints, helps = typing.get_type_hints(type(group)), help_of(type(group))
    for field in dataclasses.fields(group):
        default = getattr(group, field.name)
        name = _flag(field.name)
        option = typer.Option(
            default,
            f"{name}/--no-{name[2:]}" if default is True else name,
            *filter(None, [field.metadata.get("flag")]),
            help=_in_flags(helps.get(field.name, ""), helps),
            rich_help_panel=title.capitalize(),
        )
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=hints[field.name]
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _in_flags(text: str, names: Collection[str]) -> str:
    """A field's description as somebody at a terminal reads it: other fields are options, None is nothing given."""

    def flag(match: re.Match[str]) -> str:
        name = match[1]
        return _flag(name) if name in names and ("_" in name or match[0] != name) else match[0]

    return re.sub(r"\bNone\b", "none", re.sub(r"`?\b(\w+)\b`?", flag, text))
