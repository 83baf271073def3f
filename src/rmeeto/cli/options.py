"""Options made from a dataclass: one place declares name, type, default and help."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

import typer


def with_options(**groups: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's dataclass parameters by one option per field.

    Args:
        groups: parameter name -> an instance of a dataclass, whose values are the defaults. The command
            receives an instance built from the options; the help of each option is the field's line under
            "Attributes:" in the dataclass's docstring. A field that two groups share becomes one option,
            with the first group's default, and both receive its value.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = set(inspect.signature(command).parameters) - set(groups)

        @functools.wraps(command)
        def run(**values: Any) -> None:
            made = {
                name: type(group)(**{field.name: values[field.name] for field in dataclasses.fields(group)})
                for name, group in groups.items()
            }
            command(**made, **{name: value for name, value in values.items() if name in own})

        unique = {parameter.name: parameter for parameter in reversed(list(_expanded(command, groups)))}
        parameters = list(reversed(unique.values()))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


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
        option = typer.Option(
            getattr(group, field.name), help=helps.get(field.name, ""), rich_help_panel=title.capitalize()
        )
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=hints[field.name]
        )
