"""Token reduction between the blocks of a model: R-MeeTo's merging (arXiv 2412.12496).

A `Reducer` stands in the slot after a block. It never meets the block: it reads `Tokens` and returns fewer.
"""

from rmeeto.reduction.attach import attach, attached, detach, detached
from rmeeto.reduction.features import feature_width
from rmeeto.reduction.reducer import Reducer
from rmeeto.reduction.settings import Settings
from rmeeto.reduction.trace import Trace, trace

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
