"""Tables are aligned as text and valid as markdown."""

from __future__ import annotations

import pytest

from rmeeto.errors import SettingsError
from rmeeto.report import Table, result_table


def test_text_is_aligned() -> None:
    table = Table.of(("model", "top-1", "why"), [("small", 1.5, "a"), ("very large", "12.25", "because")])
    assert table.to_text().splitlines() == [
        "model       top-1  why",
        "----------  -----  -------",
        "small         1.5  a",
        "very large  12.25  because",
    ]


def test_markdown_escapes_pipes_and_line_ends() -> None:
    table = Table.of(("model", "top-1"), [("a|b\nc", "1.5")])
    assert table.to_markdown().splitlines() == ["| model | top-1 |", "| :-- | --: |", r"| a\|b c | 1.5 |"]


def test_wide_letters_take_two_columns() -> None:
    lines = Table.of(("名", "n"), [("模型", 1), ("ab", 22)]).to_text().splitlines()
    assert lines == ["名     n", "----  --", "模型   1", "ab    22"]


def test_no_rows() -> None:
    assert Table.of(("a", "b"), []).to_text() == "a  b\n-  -"


def test_ragged_rows_are_refused() -> None:
    with pytest.raises(SettingsError, match="2 cells for 3 headers"):
        Table.of(("a", "b", "c"), [("1", "2")])


def test_result_table_leaves_out_what_was_not_measured() -> None:
    result = {
        "unmerged": {"top1": 91.25, "images_per_second": 100.0},
        "retrained": {"top1": 90.5, "images_per_second": 200.0, "tokens": None},
        "speedup": 1.97,
    }
    table = result_table(result)
    assert table.headers == ("model", "top-1 %", "images/s", "speed")
    assert table.rows == (("un-merged", "91.25", "100.0", "1.00x"), ("merged, re-trained", "90.50", "200.0", "1.97x"))


def test_result_table_names_the_class_place_where_both_were_measured() -> None:
    rows = result_table(
        {"unmerged": {"top1": 9.0}, "merged": {"top1": 1.0}, "merged_official_place": {"top1": 2.0}}
    ).rows
    assert [row[0] for row in rows] == ["un-merged", "merged, official class place", "merged, exact class place"]
    assert result_table({"merged": {"top1": 1.0}}).rows[0][0] == "merged"


def test_result_table_of_nothing() -> None:
    assert result_table({}).rows == ()
    assert result_table({}).to_text() == "model\n-----"
