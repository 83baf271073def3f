"""`demo`: the main job on what the package brings, cut down to a few images."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

import rmeeto
from rmeeto import pipeline
from rmeeto.errors import OutputError
from rmeeto.pipeline import demonstration, retraining
from rmeeto.pipeline.watch import Unwatched
from rmeeto.records import read_json, write_json
from rmeeto.reduction import attached
from rmeeto.report.words import verdict

from .conftest import digests


class Told(Unwatched):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of training, some images of evaluation, one timed pass, no charts."""
    monkeypatch.setattr(demonstration, "QUICK", {"train": 8, "val": 10, "epochs": 1, "repeats": 1})
    monkeypatch.setattr(demonstration, "RECIPE", dataclasses.replace(demonstration.RECIPE, batch_size=8))
    monkeypatch.setattr(demonstration, "SPEED", dataclasses.replace(demonstration.SPEED, speed_batch=1, speed_warmup=0))
    for name in ("write_charts", "write_report", "picture_tokens"):
        monkeypatch.setattr(retraining, name, lambda *_arguments, **_named: None)


@pytest.mark.usefixtures("_few")
def test_the_whole_job(trained: Path, tmp_path: Path) -> None:
    """In the folder of an earlier demo, which it replaces."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    write_json(tmp_path / demonstration.MARK, {"kind": "demo"})
    told = Told()
    result = pipeline.demo(tmp_path, quick=True, watch=told)
    assert read_json(tmp_path / "result.json")["kind"] == result["kind"] == "result"
    assert result["token_reduction"] > 1 / 3
    tokens = [result[row]["tokens"] for row in ("unmerged", "merged", "merged_official_place", "retrained")]
    assert tokens[0] == 197
    assert len(set(tokens[1:])) == 1
    assert result["images"] == {"train": 8, "validation": 10}
    assert result["note"] == "A quick run: accuracies on 10 images mean little."
    assert verdict(result).endswith(result["note"])
    assert told.lines[0].startswith("vim_nano on 8 training and 10 test images of Fashion-MNIST; ")
    found = attached(rmeeto.load(tmp_path))
    assert found is not None
    assert list(found[0].removals) == result["schedule"]


def test_a_folder_that_is_no_demo_stays_as_it_is(trained: Path) -> None:
    before = digests(trained)
    with pytest.raises(OutputError, match="holds something else than a demo; name an empty folder"):
        pipeline.demo(trained, quick=True)
    assert digests(trained) == before


@pytest.mark.parametrize("place", ["file", "file/demo"])
def test_no_place_for_results(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"is a file|Not a directory"):
        pipeline.demo(tmp_path / place, quick=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_demo_takes_at_most_four_minutes_of_re_training() -> None:
    assert demonstration.RECIPE.time_limit is not None
    assert demonstration.RECIPE.time_limit <= 240
