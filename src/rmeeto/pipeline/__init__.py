"""The verbs of the command line as functions, and the only place where the rooms meet.

from rmeeto import pipeline

pipeline.demo(Path("runs/demo"))
pipeline.evaluate(pipeline.ModelSpec(model="runs/demo"), DataSpec(data="demo"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily

if TYPE_CHECKING:
    from rmeeto.pipeline.demonstration import demo
    from rmeeto.pipeline.measuring import benchmark, doctor, evaluate
    from rmeeto.pipeline.reproducing import reproduce
    from rmeeto.pipeline.retraining import retrain
    from rmeeto.pipeline.specs import ModelSpec, ScheduleSpec, SpeedSpec
    from rmeeto.pipeline.training import pretrain
    from rmeeto.pipeline.watch import Watch

_HOMES = {
    "ModelSpec": "rmeeto.pipeline.specs",
    "ScheduleSpec": "rmeeto.pipeline.specs",
    "SpeedSpec": "rmeeto.pipeline.specs",
    "Watch": "rmeeto.pipeline.watch",
    "benchmark": "rmeeto.pipeline.measuring",
    "demo": "rmeeto.pipeline.demonstration",
    "doctor": "rmeeto.pipeline.measuring",
    "evaluate": "rmeeto.pipeline.measuring",
    "pretrain": "rmeeto.pipeline.training",
    "reproduce": "rmeeto.pipeline.reproducing",
    "retrain": "rmeeto.pipeline.retraining",
}

__all__ = [
    "ModelSpec",
    "ScheduleSpec",
    "SpeedSpec",
    "Watch",
    "benchmark",
    "demo",
    "doctor",
    "evaluate",
    "pretrain",
    "reproduce",
    "retrain",
]

__getattr__ = lazily(__name__, _HOMES)
