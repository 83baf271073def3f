"""Tables as aligned plain text and as markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmeeto.errors import SettingsError
from rmeeto.report.evidence import Stage, stages
from rmeeto.report.words import figure, speedup


@dataclass(frozen=True)
class Table:
    """Headed rows of text cells; columns of figures stand right, words and the first column left.

    Attributes:
        headers: one per column.
        rows: the cells, as many per row as there are headers.

    Raises:
        SettingsError: a row has another number of cells than there are headers.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise SettingsError(f"the row {row} has {len(row)} cells for {len(self.headers)} headers; give as many")

    @classmethod
    def of(cls, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
        """A table of any values, each as its text on one line."""
        return cls(tuple(headers), tuple(tuple(" ".join(str(cell).split()) for cell in row) for row in rows))

    @property
    def of_figures(self) -> tuple[bool, ...]:
        """For each column whether it holds figures."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.headers)
        return tuple(place > 0 and all(map(_is_figure, column)) for place, column in enumerate(columns))

    def to_text(self) -> str:
        """Lines of equal width with a rule below the headers."""
        widths = [max(map(_width, column)) for column in zip(self.headers, *self.rows, strict=True)]
        lines = [self._line(row, widths) for row in (self.headers, *self.rows)]
        return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])

    def to_markdown(self) -> str:
        """A pipe table; pipes in cells are escaped."""
        rows = [[cell.replace("|", r"\|") for cell in row] for row in (self.headers, *self.rows)]
        rules = ["--:" if figures else ":--" for figures in self.of_figures]
        return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rules, *rows[1:]))

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        gaps = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [
            gap + cell if right else cell + gap for cell, gap, right in zip(row, gaps, self.of_figures, strict=True)
        ]
        return "  ".join(cells).rstrip()


def result_table(result: Mapping[str, Any]) -> Table:
    """Accuracy, tokens at the end, cost by both conventions and measured speed of each state of the model.

    Columns that were measured nowhere are left out.
    """
    found = stages(result)
    columns: list[tuple[str, list[str]]] = [
        ("top-1 %", [figure(stage.number("top1"), 2) for stage in found]),
        ("top-5 %", [figure(stage.number("top5"), 2) for stage in found]),
        ("tokens left", [figure(stage.number("tokens"), 0) for stage in found]),
        ("GFLOPs", [figure(stage.number("gflops"), 3) for stage in found]),
        ("paper GFLOPs", [figure(stage.number("gflops_paper"), 3) for stage in found]),
        ("images/s", [figure(stage.number("images_per_second")) for stage in found]),
        ("speed", [_relative(stage, result) for stage in found]),
    ]
    told = [(header, cells) for header, cells in columns if any(cell != figure(None) for cell in cells)]
    names = [stage.name for stage in found]
    return Table.of(["model", *(header for header, _ in told)], list(zip(names, *(c for _, c in told), strict=True)))


def _relative(stage: Stage, result: Mapping[str, Any]) -> str:
    """Speed over the un-merged model's; the final state's is the one measured pair by pair."""
    if stage.key == "retrained" and (measured := speedup(result)) is not None:
        return f"{measured:.2f}x"
    own, peers = stage.number("images_per_second"), [peer for peer in stages(result) if peer.key == "unmerged"]
    whole = peers[0].number("images_per_second") if peers else None
    return figure(None) if not own or not whole else f"{own / whole:.2f}x"


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _is_figure(cell: str) -> bool:
    """A number, with sign, unit or range (0.97-1.04, 2.1x, 40 %), or nothing."""
    return re.fullmatch(r"[-+–\d.,x% ]*", cell) is not None  # noqa: RUF001
