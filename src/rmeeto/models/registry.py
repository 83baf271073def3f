"""Models by name."""

from __future__ import annotations

from typing import Any

from rmeeto.models.configs import CONFIGS, config_of, described
from rmeeto.models.vim import Vim


def names() -> list[str]:
    """Short names that `create` takes; it takes timm's as well, such as vim_tiny_patch16_224."""
    return sorted(CONFIGS)


def create(name: str, **sizes: Any) -> Vim:
    """A model by name with random weights; any size of `VimConfig` can be replaced.

    Its `pretrained_cfg` tells timm's data functions what images it takes.

    Example:
        model = create("vim_tiny", num_classes=10, img_size=(64, 64))
        model = create("videomamba_tiny_k400_f8_224")  # as timm names it

    Raises:
        SettingsError: unknown name or size.
        ShapeError: the patches do not fill the image.
    """
    model = Vim(config_of(name, sizes))
    model.pretrained_cfg = described(model.config)  # type: ignore[assignment]
    return model
