"""The verbs of the command line as functions, and the only place where the rooms meet.

from rmeeto import pipeline

pipeline.demo(Path("runs/demo"))
pipeline.evaluate(pipeline.ModelSpec(model="runs/demo"), DataSpec(data="demo"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily

if TYPE_CHECKING:
    from rmeeto.pipeline.converting import convert
    from rmeeto.pipeline.demonstration import demo
    from rmeeto.pipeline.listing import list_models
    from rmeeto.pipeline.measuring import benchmark, doctor, evaluate
    from rmeeto.pipeline.publishing import push_to_hub
    from rmeeto.pipeline.reproducing import list_tables, reproduce
    from rmeeto.pipeline.retraining import retrain
    from rmeeto.pipeline.specs import ModelSpec, PrecisionSpec, ScheduleSpec, SpeedSpec
    from rmeeto.pipeline.training import pretrain
    from rmeeto.pipeline.watch import Watch

_HOMES = {
    "ModelSpec": "rmeeto.pipeline.specs",
    "PrecisionSpec": "rmeeto.pipeline.specs",
    "ScheduleSpec": "rmeeto.pipeline.specs",
    "SpeedSpec": "rmeeto.pipeline.specs",
    "Watch": "rmeeto.pipeline.watch",
    "benchmark": "rmeeto.pipeline.measuring",
    "convert": "rmeeto.pipeline.converting",
    "demo": "rmeeto.pipeline.demonstration",
    "doctor": "rmeeto.pipeline.measuring",
    "evaluate": "rmeeto.pipeline.measuring",
    "list_models": "rmeeto.pipeline.listing",
    "list_tables": "rmeeto.pipeline.reproducing",
    "pretrain": "rmeeto.pipeline.training",
    "push_to_hub": "rmeeto.pipeline.publishing",
    "reproduce": "rmeeto.pipeline.reproducing",
    "retrain": "rmeeto.pipeline.retraining",
}

__all__ = [
    "ModelSpec",
    "PrecisionSpec",
    "ScheduleSpec",
    "SpeedSpec",
    "Watch",
    "benchmark",
    "convert",
    "demo",
    "doctor",
    "evaluate",
    "list_models",
    "list_tables",
    "pretrain",
    "push_to_hub",
    "reproduce",
    "retrain",
]

__getattr__ = lazily(__name__, _HOMES)
