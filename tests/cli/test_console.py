"""Progress goes to standard error, results to standard output."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from rmeeto.cli.console import Screen, show
from rmeeto.retrain.progress import Lines, Terminal


def _screen(*, terminal: bool) -> tuple[Screen, io.StringIO]:
    screen, seen = Screen(), io.StringIO()
    screen.console = Console(file=seen, force_terminal=terminal, highlight=False, width=100)
    return screen, seen


@pytest.mark.parametrize(("terminal", "kind"), [(True, Terminal), (False, Lines)])
def test_training_is_a_bar_or_lines(terminal: bool, kind: type) -> None:
    assert isinstance(_screen(terminal=terminal)[0].training(), kind)


@pytest.mark.parametrize(("terminal", "visible"), [(True, True), (False, False)])
def test_counting_is_a_bar_on_terminals_alone(terminal: bool, visible: bool) -> None:
    screen, seen = _screen(terminal=terminal)
    with screen.counting("evaluating", 10) as advance:
        advance(4)
        advance(10)
    assert ("evaluating" in seen.getvalue()) == visible


def test_a_stage_is_a_line_as_it_is() -> None:
    screen, seen = _screen(terminal=False)
    screen.stage("[bold] is no markup, and a long line is not broken " + "x" * 200)
    assert seen.getvalue() == "[bold] is no markup, and a long line is not broken " + "x" * 200 + "\n"


def test_a_screen_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().stage("a line")
    assert capsys.readouterr() == ("", "a line\n")


@pytest.mark.parametrize(
    ("as_json", "told"), [(False, "a text\n"), (True, '{\n  "top1": null,\n  "schedule": [\n    1\n  ]\n}\n')]
)
def test_show(as_json: bool, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no nan, whatever Python's writer thinks."""
    show("a text\n", {"top1": float("nan"), "schedule": (1,)}, as_json=as_json)
    out = capsys.readouterr().out
    assert out == told
    assert not as_json or json.loads(out)
