"""rmeeto makes a Vision Mamba faster in minutes.

    model = rmeeto.load("runs/demo")                                    # a merged model, schedule attached
    model = rmeeto.load("vim_tiny")                                     # published weights, downloaded
    model = rmeeto.from_pretrained("me/vim-photos-fast")                # a model of the Hugging Face hub
    model = rmeeto.create("vim_tiny", num_classes=100)                  # random weights
    rmeeto.attach(model, rmeeto.Schedule.constant(5, model.config.depth))
    with rmeeto.detached(model):                                        # the un-merged teacher
        ...
    rmeeto.save(model, "models/mine")                                   # comes back merged

The verbs of the command line are functions of `rmeeto.pipeline`. Names are imported when they are
first used, so that importing the package costs nothing. Where timm is used beside it, in any order,
`timm.create_model("vim_tiny_patch16_224")` knows the networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily
from rmeeto._timm_hook import register_with_timm

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rmeeto.errors import RmeetoError
    from rmeeto.hub import Hub, from_pretrained, load, save
    from rmeeto.models import adopt, create, release
    from rmeeto.pipeline import push_to_hub
    from rmeeto.reduction import Settings, attach, detach, detached, trace
    from rmeeto.schedule import Schedule
    from rmeeto.tokens import TokenMap, Tokens

_HOMES = {
    "Hub": "rmeeto.hub",
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
    "from_pretrained": "rmeeto.hub",
    "load": "rmeeto.hub",
    "push_to_hub": "rmeeto.pipeline",
    "release": "rmeeto.models",
    "save": "rmeeto.hub",
    "trace": "rmeeto.reduction",
}

__all__ = [
    "Hub",
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
    "from_pretrained",
    "load",
    "push_to_hub",
    "release",
    "save",
    "trace",
]

__getattr__ = lazily(__name__, _HOMES)

register_with_timm()


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
