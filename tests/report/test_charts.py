"""Charts are drawn from whatever evidence there is, the same way each time."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from PIL import Image

from rmeeto.report import CHARTS, Evidence, charts, write_charts
from rmeeto.report.theme import LIGHT, PAGE_DARK

from .samples import result, run

FULL = Evidence(result(), run(), steps=({"epoch": 1, "step": 5, "loss": 1.0}, {"epoch": 2, "step": 15, "loss": 0.5}))
BY_NAME = {chart.name: chart for chart in CHARTS}


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_png_is_legible_and_not_empty(chart: Any) -> None:
    data = chart.render(FULL)
    with Image.open(io.BytesIO(data)) as image:
        assert image.width >= 800
        pixels = image.convert("RGB")
    assert pixels.getpixel((0, 0)) == (255, 255, 255)
    assert len(pixels.getcolors(1 << 20)) > 50


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_same_evidence_gives_the_same_bytes(chart: Any) -> None:
    dark = chart.render(FULL, PAGE_DARK, "svg")
    assert dark == chart.render(FULL, PAGE_DARK, "svg")
    assert PAGE_DARK.text.encode() in dark or PAGE_DARK.muted.encode() in dark
    assert LIGHT.text.encode() not in dark


def test_the_readers_settings_of_matplotlib_stay_and_do_not_matter() -> None:
    chart = BY_NAME["tokens"]
    plain = chart.render(FULL)
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30}):
        before = dict(mpl.rcParams)
        assert chart.render(FULL) == plain
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("accuracy_speed", Evidence({}, {})),
        ("accuracy_speed", Evidence(result(merged=None, merged_official_place=None, retrained=None), {})),
        ("tokens", Evidence({}, {})),
        ("tokens", Evidence(result(lengths=[]), {})),
        ("tokens", Evidence(result(lengths=[0, 0]), {})),
        ("tokens", Evidence(result(lengths=["a", 3]), {})),
        ("tokens", Evidence(result(lengths=7), {})),
        ("training", Evidence(result(), {})),
        ("training", Evidence(result(), run(epochs=[]))),
        ("training", Evidence(result(), run(epochs="three"))),
        ("training", Evidence({}, run(epochs=[{"epoch": 1}]))),
        ("training", Evidence(result(), run(epochs=[{"top1": float("nan"), "seconds": 0}]))),
        ("speed", Evidence({}, {})),
        ("speed", Evidence({"unmerged": {"images_per_second": 0}}, {})),
    ],
)
def test_nothing_to_show(name: str, evidence: Evidence) -> None:
    assert BY_NAME[name].render(evidence) is None


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("accuracy_speed", Evidence(result(unmerged=result()["retrained"], merged=result()["retrained"]), {})),
        ("accuracy_speed", Evidence(result(reduction={"class_place": "$x^{"}), {})),
        ("accuracy_speed", Evidence(result(merged={"top1": 0.0, "images_per_second": 0.0}), {})),
        ("tokens", Evidence(result(lengths=[197], token_reduction=None, retrained=None, merged=None), {})),
        ("tokens", Evidence(result(lengths=[5.0] * 64), {})),
        ("training", Evidence(result(), run(epochs=[{"loss": 2.5, "top1": 24.0, "seconds": 20.0}]))),
        ("training", Evidence({}, run(epochs=[{"loss": 1.0}, {"loss": 2.0}]))),
        ("training", Evidence(result(), run(epochs=[{"loss": 1.0, "seconds": 9e4, "steps": 0}] * 40))),
        ("training", Evidence(result(), run(verb="pretrain"), steps=({"loss": 1}, {"loss": 2, "epoch": 99}))),
        ("speed", Evidence({"unmerged": {"images_per_second": 1e6}}, {})),
        ("speed", Evidence({"merged": {"images_per_second": 5, "images_per_second_low": 6}}, {})),
    ],
)
def test_odd_evidence_is_drawn(name: str, evidence: Evidence) -> None:
    assert BY_NAME[name].render(evidence) is not None


@pytest.mark.parametrize(
    ("places", "heights"),
    [
        ([(0, 9.0), (0, 5.0)], [9.0, 5.0]),
        ([(0, 9.0), (0, 8.5), (0, 8.0)], [9.0, 8.0, 7.0]),
        ([(0, 9.0), (10, 8.9)], [9.0, 8.9]),
        ([(0, 2.0), (0, 1.1), (0, 1.0)], [3.0, 2.0, 1.0]),
    ],
)
def test_labels_are_apart_and_above_the_floor(places: list[tuple[float, float]], heights: list[float]) -> None:
    assert charts._apart(places, gap=1.0, clear=5.0, floor=1.0) == heights


def test_charts_of_a_folder(tmp_path: Path) -> None:
    assert [path.name for path in write_charts(tmp_path / "charts", FULL)] == [
        "accuracy_speed.png",
        "tokens.png",
        "training.png",
        "speed.png",
    ]
    assert write_charts(tmp_path / "none", Evidence({}, {})) == []


def test_no_pyplot_is_needed() -> None:
    """A chart is drawn outside the main thread, where pyplot's windows would fail."""
    found: list[bytes | None] = []
    worker = threading.Thread(target=lambda: found.append(BY_NAME["speed"].render(FULL)))
    worker.start()
    worker.join()
    assert found[0] is not None
