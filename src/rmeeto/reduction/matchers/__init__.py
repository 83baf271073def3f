"""The ways to choose which tokens leave and whom they join, by name; a file each.

A matcher is a function of a `Sight` (what can be seen of the tokens) and r that answers a `Plan`. The table holds a
matcher, or the module whose function `plan` it is; so that the names are known without torch, modules are imported when
they are used. A matcher of your own is one line: `MATCHERS["mine"] = my_plan`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmeeto.reduction.plan import Plan, Sight

    Matcher = Callable[[Sight, int], Plan]
else:
    Matcher = Callable[[Any, int], Any]

MATCHERS: dict[str, str | Matcher] = {
    "bipartite": "rmeeto.reduction.matchers.bipartite",
    "adjacent": "rmeeto.reduction.matchers.adjacent",
    "importance": "rmeeto.reduction.matchers.importance",
    "class_token": "rmeeto.reduction.matchers.class_token",
    "random": "rmeeto.reduction.matchers.random",
}


def matcher_of(name: str) -> Matcher:
    """The matcher of that name."""
    found = MATCHERS[name]
    if not isinstance(found, str):
        return found
    matcher: Matcher = importlib.import_module(found).plan
    return matcher
