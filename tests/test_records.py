"""Records are JSON in and out, and files are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rmeeto import records
from rmeeto.errors import OutputError, RmeetoError
from rmeeto.records import Accuracy, Cost, Epoch, MergedImage, Record, Run, Speed

RECORDS = [
    Accuracy(top1=91.25, top5=99.5, loss=0.3, images=2000, seconds=12.5),
    Cost(gflops=1.5, convention="multiply-adds", by_operator={"aten.mm": 1.0, "scan": 0.5}),
    Speed(120.0, 118.0, 121.0, (0.1, 0.2), 16, 2, 5, "cpu", "float32", "unmerged", 2.1, 2.0, 2.2),
    Epoch(epoch=1, steps=30, loss=1.2, lr=1e-5, images_per_second=88.0, seconds=30.0, top1=90.0),
    Run("retrain", ({"epoch": 1, "loss": 2.0},), 1, 90.0, {"betas": [0.9, 0.999]}, 100.0, 9000, {"cores": 2}),
    MergedImage((2, 2), (0, 1, 1, -1), (2,), 3, "bag", None),
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.kind)
def test_round_trip_through_a_file(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    record.write(path)
    assert json.loads(path.read_text())["kind"] == record.kind
    assert type(record).read(path) == record


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"kind": "cost"}, "'cost'"),
        ({"kind": "accuracy", "top1": 1.0, "colour": "red"}, "colour"),
        ({"top1": 1.0}, "incomplete"),
    ],
)
def test_from_dict_is_strict(values: dict[str, Any], word: str) -> None:
    with pytest.raises(RmeetoError, match=word):
        Accuracy.from_dict(values)


def test_from_dict_leaves_its_argument_alone() -> None:
    values = RECORDS[0].to_dict()
    before = dict(values)
    Accuracy.from_dict(values)
    assert values == before


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "cannot read"), (b"", "not JSON"), (b"{", "not JSON"), (b"\xff", "not JSON"), (b"[1]", "list")],
)
def test_files_that_hold_no_record(content: bytes | None, word: str, tmp_path: Path) -> None:
    path = tmp_path / "accuracy.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RmeetoError, match=word) as caught:
        Accuracy.read(path)
    assert "\n" not in str(caught.value)
    assert "accuracy.json" in str(caught.value)


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    values = {"a": float("nan"), "b": [float("inf"), 1.0, ("x", float("-inf"))], "c": {"d": float("nan")}, "e": 0}
    records.write_json(tmp_path / "odd.json", values)
    assert records.read_json(tmp_path / "odd.json") == {
        "a": None,
        "b": [None, 1.0, ["x", None]],
        "c": {"d": None},
        "e": 0,
    }


def test_older_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for text in ("old", "new"):
        records.write_text(tmp_path / "note.txt", text)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"note.txt": "new"}


def test_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    records.write_text(tmp_path / "note.txt", "old")
    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OutputError, match=r"note\.txt: No space left on device; free some space"):
        records.write_text(tmp_path / "note.txt", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"note.txt": "old"}


def test_interrupt_leaves_the_older_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    records.write_together({first: b"1", second: b"1"})
    real = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target == second:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            records.write_together({first: b"2", second: b"2"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"first": b"1", "second": b"1"}


@pytest.mark.parametrize("place", ["file/below", "folder"])
def test_places_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="--output"):
        records.write_bytes(tmp_path / place, b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_names_that_are_no_utf_8_are_written_and_read(tmp_path: Path) -> None:
    """As a file system hands out a name of an old archive."""
    name = os.fsdecode(b"caf\xe9")
    records.write_json(tmp_path / "a.json", {name: [name]})
    assert records.read_json(tmp_path / "a.json") == {name: [name]}
    records.write_text(tmp_path / "page.html", f"<p>{name}</p>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>caf\\udce9</p>"
