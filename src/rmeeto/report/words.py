"""Figures in words: the verdict of a result, and the spelling of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmeeto.report.evidence import Stage, mapping, number, stage_of

# The goal of a re-training, in points of top-1: a greater loss is said.
_GOAL = 1.0
# What rounds to nothing when points are told to a tenth.
_SAME = 0.05


def verdict(result: Mapping[str, Any]) -> str:
    """What a result says, in one to three sentences, whichever way it went.

    Example:
        2.1x faster at 0.4 points less accuracy; re-trained in 3 min 40 s on 2 cores. Merging alone cost 8.3 points;
        re-training won back 7.9 of them.
    """
    return " ".join(filter(None, (headline(result), story(result))))


def headline(result: Mapping[str, Any]) -> str:
    """The verdict's first sentence: speed, accuracy, time."""
    parts = [_speed_words(result), _accuracy_words(result)]
    said = " at ".join(part for part in parts if part)
    if not said:
        return "Speed and accuracy were not measured."
    seconds = number(result, "retrain_seconds")
    if seconds is not None and stage_of(result, "retrained"):
        said += f"; re-trained in {duration(seconds)}{_where(result)}"
    return said[0].upper() + said[1:] + "."


def story(result: Mapping[str, Any]) -> str:
    """The verdict's other sentences: what merging cost, what re-training did, a loss above the goal, the run's note."""
    lost = points_lost(result)
    missed = f"The loss is more than {points(_GOAL)}." if lost is not None and lost > _GOAL else ""
    note = str(result.get("note") or "")
    return " ".join(filter(None, (_merging_and_training(result), missed, note)))


def final_stage(result: Mapping[str, Any]) -> Stage | None:
    """The state that the result is about: re-trained, or merged where nothing was re-trained."""
    return stage_of(result, "retrained") or stage_of(result, "merged") or stage_of(result, "merged_official_place")


def points_lost(result: Mapping[str, Any], key: str | None = None) -> float | None:
    """Points of top-1 between the un-merged model and another state; negative for a gain.

    Args:
        result: the result.
        key: the other state; None means the final one.
    """
    whole, other = stage_of(result, "unmerged"), stage_of(result, key) if key else final_stage(result)
    before = whole.number("top1") if whole else None
    after = other.number("top1") if other else None
    return None if before is None or after is None else before - after


def speedup(result: Mapping[str, Any]) -> float | None:
    """Measured speed of the final state over the un-merged model's, 1 being as fast."""
    value = number(result, "speedup")
    return value if value is not None and value > 0 else None


def spread(result: Mapping[str, Any]) -> tuple[float, float] | None:
    """10th and 90th percentile of the measured speed-up."""
    low, high = number(result, "speedup_low"), number(result, "speedup_high")
    return None if low is None or high is None else (low, high)


def duration(seconds: float) -> str:
    """220 -> "3 min 40 s"."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def times(ratio: float) -> str:
    """2.134 -> "2.1x"; near 1 a second digit is needed to see anything."""
    return f"{ratio:.2f}x" if ratio < 1.5 else f"{ratio:.1f}x"


def points(value: float) -> str:
    """0.43 -> "0.4 points"."""
    return f"{value:.1f} point{'' if f'{value:.1f}' == '1.0' else 's'}"


def counted(count: float, thing: str) -> str:
    """(2, "core") -> "2 cores"."""
    return f"{count:,.0f} {thing}{'' if count == 1 else 's'}"


def measured_on(setting: Mapping[str, Any]) -> str:
    """Where speed was measured: "2 threads", "cuda:0, each as one CUDA graph"; "" where nothing tells."""
    device, threads = str(setting.get("device") or "cpu"), number(setting, "threads")
    if device.startswith("cpu"):
        return counted(threads, "thread") if threads else ""
    return f"{device}, each as one CUDA graph" if setting.get("cuda_graph") else f"{device}, called from Python"


def figure(value: float | None, digits: int = 1) -> str:
    """A number for a table; a dash for one that was not measured."""
    return "–" if value is None else f"{value:,.{digits}f}"  # noqa: RUF001


def _speed_words(result: Mapping[str, Any]) -> str:
    ratio, between = speedup(result), spread(result)
    if ratio is None:
        return ""
    if between is not None and between[0] <= 1.0 <= between[1]:
        return f"no faster within the spread of the measurement ({ratio:.2f}x, {between[0]:.2f} to {between[1]:.2f})"
    if ratio >= 1.005:
        return f"{times(ratio)} faster"
    return "as fast as before" if ratio > 0.995 else f"slower ({ratio:.2f}x the un-merged speed)"


def _accuracy_words(result: Mapping[str, Any]) -> str:
    lost = points_lost(result)
    if lost is None:
        return ""
    if abs(lost) < _SAME:
        return "the same accuracy"
    return f"{points(abs(lost))} {'less' if lost > 0 else 'more'} accuracy"


def _where(result: Mapping[str, Any]) -> str:
    """On what it was trained, as far as the result tells."""
    environment, setting = mapping(result.get("environment")), mapping(result.get("speed_setting"))
    device, gpus = str(setting.get("device") or "cpu"), environment.get("gpus")
    if not device.startswith("cpu"):
        return f" on {gpus[0] if isinstance(gpus, list) and gpus else device}"
    cores = number(environment, "cores")
    threads = number(environment, "threads") or number(setting, "threads") or cores
    if not threads:
        return ""
    return f" on {counted(threads, 'core' if cores == threads else 'thread')}"


def _merging_and_training(result: Mapping[str, Any]) -> str:
    """What merging cost, with either class place, and what re-training did about it."""
    merged, lost = points_lost(result, "merged"), points_lost(result)
    if merged is None or lost is None or not stage_of(result, "retrained"):
        return ""
    cost = f"cost {points(merged)}" if merged >= _SAME else "cost nothing"
    official = points_lost(result, "merged_official_place")
    if official is not None and official - merged >= _SAME:
        cost += f" ({official:.1f} with the class token at the published place)"
    return f"Merging alone {cost}; re-training {_change(merged, lost)}."


def _change(merged: float, lost: float) -> str:
    """What became of the points that merging cost."""
    won = merged - lost
    if abs(won) < _SAME:
        return "changed nothing"
    if won < 0:
        return f"lost another {points(-won)}"
    if merged < _SAME:
        return f"gained {points(won)}"
    if abs(lost) < _SAME:
        return "won all of it back"
    if lost < 0:
        return f"won all of it back and {points(-lost)} more"
    return f"won back {won:.1f} of them"
