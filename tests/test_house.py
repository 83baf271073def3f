"""The laws of CONTRIBUTING.md that can be measured, measured."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import rmeeto

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "rmeeto"
FOLDERS = ("src", "tests", "benchmarks", "soak", "tools")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ROOMS = sorted(
    ["rmeeto", *(f"rmeeto.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py") if path.parent.name != "cli")]
)
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_BODY = 60
USUAL_LINES_OF_A_BODY = 30

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function))


def _lines(function: Function) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_are_short() -> None:
    long = {_name(path): n for path in FILES if (n := len(path.read_text().splitlines())) > MOST_LINES_OF_A_FILE}
    assert FILES
    assert not long


def test_bodies_are_short() -> None:
    lines = {f"{_name(path)}:{function.name}": _lines(function) for path in FILES for function in _functions(path)}
    assert not {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_BODY}
    usual = sum(n <= USUAL_LINES_OF_A_BODY for n in lines.values())
    assert usual > 0.97 * len(lines)


def test_booleans_are_keyword_only() -> None:
    """Outside the command line, where typer makes options of them."""
    positional = [
        f"{_name(path)}:{function.name}({argument.arg})"
        for path in FILES
        if PACKAGE / "cli" not in path.parents
        for function in _functions(path)
        for argument, default in _positional_defaults(function)
        if isinstance(default, ast.Constant) and isinstance(default.value, bool)
    ]
    # timm's signature, whose callers it has
    assert positional == ["src/rmeeto/models/vim.py:set_grad_checkpointing(enable)"]


def _positional_defaults(function: Function) -> Iterator[tuple[ast.arg, ast.expr]]:
    arguments = [*function.args.posonlyargs, *function.args.args]
    defaults = function.args.defaults
    yield from zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)


@pytest.mark.parametrize("room", ROOMS)
def test_exports(room: str) -> None:
    """What a room shows is there, in order, and says what it is."""
    module = importlib.import_module(room)
    exported = list(getattr(module, "__all__", ()))
    assert module.__doc__
    assert exported == sorted(exported, key=lambda name: (not name.isupper(), name))  # constants first
    values = {name: getattr(module, name) for name in exported}
    described = {
        name: value
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and typing.get_origin(value) is None  # no alias
    }
    assert not [name for name, value in described.items() if not inspect.getdoc(value)]


def test_public_methods_are_described() -> None:
    """Of every exported class that is written here."""
    nameless = [
        f"{room}.{name}.{member}"
        for room in ROOMS
        for name in getattr(importlib.import_module(room), "__all__", ())
        if inspect.isclass(value := getattr(importlib.import_module(room), name))
        for member, method in vars(value).items()
        if not member.startswith("_")
        and member != "forward"  # its class says what it takes and gives
        and (inspect.isfunction(method) or isinstance(method, property | classmethod))
        and not inspect.getdoc(method)
    ]
    assert not nameless


def test_one_version() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert rmeeto.__version__ == version
    headings = re.findall(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] in ("Unreleased", version)


def test_the_package_brings_its_types_and_licences() -> None:
    assert (PACKAGE / "py.typed").is_file()
    for licence in (ROOT / "LICENSE", PACKAGE / "data" / "demo" / "LICENSE"):
        assert licence.read_text().strip()
