"""Which models there are: networks and published weights, told without torch."""

from __future__ import annotations

from typing import Any

from rmeeto.models.configs import CONFIGS
from rmeeto.models.counting import parameters_of
from rmeeto.models.origins import ORIGINS


def list_models() -> dict[str, Any]:
    """Every published weight file, then every network that has none.

    Returns:
        {"models": [...]}, each with "name", "network" (what `rmeeto.create` takes), "parameters", "input" (channels,
        height, width), "num_frames", "num_classes", "top1" in percent, "dataset", "r" (tokens that leave at a
        merge), "repo", "file", "licence" and "papers"; None where there is none or none is known.
    """
    with_weights = {origin.short for origin in ORIGINS}
    published = [
        {
            **_network(origin.short),
            "name": f"{origin.short}.{origin.tag}",
            "top1": origin.top1,
            "dataset": origin.dataset,
            "r": origin.r,
            "repo": origin.repo,
            "file": origin.file,
            "licence": origin.licence,
            "papers": list(origin.papers),
        }
        for origin in ORIGINS
    ]
    others = [_network(name) for name in CONFIGS if name not in with_weights]
    return {"kind": "models", "models": [*published, *others]}


def _network(name: str) -> dict[str, Any]:
    config = CONFIGS[name]
    return {
        "name": name,
        "network": name,
        "parameters": parameters_of(config),
        "input": [config.in_chans, *config.img_size],
        "num_frames": config.num_frames,
        "num_classes": config.num_classes,
        **dict.fromkeys(("top1", "dataset", "r", "repo", "file", "licence", "papers")),
    }
