"""Whether modules may be computed without being called: nobody has put anything of his own in the way."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a module means just what its class says."""
    own = module.__dict__
    return type(module) is kind and not (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
    )


def is_watched() -> bool:
    """Whether somebody watches the calls of all modules."""
    return _has_any_global_hook()
