"""Put reducers into a model's slots and take them out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from rmeeto.errors import ScheduleError, SettingsError
from rmeeto.reduction.reducer import Reducer
from rmeeto.reduction.settings import Settings
from rmeeto.schedule import Schedule
from rmeeto.tokens import Slotted, is_slotted

M = TypeVar("M")


def attach(model: M, schedule: Schedule, settings: Settings | None = None) -> M:
    """Let tokens leave after each block as the schedule says, in place; an earlier attachment is replaced.

    Parameters, buffers and their names stay as they are.

    Args:
        model: any model with a slot after each block.
        schedule: one removal per block; a removal of more than half of the tokens there takes half
            (`Schedule.require_fit` refuses it instead).
        settings: how tokens are matched and merged; None means `Settings()`.

    Returns:
        the same model.

    Raises:
        ScheduleError: the schedule has another depth than the model, or is none.
        SettingsError: the model has no slots, or the official class place is asked for several protected tokens.
    """
    settings = settings or Settings()
    slots = _slots(model)
    if not isinstance(schedule, Schedule):
        raise ScheduleError(f"{schedule!r} is no schedule; give rmeeto.Schedule.of(...) of one number per block")
    if schedule.depth != len(slots):
        raise ScheduleError(
            f"the schedule has {schedule.depth} entries for a model of {len(slots)} blocks; give {len(slots)}"
        )
    if settings.class_place == "official" and (count := _slotted(model).num_protected) != 1:
        raise SettingsError(
            f"class_place='official' is a rule for one protected token and this model has {count}; "
            "use class_place='exact'"
        )
    for block, removal in enumerate(schedule.removals):
        slots[block] = Reducer(removal, settings, block)
    return model


def detach(model: M) -> M:
    """Empty the slots: the un-merged model, in place. Without an attachment nothing happens."""
    slots = _slots(model)
    for block in range(len(slots)):
        slots[block] = nn.Identity()
    return model


@contextmanager
def detached(model: M) -> Iterator[M]:
    """The un-merged model inside the `with`, the attachment as it was afterwards."""
    slots = _slots(model)
    before = list(slots)
    try:
        yield detach(model)
    finally:
        for block, slot in enumerate(before):
            slots[block] = slot


def attached(model: object) -> tuple[Schedule, Settings] | None:
    """The schedule and settings that were attached, or None."""
    reducers = [slot for slot in _slots(model) if isinstance(slot, Reducer)]
    if not reducers:
        return None
    return Schedule(tuple(reducer.removal for reducer in reducers)), reducers[0].settings


def _slotted(model: object) -> Slotted:
    if not is_slotted(model):
        raise SettingsError(
            f"{type(model).__name__} has no slots between its blocks; give the model itself, not a wrapper of it, "
            "and a timm ViT after rmeeto.adopt"
        )
    return model


def _slots(model: object) -> nn.ModuleList:
    return _slotted(model).slots
