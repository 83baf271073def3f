"""Schedules: where tokens leave, how many remain, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmeeto.errors import ScheduleError
from rmeeto.schedule import Schedule, removable

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


def merging_blocks(schedule):
    """Blocks *before* which tokens leave, as the paper counts."""
    return [block + 1 for block, removal in enumerate(schedule.removals) if removal]


@pytest.mark.parametrize(
    ("depth", "every", "phase", "blocks"),
    [
        (24, 2, "even", list(range(2, 24, 2))),
        (24, 2, "odd", list(range(1, 24, 2))),
        (8, 3, "even", [3, 6]),
        (8, 3, "odd", [2, 5]),
        (8, 1, "even", [1, 2, 3, 4, 5, 6, 7]),
        (8, 1, "odd", [1, 2, 3, 4, 5, 6, 7]),
        (4, 9, "even", []),
        (1, 2, "even", []),
    ],
)
def test_constant_merges_before_the_published_blocks(depth, every, phase, blocks):
    schedule = Schedule.constant(3, depth, every=every, phase=phase)
    assert merging_blocks(schedule) == blocks
    assert schedule.depth == depth
    assert schedule.merges == len(blocks)


@pytest.mark.parametrize(
    ("r", "final", "ratio"),
    [(0, 197, 0.0), (5, 142, 0.1396), (8, 109, 0.2234), (11, 76, 0.3071), (15, 32, 0.4188), (20, 6, 0.5398)],
)
def test_published_lengths_and_token_reduction_of_24_blocks(r, final, ratio):
    schedule = Schedule.constant(r, 24)
    assert schedule.final_length(197) == final
    assert schedule.reduction(197) == pytest.approx(ratio, abs=5e-5)


def test_published_video_length():
    assert Schedule.constant(88, 24).final_length(1569) == 1569 - 11 * 88


def test_lengths_halve_at_most():
    schedule = Schedule.constant(40, 8)
    assert schedule.lengths(50) == (50, 50, 26, 26, 14, 14, 8, 8)
    assert schedule.clamped(50).removals == (0, 24, 0, 12, 0, 6, 0, 0)
    assert schedule.final_length(50) == 8


@pytest.mark.parametrize(
    ("n", "r", "protected", "removed"),
    [(10, 3, 1, 3), (10, 9, 1, 4), (3, 5, 1, 1), (2, 1, 1, 0), (1, 1, 1, 0), (10, 9, 4, 3), (2, 5, 4, 0), (9, 9, 0, 4)],
)
def test_one_merge_takes_half_of_the_unprotected_at_most(n, r, protected, removed):
    assert removable(n, r, protected) == removed


def test_a_removal_after_the_last_block_counts():
    schedule = Schedule.of([0, 0, 4])
    assert schedule.lengths(20) == (20, 20, 20)
    assert schedule.final_length(20) == 16


def test_none_removes_nothing():
    assert Schedule.none(3) == Schedule.of([0, 0, 0])
    assert Schedule.none(3).reduction(10) == 0.0


@pytest.mark.parametrize("tokens", [0, -1, 1.5, None])
def test_a_reduction_is_of_tokens(tokens):
    with pytest.raises(ScheduleError, match=rf"tokens {tokens} is not a model's number of tokens; give an integer"):
        Schedule.none(3).reduction(tokens)


@given(
    tokens=st.integers(4, 400),
    protected=st.integers(0, 3),
    depth=st.integers(2, 30),
    every=st.integers(1, 4),
    phase=st.sampled_from(["even", "odd"]),
    share=st.floats(0, 1),
)
@PROPERTY
def test_ending_at_ends_there_with_equal_steps(tokens, protected, depth, every, phase, share):
    where = {"every": every, "phase": phase}
    least = Schedule.constant(tokens, depth, **where).final_length(tokens, protected=protected)
    final = least + round(share * (tokens - least))
    schedule = Schedule.ending_at(final, tokens, depth, **where, protected=protected)
    assert schedule.final_length(tokens, protected=protected) == final
    schedule.require_fit(tokens, depth, protected=protected)
    used = [removal for removal in schedule.removals if removal]
    assert used == sorted(used, reverse=True)
    lengths = schedule.lengths(tokens, protected=protected)
    for block, removal in enumerate(schedule.removals):
        # Smaller than the largest by more than one only where the halving limit holds.
        if removal and removal < max(used) - 1:
            assert removal == (lengths[block] - protected) // 2


def test_ending_at_spreads_evenly():
    assert Schedule.ending_at(142, 197, 24) == Schedule.constant(5, 24)
    assert Schedule.ending_at(10, 20, 8).removals == (0, 4, 0, 3, 0, 3, 0, 0)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: Schedule(()), "empty"),
        (lambda: Schedule.of([0, -1]), "-1"),
        (lambda: Schedule.of([0, 1.5]), "1.5"),
        (lambda: Schedule.of([True]), "True"),
        (lambda: Schedule.of(["3"]), "'3'"),
        (lambda: Schedule.constant(-2, 4), "-2"),
        (lambda: Schedule.constant(1, 0), "depth 0"),
        (lambda: Schedule.constant(1, 4, every=0), "every 0"),
        (lambda: Schedule.constant(1, 4, phase="late"), "late"),
        (lambda: Schedule.ending_at(0, 10, 4), "final length 0"),
        (lambda: Schedule.ending_at(11, 10, 4), "final length 11"),
        (lambda: Schedule.ending_at(2, 100, 4), "51 tokens"),
        (lambda: Schedule.ending_at(5, 10, 4, every=9), "10 tokens"),
        (lambda: Schedule.none(3).require_fit(10, 4), "3 entries"),
        (lambda: Schedule.constant(6, 4).require_fit(12, 4), "at most 5"),
        (lambda: Schedule.from_json("{"), "not JSON"),
        (lambda: Schedule.from_json('{"r": 1}'), "not a list"),
        (lambda: Schedule.from_json("[1, -2]"), "-2"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(build, word):
    with pytest.raises(ScheduleError) as caught:
        build()
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_and_back():
    schedule = Schedule.constant(5, 24)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert hash(schedule) == hash(Schedule.constant(5, 24))


def test_removals_of_other_kinds_become_integers():
    schedule = Schedule(list(np.array([0, 2])))
    assert schedule == Schedule((0, 2))
    assert hash(schedule) == hash(Schedule((0, 2)))
    assert [type(removal) for removal in schedule.removals] == [int, int]


@pytest.mark.parametrize("final", [7.5, "7", True, None])
def test_a_final_length_that_counts_nothing_is_refused(final):
    with pytest.raises(ScheduleError, match=r"is not a number of tokens; give an integer"):
        Schedule.ending_at(final, 10, 4)
