"""Token reduction between the blocks of a model: R-MeeTo's merging (arXiv 2412.12496).

A `Reducer` stands in the slot after a block. It never meets the block: it reads `Tokens` and returns fewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily

if TYPE_CHECKING:
    from rmeeto.reduction.attaching import attach, attached, detach, detached
    from rmeeto.reduction.features import feature_width
    from rmeeto.reduction.reducer import Reducer
    from rmeeto.reduction.settings import Settings
    from rmeeto.reduction.tracing import Trace, trace

_HOMES = {
    "Reducer": "rmeeto.reduction.reducer",
    "Settings": "rmeeto.reduction.settings",
    "Trace": "rmeeto.reduction.tracing",
    "attach": "rmeeto.reduction.attaching",
    "attached": "rmeeto.reduction.attaching",
    "detach": "rmeeto.reduction.attaching",
    "detached": "rmeeto.reduction.attaching",
    "feature_width": "rmeeto.reduction.features",
    "trace": "rmeeto.reduction.tracing",
}

__all__ = [
    "Reducer",
    "Settings",
    "Trace",
    "attach",
    "attached",
    "detach",
    "detached",
    "feature_width",
    "trace",
]

__getattr__ = lazily(__name__, _HOMES)
