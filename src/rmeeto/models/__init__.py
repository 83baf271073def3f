"""Un-merged networks, whole without any reduction. Their sizes and origins are known without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily

if TYPE_CHECKING:
    from rmeeto.models.configs import VimConfig
    from rmeeto.models.origins import ORIGINS, Origin
    from rmeeto.models.precision import to_precision
    from rmeeto.models.registry import create, names
    from rmeeto.models.timm_vit import adopt, adopted, release
    from rmeeto.models.vim import Vim, cast_weights

_HOMES = {
    "ORIGINS": "rmeeto.models.origins",
    "Origin": "rmeeto.models.origins",
    "Vim": "rmeeto.models.vim",
    "VimConfig": "rmeeto.models.configs",
    "adopt": "rmeeto.models.timm_vit",
    "adopted": "rmeeto.models.timm_vit",
    "cast_weights": "rmeeto.models.vim",
    "create": "rmeeto.models.registry",
    "names": "rmeeto.models.registry",
    "release": "rmeeto.models.timm_vit",
    "to_precision": "rmeeto.models.precision",
}

__all__ = [
    "ORIGINS",
    "Origin",
    "Vim",
    "VimConfig",
    "adopt",
    "adopted",
    "cast_weights",
    "create",
    "names",
    "release",
    "to_precision",
]

__getattr__ = lazily(__name__, _HOMES)
