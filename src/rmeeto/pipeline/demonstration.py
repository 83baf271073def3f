"""The demo: the main job on embedded images and weights, nothing to download."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rmeeto.data import Augment, DataSpec, demo_model, open_data
from rmeeto.errors import OutputError
from rmeeto.hub.bundle import CONFIG
from rmeeto.pipeline.opening import fitting, open_with_images
from rmeeto.pipeline.retraining import Job, carry_out
from rmeeto.pipeline.specs import ModelSpec, ScheduleSpec, SpeedSpec
from rmeeto.pipeline.training import require_writable
from rmeeto.pipeline.watch import Unwatched, Watch
from rmeeto.records import write_json
from rmeeto.reduction import Settings
from rmeeto.retrain import Checkpoints, Recipe
from rmeeto.retrain.loop import CHECKPOINTS

# Few merges, for each costs time, and none before the third block: the later ones re-train better (docs/log.md).
SCHEDULE = ScheduleSpec(removals=json.dumps([0, 0, 40, 40, 40, 0, 0, 0, 0, 0, 0, 0]))
RECIPE = Recipe(
    epochs=8,
    batch_size=64,
    lr=1.2e-3,
    min_lr=1e-5,
    warmup_epochs=0.05,
    betas=(0.9, 0.95),
    drop_path=0.0,
    distill_weight=4.0,
    temperature=2.0,
    cache_teacher=True,
    mixup=0.0,
    cutmix=0.0,
    smoothing=0.0,
    clip_grad=1.0,
    time_limit=215.0,  # validation and checkpoints come on top: 4 minutes in all, on a busy machine too
)
# Mirrored, not shifted: in so few steps the student learns more from the images as they are.
AUGMENT = dataclasses.replace(Augment.light(), crop="none")
SPEED = SpeedSpec(speed_batch=128, speed_repeats=15, speed_warmup=2)
MARK = "demo.json"
QUICK = {"train": 640, "val": 300, "epochs": 1, "repeats": 5}


def demo(output: Path, *, quick: bool = False, watch: Watch | None = None) -> dict[str, Any]:
    """Merge the embedded model's tokens, re-train it for at most `RECIPE.time_limit` seconds, measure.

    Args:
        output: folder for all that is made; an earlier demo there is replaced.
        quick: few images, to see that everything works; its accuracies mean little.
        watch: told how it goes.

    Returns:
        what result.json holds.

    Raises:
        OutputError: the folder cannot be written, or holds something else than a demo.
    """
    watch = watch or Unwatched()
    _make_room(output)
    recipe = dataclasses.replace(RECIPE, epochs=QUICK["epochs"]) if quick else RECIPE
    speed = dataclasses.replace(SPEED, speed_repeats=QUICK["repeats"]) if quick else SPEED
    spec = DataSpec(
        data="demo", train_limit=QUICK["train"] if quick else None, val_limit=QUICK["val"] if quick else None
    )
    with demo_model() as folder:
        model = ModelSpec(model=str(folder))
        opened, data = open_with_images(model, lambda form: open_data(fitting(spec, recipe.micro_batch()), form))
    schedule = SCHEDULE.build(opened.model.num_tokens, opened.model.config.depth)
    watch.stage(
        f"{opened.name} on {len(data.train)} training and {len(data.val)} test images of Fashion-MNIST; "
        f"{sum(schedule.removals)} of {opened.model.num_tokens} tokens leave in {schedule.merges} merges"
    )
    note = f"A quick run: accuracies on {len(data.val)} images mean little." if quick else None
    job = Job(opened, data, schedule, Settings(), recipe, AUGMENT, speed, output, both_places=True, note=note)
    return carry_out(job, watch=watch)


def _make_room(output: Path) -> None:
    """Remove what an earlier demo trained, and nothing that is not a demo's."""
    require_writable(output)
    if any(output.iterdir()) and not (output / MARK).exists():
        raise OutputError(f"{output} holds something else than a demo; name an empty folder, or a new one")
    write_json(output / MARK, {"kind": "demo"})
    Checkpoints(output / CHECKPOINTS).clear()
    (output / CONFIG).unlink(missing_ok=True)
