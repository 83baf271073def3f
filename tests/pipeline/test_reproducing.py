"""A published table on the demo's images, run by run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rmeeto import pipeline
from rmeeto.cli.texts import reproduced_text
from rmeeto.errors import RmeetoError
from rmeeto.pipeline import reproducing

RESULT = {
    "model": "vim_nano",
    "images": {"train": 8, "validation": 4},
    **{name: {"top1": 50.0, "gflops_paper": 1.0} for name in ("unmerged", "merged", "retrained")},
    "retrain_seconds": 90.0,
    "speedup": 1.2,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be run; nothing is."""
    calls: list[dict[str, Any]] = []

    def retrain(**values: Any) -> dict[str, Any]:
        calls.append(values)
        values["output"].mkdir(parents=True)
        (values["output"] / "result.json").write_text(json.dumps(RESULT))
        return RESULT

    monkeypatch.setattr("rmeeto.pipeline.retraining.retrain", retrain)
    return calls


def test_a_table_runs_row_by_row_and_not_twice(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    result = pipeline.reproduce("vim_small_by_r", "demo", tmp_path)
    assert [call["schedule"].r for call in asked] == [5, 10, 11, 15, 20]
    finals = [call["schedule"].final for call in asked]
    assert finals[0] == 142
    assert finals[2] == 76
    assert finals == sorted(finals, reverse=True)
    assert all(call["schedule"].build(197, 12).final_length(197) == call["schedule"].final for call in asked)
    assert [row["published"]["top1"] for row in result["rows"]] == [79.9, 79.4, 79.3, 78.3, 76.5]
    assert json.loads((tmp_path / "vim_small_by_r" / "demo" / "table.json").read_text()) == result
    (tmp_path / "vim_small_by_r" / "demo" / "r_10" / "result.json").unlink()
    (tmp_path / "vim_small_by_r" / "demo" / "r_10").rmdir()
    assert pipeline.reproduce("vim_small_by_r", "demo", tmp_path) == result
    assert [call["schedule"].r for call in asked[5:]] == [10]


def test_rows_that_are_one_run_here_run_once(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    result = pipeline.reproduce("images", "demo", tmp_path)
    assert len(result["rows"]) == 6
    assert [call["schedule"].r for call in asked] == [5, 11]


def test_what_is_printed_says_that_it_is_another_model(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    text = reproduced_text(pipeline.reproduce("minutes", "demo", tmp_path))
    assert "ANOTHER MODEL AND DATA SET" in text
    assert "16.2" in text
    assert "Not in this table" in text


def test_the_full_scale_starts_from_the_official_weights(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("t_midclstok_76p1acc", "s_midclstok_80p5acc", "b_midclstok_81p9acc"):
        (tmp_path / f"vim_{name}.pth").touch()
    result = pipeline.reproduce("minutes", "full", tmp_path / "runs", data="demo", weights=tmp_path, workers=3)
    assert [call["model"].model for call in asked] == ["vim_tiny", "vim_small", "vim_base"]
    assert {(call["data"].data, call["data"].workers) for call in asked} == {("demo", 3)}
    assert {call["recipe"].epochs for call in asked} == {3}
    assert {call["settings"].class_place for call in asked} == {"official"}
    assert "as published" in reproduced_text(result)


@pytest.mark.parametrize(
    ("name", "scale", "settings", "words"),
    [
        ("table0", "demo", {}, r"table 'table0' is unknown; choose one of table1 \(images\)"),
        ("videos", "demo", {}, "is of videos"),
        ("images", "full", {}, "needs --data with ImageNet and --weights"),
        ("table1", "full", {"data": "demo", "weights": Path("gone")}, "weight file gone/vim_t_midclstok"),
        ("table1", "full", {"data": "gone/imagenet", "weights": Path()}, "data 'gone/imagenet' does not exist"),
        ("table1", "demo", {"checkpoint_every": 0}, "checkpoint_every 0 is no number of steps"),
    ],
)
def test_what_cannot_be_run(name, scale, settings, words, tmp_path: Path) -> None:
    with pytest.raises(RmeetoError, match=words):
        reproducing.reproduce(name, scale, tmp_path, **settings)
