"""Our networks in timm's registry. Importing this module registers them (see `rmeeto._timm_hook`).

import rmeeto, timm
timm.create_model("vim_tiny_patch16_224", num_classes=10, drop_path_rate=0.1)
timm.list_models("videomamba*")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.models import adapt_input_conv, build_model_with_cfg, generate_default_cfgs, register_model

from rmeeto.models.configs import TIMM_NAMES, config_of, described
from rmeeto.models.origins import ORIGINS, Origin, find

_FIRST = "patch_embed.proj.weight"


def _published(origin: Origin) -> dict[str, Any]:
    """timm's `pretrained_cfg` of published weights."""
    return {**origin.pretrained_cfg, "hf_hub_id": origin.repo, "hf_hub_filename": origin.file}


# Weights that were re-trained with merged tokens are not here, for timm knows no schedule: `rmeeto.load` has them.
_WEIGHTS = {origin.name: _published(origin) for origin in ORIGINS if origin.r is None}
_WITHOUT = set(TIMM_NAMES.values()) - {name.partition(".")[0] for name in _WEIGHTS}
# timm looks for this name in the module of an entry point.
default_cfgs = generate_default_cfgs({**_WEIGHTS, **{name: described(config_of(name)) for name in sorted(_WITHOUT)}})


def _entry_point(short: str, name: str) -> Callable[..., Any]:
    def entry_point(*, pretrained: bool = False, **sizes: Any) -> Any:
        from rmeeto.models.registry import create  # torch's part, only when a model is built

        return build_model_with_cfg(
            partial(create, short),
            name,
            pretrained,
            pretrained_filter_fn=fitted_weights,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"},
            **sizes,
        )

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"{short} as timm builds it; sizes as in `rmeeto.create`."
    return entry_point


def fitted_weights(checkpoint: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """What timm read from a weight file -> the network's own weights, fitted to the model's input size.

    Positions are interpolated. A video network's first convolution is fitted to the model's colours here, as timm does
    it with flat ones.

    Args:
        checkpoint: a state dict, or a training checkpoint with one inside.
        model: what receives the weights; its `pretrained_cfg` says which file was read.
    """
    from rmeeto.models.embed import fit_positions

    origin = find(".".join(filter(None, (model.pretrained_cfg.get(key) for key in ("architecture", "tag")))))
    parts = [part for part in (origin.part if origin else None, "model", "state_dict") if part]
    state = next((checkpoint[part] for part in parts if isinstance(checkpoint.get(part), Mapping)), checkpoint)
    # The second head of a distillation classifies nothing here.
    own = {name: value for name, value in state.items() if not name.startswith("distill_head.")}
    if (weight := own.get(_FIRST)) is not None and weight.dim() == 5:
        own[_FIRST] = adapt_input_conv(model.in_chans, weight.squeeze(2), weight.shape[1]).unsqueeze(2)
    return fit_positions(own, model.config)


for _short, _name in TIMM_NAMES.items():
    register_model(_entry_point(_short, _name))
