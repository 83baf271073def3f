"""What a user asks for is checked before anything is opened."""

from __future__ import annotations

import pytest

from rmeeto.errors import ScheduleError, SettingsError
from rmeeto.pipeline import ModelSpec, ScheduleSpec, SpeedSpec


@pytest.mark.parametrize(
    ("spec", "removals"),
    [
        (ScheduleSpec(r=3), (0, 3, 0, 3, 0, 0)),
        (ScheduleSpec(r=3, phase="odd"), (3, 0, 3, 0, 3, 0)),
        (ScheduleSpec(r=3, every=3), (0, 0, 3, 0, 0, 0)),
        (ScheduleSpec(r=0, final=12), (0, 3, 0, 2, 0, 0)),
        (ScheduleSpec(r=99, final=12, removals="[1, 0, 0, 0, 0, 2]"), (1, 0, 0, 0, 0, 2)),
    ],
    ids=["even", "odd", "every third", "final overrides r", "removals override all"],
)
def test_schedules(spec: ScheduleSpec, removals: tuple[int, ...]) -> None:
    assert spec.build(17, 6).removals == removals


def test_protected_tokens_never_leave() -> None:
    with pytest.raises(ScheduleError, match=r"final length 3 cannot be reached.*ask for 4 or more"):
        ScheduleSpec(final=3, every=1).build(9, 4, protected=3)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (ScheduleSpec(r=-1), r"r = -1 is negative.*1 or more"),
        (ScheduleSpec(r=9), r"r = 9 after block 1 is too large: 17 tokens.*use r <= 8"),
        (
            ScheduleSpec(),
            r"r = 11 after block 1 is too large: .* \(r is 11 where --r or another schedule is not given\)",
        ),
        (ScheduleSpec(r=0), r"removes nothing; give r of 1 or more"),
        (ScheduleSpec(r=1, every=6), r"removes nothing.*less than 6 blocks apart"),
        (ScheduleSpec(every=0), r"every 0 must"),
        (ScheduleSpec(final=18), r"final length 18 is outside 1\.\.17"),
        (ScheduleSpec(final=17), r"removes nothing"),
        (ScheduleSpec(final=2), r"final length 2 cannot be reached.*ask for 5 or more"),
        (ScheduleSpec(removals="[1, 2]"), r"2 entries for a model of 6 blocks; give 6"),
        (ScheduleSpec(removals="r=5"), r"'r=5' is not JSON.*write a list"),
        (ScheduleSpec(removals="5"), r"'5' is not a list"),
        (ScheduleSpec(removals="[0, 0, 0, 0, 0, -1]"), r"removal -1 after block 5"),
        (ScheduleSpec(removals="[0, 0, 0, 0, 0, 0]"), r"removes nothing"),
    ],
)
def test_schedules_that_cannot_be(spec: ScheduleSpec, told: str) -> None:
    with pytest.raises(ScheduleError, match=told):
        spec.build(17, 6)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"speed_batch": 0}, "speed_batch = 0 measures nothing"),
        ({"speed_repeats": 0}, "speed_repeats = 0 measures nothing"),
        ({"speed_warmup": -1}, "speed_warmup = -1 is negative"),
        ({"threads": 0}, "threads = 0 cannot compute"),
    ],
)
def test_speeds_that_cannot_be(values: dict[str, int], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        SpeedSpec(**values)


def test_only_given_sizes_are_sizes() -> None:
    assert ModelSpec(weights="w.pth").sizes() == {}
    assert ModelSpec(img_size=8, depth=0).sizes() == {"img_size": 8, "depth": 0}
