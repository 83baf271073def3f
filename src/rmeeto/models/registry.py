"""Models by name."""

from __future__ import annotations

from typing import Any

from rmeeto.models.configs import CONFIGS, config_of
from rmeeto.models.vim import Vim


def names() -> list[str]:
    """Names that `create` takes."""
    return sorted(CONFIGS)


def create(name: str, **sizes: Any) -> Vim:
    """A model by name with random weights; any size of `VimConfig` can be replaced.

    Example:
        model = create("vim_tiny", num_classes=10, img_size=(64, 64))

    Raises:
        SettingsError: unknown name or size.
        ShapeError: the patches do not fill the image.
    """
    return Vim(config_of(name, sizes))
