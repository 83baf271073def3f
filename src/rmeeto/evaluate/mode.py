"""For a while: evaluation mode, whatever was called; another number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(model: Callable[..., Any]) -> Iterator[None]:
    """Inference mode, and a module's parts in eval mode; afterwards each part is in the mode it was in."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.inference_mode():
            yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


@contextmanager
def on_threads(number: int | None) -> Iterator[None]:
    """So many of torch's threads, None: as many as there are; afterwards as many as before."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
