"""Our networks in timm's registry. Importing this module registers them (see `rmeeto._timm_hook`).

import rmeeto, timm
timm.create_model("vim_tiny_patch16_224", num_classes=10, drop_path_rate=0.1)
timm.list_models("videomamba*")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from rmeeto.models.configs import CONFIGS, TIMM_NAMES, VimConfig

# Mean and deviation of ImageNet's pixels, of one grey channel and of three colours.
_PIXELS = {1: ((0.449,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


def _described(config: VimConfig) -> dict[str, Any]:
    """timm's `pretrained_cfg` of a network without weights."""
    mean, std = _PIXELS[config.in_chans]
    return {
        "input_size": (config.in_chans, *config.img_size),
        "fixed_input_size": True,
        "num_classes": config.num_classes,
        "crop_pct": 0.875 if config.num_frames is None else 1.0,
        "mean": mean,
        "std": std,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


# timm looks for this name in the module of an entry point.
default_cfgs = generate_default_cfgs({TIMM_NAMES[short]: _described(config) for short, config in CONFIGS.items()})


def _entry_point(short: str, name: str) -> Callable[..., Any]:
    def entry_point(*, pretrained: bool = False, **sizes: Any) -> Any:
        from rmeeto.models.embed import fit_positions
        from rmeeto.models.registry import create

        def fitted(state: Mapping[str, Any], model: Any) -> dict[str, Any]:
            return fit_positions(state, model.config)

        return build_model_with_cfg(
            partial(create, short),
            name,
            pretrained,
            pretrained_filter_fn=fitted,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"},
            **sizes,
        )

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"{short} as timm builds it; sizes as in `rmeeto.create`."
    return entry_point


for _short, _name in TIMM_NAMES.items():
    register_model(_entry_point(_short, _name))
