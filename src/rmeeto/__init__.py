"""rmeeto makes a Vision Mamba faster in minutes.

    model = rmeeto.load("runs/demo")                                    # a merged model, schedule attached
    model = rmeeto.create("vim_tiny", num_classes=100)                  # random weights
    rmeeto.attach(model, rmeeto.Schedule.constant(5, model.config.depth))
    with rmeeto.detached(model):                                        # the un-merged teacher
        ...

The verbs of the command line are functions of `rmeeto.pipeline`. Names are imported when they are
first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rmeeto.errors import RmeetoError
    from rmeeto.hub import load
    from rmeeto.models import adopt, create, release
    from rmeeto.reduction import Settings, attach, detach, detached, trace
    from rmeeto.schedule import Schedule
    from rmeeto.tokens import TokenMap, Tokens

_HOMES = {
    "RmeetoError": "rmeeto.errors",
    "Schedule": "rmeeto.schedule",
    "Settings": "rmeeto.reduction",
    "TokenMap": "rmeeto.tokens",
    "Tokens": "rmeeto.tokens",
    "adopt": "rmeeto.models",
    "attach": "rmeeto.reduction",
    "create": "rmeeto.models",
    "detach": "rmeeto.reduction",
    "detached": "rmeeto.reduction",
    "load": "rmeeto.hub",
    "release": "rmeeto.models",
    "trace": "rmeeto.reduction",
}

__all__ = [
    "RmeetoError",
    "Schedule",
    "Settings",
    "TokenMap",
    "Tokens",
    "__version__",
    "adopt",
    "attach",
    "create",
    "detach",
    "detached",
    "load",
    "release",
    "trace",
]

__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
