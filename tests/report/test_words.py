"""The verdict says what was measured, whichever way it went."""

from __future__ import annotations

from typing import Any

import pytest

from rmeeto.report.words import duration, figure, headline, measured_on, points, times, verdict


def _result(**changes: Any) -> dict[str, Any]:
    values = {
        "unmerged": {"top1": 91.2},
        "merged": {"top1": 82.9},
        "retrained": {"top1": 90.8},
        "speedup": 2.13,
        "speedup_low": 2.05,
        "speedup_high": 2.2,
        "retrain_seconds": 220.4,
        "environment": {"cores": 2, "threads": 2, "gpus": []},
    }
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def test_the_whole_verdict() -> None:
    assert verdict(_result()) == (
        "2.1x faster at 0.4 points less accuracy; re-trained in 3 min 40 s on 2 cores. "
        "Merging alone cost 8.3 points; re-training won back 7.9 of them."
    )


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({"speedup": 0.93, "speedup_low": 0.9, "speedup_high": 0.95}, "Slower (0.93x the un-merged speed)", "faster"),
        ({"speedup": 1.02, "speedup_low": 0.97, "speedup_high": 1.05}, "No faster within the spread", "2.1x"),
        ({"speedup": 0.98, "speedup_low": 0.97, "speedup_high": 1.05}, "No faster within the spread", "2.1x"),
        ({"speedup": 1.0, "speedup_low": None}, "As fast as before", "faster at"),
        ({"speedup": None}, "0.4 points less accuracy;", "faster"),
        ({"speedup": float("nan")}, "0.4 points less accuracy;", "nan"),
        ({"retrained": {"top1": 89.0}}, "2.2 points less accuracy", "won all"),
        ({"retrained": {"top1": 89.0}}, "The loss is more than 1.0 point.", "won all"),
        ({"retrained": {"top1": 90.2}}, "1.0 point less accuracy", "more than"),
        ({"retrained": {"top1": 91.9}}, "0.7 points more accuracy", "less"),
        ({"retrained": {"top1": 91.9}}, "won all of it back and 0.7 points more", "less"),
        ({"retrained": {"top1": 91.19}}, "at the same accuracy", "less"),
        ({"retrained": {"top1": 91.19}}, "won all of it back", "more"),
        ({"retrained": {"top1": 80.0}}, "re-training lost another 2.9 points", "won"),
        ({"retrained": {"top1": 82.9}}, "re-training changed nothing", "won"),
        ({"merged": {"top1": 91.3}}, "Merging alone cost nothing; re-training lost another 0.5 points", "won"),
        ({"merged": {"top1": 90.8}, "retrained": None}, "2.1x faster at 0.4 points less accuracy.", "re-train"),
        ({"merged_official_place": {"top1": 52.1}}, "(39.1 with the class token at the published place)", "nan"),
        ({"merged_official_place": {"top1": 85.0}}, "Merging alone cost 8.3 points;", "published"),
        ({"environment": {"cores": 64, "threads": 4}}, "on 4 threads", "64"),
        ({"environment": {"cores": 1, "threads": 1}}, "on 1 core.", "cores"),
        ({"environment": None}, "in 3 min 40 s.", " on "),
        ({"environment": {"gpus": ["NVIDIA H100"]}, "speed_setting": {"device": "cuda:0"}}, "on NVIDIA H100.", "core"),
    ],
)
def test_both_directions(changes: dict[str, Any], said: str, unsaid: str) -> None:
    text = verdict(_result(**changes))
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"device": "cpu", "threads": 2}, "2 threads"),
        ({"threads": 1}, "1 thread"),
        ({}, ""),
        ({"device": "cuda:0", "threads": 16, "cuda_graph": True}, "cuda:0, each as one CUDA graph"),
        ({"device": "cuda:0", "threads": 16}, "cuda:0, called from Python"),
    ],
)
def test_where_speed_was_measured(setting: dict[str, Any], said: str) -> None:
    assert measured_on(setting) == said


@pytest.mark.parametrize(
    "result", [{}, {"unmerged": None, "retrained": []}, {"speedup": "2", "unmerged": {"top1": "x"}}]
)
def test_nothing_measured(result: dict[str, Any]) -> None:
    assert verdict(result) == headline(result) == "Speed and accuracy were not measured."


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0.0 s"), (3.25, "3.2 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (220.4, "3 min 40 s"), (3725, "1 h 2 min")],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_spelling_of_figures() -> None:
    assert (times(1.034), times(2.134)) == ("1.03x", "2.1x")
    assert (points(0.96), points(1.0), points(0.4)) == ("1.0 point", "1.0 point", "0.4 points")
    assert (figure(None), figure(1234.56), figure(0.5, 3)) == ("\u2013", "1,234.6", "0.500")
