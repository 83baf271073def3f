"""The tree of errors: one base to catch, kinds to tell apart."""

from __future__ import annotations

import inspect

import pytest

from rmeeto import errors

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_an_error_of_ours_and_a_value_error(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.RmeetoError)
    assert issubclass(kind, ValueError)
    assert kind.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stands_in_the_tree_of_the_modules_page(kind: type[Exception]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("kind", "base"), [(errors.ScheduleError, errors.SettingsError), (errors.CheckpointError, errors.WeightsError)]
)
def test_kinds_below_kinds(kind: type[Exception], base: type[Exception]) -> None:
    assert issubclass(kind, base)
