"""Which models there are: networks and published weights, told without torch."""

from __future__ import annotations

from typing import Any

from rmeeto.data import DEMO_MODEL, DEMO_TAG, demo_model
from rmeeto.models.configs import CONFIGS
from rmeeto.models.counting import parameters_of
from rmeeto.models.origins import ORIGINS
from rmeeto.records import read_json


def list_models() -> dict[str, Any]:
    """Every published weight file, the model that comes with the package, then every network without weights.

    Returns:
        {"models": [...]}, each with "name", "network" (what `rmeeto.create` takes), "parameters", "input" (channels,
        height, width), "num_frames", "num_classes", "top1" in percent, "dataset", "r" (tokens that leave at a
        merge), "repo", "file", "licence" and "papers"; None where there is none or none is known, and without "repo"
        the file is the package's own.
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
    others = [_network(name) for name in CONFIGS if name not in {*with_weights, DEMO_MODEL}]
    return {"kind": "models", "models": [*published, _demo(), *others]}


def _demo() -> dict[str, Any]:
    with demo_model() as folder:
        measured = read_json(folder / "config.json")["rmeeto"]["records"]["test_accuracy"]
    return {
        **_network(DEMO_MODEL),
        "name": f"{DEMO_MODEL}.{DEMO_TAG}",
        "top1": measured["top1"],
        "dataset": "fashion-mnist",
        "file": f"rmeeto/data/demo/{DEMO_MODEL}/model.safetensors",
        "licence": "apache-2.0",
    }


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
