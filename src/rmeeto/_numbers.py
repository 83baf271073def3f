"""Which values are numbers of something."""

from __future__ import annotations

from numbers import Integral


def is_whole(value: object) -> bool:
    """Whether it counts something: an integer of any library, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)
