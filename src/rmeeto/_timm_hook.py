"""`timm.create_model` knows our networks once rmeeto is imported, in whatever order, without importing timm for it.

Where timm is there, they are registered at once; otherwise when timm's import has ended. For that a finder waits in
`sys.meta_path` (PEP 451). It looks up `timm` as Python would, lends the spec a loader that registers after the real
one has run, and is gone then: the module, its spec and its loader are the ordinary ones.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_ENTRIES = "rmeeto.models.timm_entries"


def register_with_timm() -> None:
    """Register our networks with timm, now or as soon as it is imported. Called again, nothing happens."""
    if sys.modules.get("timm") is not None:
        importlib.import_module("timm")  # waits where another thread is importing it
        importlib.import_module(_ENTRIES)
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm:
    """Finds timm as the other finders do. Finding alone, which only asks whether it is there, changes nothing."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "timm":
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec: Any = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Registering(spec.loader, self)
                return spec
        return None


class _Registering:
    """Stands for a loader until it has loaded."""

    def __init__(self, loader: Any, finder: _AfterTimm) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        importlib.import_module(_ENTRIES)
