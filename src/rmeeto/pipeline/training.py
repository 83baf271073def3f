"""Training runs: what `pretrain` and `retrain` share, and `pretrain` itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmeeto.data import Augment, Data, DataSpec, open_data
from rmeeto.errors import SettingsError
from rmeeto.evaluate import accuracy, environment
from rmeeto.hub import load_weights, read_weights, save_bundle
from rmeeto.models.stack import set_drop_path
from rmeeto.pipeline.opening import Opened, fitting, form_for, open_model, pretrained_cfg_of
from rmeeto.pipeline.specs import ModelSpec
from rmeeto.pipeline.watch import Unwatched, Watch
from rmeeto.records import Accuracy, Run
from rmeeto.reduction import attached
from rmeeto.retrain import Checkpoints, Recipe, TrainingData, train
from rmeeto.retrain.loop import CHECKPOINTS
from rmeeto.retrain.state import EMA


def pretrain(
    model: ModelSpec,
    data: DataSpec,
    recipe: Recipe,
    augment: Augment,
    output: Path,
    *,
    resume: bool = False,
    watch: Watch | None = None,
) -> Run:
    """Train a model from random weights (or from `model.weights`) and write it to `output`.

    Args:
        model: a named model and its sizes; classes come from the data.
        data: images; "demo" for the embedded ones.
        recipe: the settings of the run.
        augment: how training images vary.
        output: gets model.safetensors, config.json, run.json, log.jsonl, tensorboard/ and checkpoints/.
        resume: continue from the newest checkpoint in `output`.
        watch: told how it goes.

    Returns:
        the run's record, also in `output`/run.json.

    Raises:
        RmeetoError: a kind of it for each input that cannot be.
    """
    watch = watch or Unwatched()
    torch.manual_seed(recipe.seed)
    opened_data = open_data(fitting(data, recipe.micro_batch()), form_for(model))
    opened = open_model(model, num_classes=opened_data.num_classes)
    if attached(opened.model) is not None:
        raise SettingsError(f"{model.model} is a merged model; re-train it with `rmeeto retrain`")
    opened = dataclasses.replace(opened, class_names=opened_data.class_names)
    watch.stage(_summary(opened, opened_data, recipe))
    run = run_training(opened, None, opened_data, recipe, augment, output, resume=resume, watch=watch)
    write_model(opened, output, {"run": run.to_dict()})
    run.write(output / "run.json")
    return run


def run_training(
    opened: Opened,
    teacher: nn.Module | None,
    data: Data,
    recipe: Recipe,
    augment: Augment,
    output: Path,
    *,
    resume: bool,
    watch: Watch,
) -> Run:
    """Train `opened.model` in place; at the end it holds the last weights, in eval mode, without drop-path.

    The last, not the best: choosing by the validation images would make their accuracy look better than it is.
    Where the recipe keeps a moving average, it is the average.
    """
    set_drop_path(opened.model, recipe.drop_path)
    attachment = attached(opened.model)
    about = {
        "model": opened.name,
        "sizes": opened.sizes,
        "schedule": list(attachment[0].removals) if attachment else None,
        "reduction": attachment[1].to_dict() if attachment else None,
        "data": data.spec.data,
        "images": len(data.train),
        "augment": augment.to_dict(),
    }
    run = train(
        opened.model,
        teacher,
        TrainingData(data.train_batches(augment, recipe.seed), data.num_classes),
        recipe,
        output,
        validate=validation(data, watch),
        progress=watch.training(),
        resume=resume,
        about=about,
        environment=environment(),
    )
    last = Checkpoints(output / CHECKPOINTS).last()
    last = last if recipe.ema_decay is None else last.with_name(EMA)
    load_weights(opened.model, read_weights(last), str(last))
    set_drop_path(opened.model, 0.0)
    opened.model.eval()
    return run


def validation(data: Data, watch: Watch) -> Callable[[nn.Module], Accuracy]:
    """The accuracy of a model on the validation images, with a bar."""

    def validate(model: nn.Module) -> Accuracy:
        with watch.counting("evaluating", len(data.val)) as advance:
            return accuracy(model, data.eval_batches(), device=next(model.parameters()).device, progress=advance)

    return validate


def write_model(opened: Opened, folder: Path, records: dict[str, Any]) -> None:
    """Write the model as a folder that `rmeeto.load` reads, its schedule with it."""
    attachment = attached(opened.model)
    schedule, settings = attachment if attachment else (None, None)
    save_bundle(
        opened.model,
        folder,
        architecture=opened.name,
        model_args=opened.sizes,
        schedule=schedule,
        reduction=None if settings is None else settings.to_dict(),
        input=pretrained_cfg_of(opened),
        records=records,
    )


def _summary(opened: Opened, data: Data, recipe: Recipe) -> str:
    parameters = sum(parameter.numel() for parameter in opened.model.parameters())
    return (
        f"{opened.name}: {parameters / 1e6:.2f} M parameters, {opened.model.num_tokens} tokens; "
        f"{len(data.train)} training and {len(data.val)} validation images of {data.num_classes} classes; "
        f"{recipe.epochs} epochs of batch {recipe.batch_size}, learning rate {recipe.peak_lr:.2e}"
    )
