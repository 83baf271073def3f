"""`list_models`: all there is, without torch."""

from __future__ import annotations

import json
import subprocess
import sys

from rmeeto import pipeline
from rmeeto.models import ORIGINS, names


def test_every_network_and_every_published_file_is_listed() -> None:
    found = pipeline.list_models()
    json.dumps(found, allow_nan=False)
    models = found["models"]
    assert {model["network"] for model in models} == set(names())
    assert [model["file"] for model in models[: len(ORIGINS)]] == [origin.file for origin in ORIGINS]
    assert all(model["repo"] is None for model in models[len(ORIGINS) :])
    (nano,) = (model for model in models if model["repo"] is None and model["file"])
    assert (nano["name"], nano["dataset"], nano["licence"]) == ("vim_nano.demo", "fashion-mnist", "apache-2.0")
    assert nano["top1"] > 90
    assert len({model["name"] for model in models}) == len(models)
    assert len({tuple(model) for model in models}) == 1
    (tiny,) = (model for model in models if model["name"] == "vim_tiny.rmeeto_in1k")
    assert (tiny["parameters"], tiny["top1"], tiny["r"], tiny["licence"]) == (7_148_008, 75.3, 5, None)


def test_listing_is_light() -> None:
    code = "import sys; from rmeeto import pipeline; pipeline.list_models(); assert 'torch' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
