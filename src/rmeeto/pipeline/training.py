"""Training runs: what `pretrain` and `retrain` share, and `pretrain` itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmeeto.data import BAD_IMAGES, Augment, BadImages, Data, DataSpec, Share, identity_of, open_data
from rmeeto.errors import DataError, OutputError, SettingsError
from rmeeto.evaluate import accuracy, environment
from rmeeto.hub import load_weights, read_weights, save_bundle
from rmeeto.hub.bundle import CONFIG
from rmeeto.models import Vim
from rmeeto.models.stack import set_drop_path
from rmeeto.pipeline.command import typed
from rmeeto.pipeline.evidence import picture_first_batch
from rmeeto.pipeline.opening import Opened, fitting, open_with_images, pretrained_cfg_of
from rmeeto.pipeline.recipes import KEPT, to_toml
from rmeeto.pipeline.specs import ModelSpec
from rmeeto.pipeline.watch import Unwatched, Watch
from rmeeto.records import Accuracy, Epoch, Run, write_text
from rmeeto.reduction import attached
from rmeeto.retrain import Checkpoints, Recipe, RunSpec, TrainingData, train
from rmeeto.retrain.engine import Processes
from rmeeto.retrain.loop import CHECKPOINTS
from rmeeto.retrain.progress import Progress, StepReport
from rmeeto.retrain.state import EMA

FIRST_BATCH = "first_batch.png"
_DEFAULT = RunSpec()


def pretrain(
    model: ModelSpec,
    data: DataSpec,
    recipe: Recipe,
    augment: Augment,
    output: Path,
    *,
    spec: RunSpec = _DEFAULT,
    watch: Watch | None = None,
) -> Run:
    """Train a model from random weights (or from `model.weights`) and write it to `output`.

    Args:
        model: a named model and its sizes; classes come from the data.
        data: images; "demo" for the embedded ones.
        recipe: the settings of the run.
        augment: how training images vary.
        output: gets model.safetensors, config.json, run.json, log.jsonl, first_batch.png, tensorboard/, checkpoints/.
        spec: how the run is carried out. Under torchrun all processes call this; the main one writes and tells.
        watch: told how it goes.

    Returns:
        the run's record, also in `output`/run.json.

    Raises:
        RmeetoError: a kind of it for each input that cannot be.
    """
    processes = Processes()
    watch = watch if watch is not None and processes.is_main else Unwatched()
    torch.manual_seed(recipe.seed)
    data = fitting(data, recipe.micro_batch(processes.count))
    opened, opened_data = open_with_images(model, lambda form: open_data(data, form), watch)
    if attached(opened.model) is not None:
        raise SettingsError(f"{model.model} is a merged model; re-train it with `rmeeto retrain`")
    require_run(opened, None, opened_data, recipe, augment, output, spec)
    if processes.is_main:
        asked = {"model": model, "data": data, "recipe": recipe, "augment": augment}
        keep_recipe(to_toml("pretrain", asked, command=typed()), output)
    watch.stage(_summary(opened, opened_data, recipe))
    run = run_training(opened, None, opened_data, recipe, augment, output, spec, watch=watch)
    if processes.is_main:
        write_model(opened, output, {"run": run.to_dict()})
        run.write(output / "run.json")
    return run


def require_run(
    opened: Opened,
    teacher: nn.Module | None,
    data: Data,
    recipe: Recipe,
    augment: Augment,
    output: Path,
    spec: RunSpec,
) -> None:
    """Check before hours of work that a run can be made of these, and its results kept; all processes together.

    Raises:
        OutputError: the folder cannot be written, or holds another run or a model.
        DataError: too few images for one batch.
        CheckpointError: there is nothing whole to resume from, or it is another run's.
        SettingsError: an augmentation that cannot be.
    """
    images = data.train_batches(augment, recipe.seed).num_images
    if images < recipe.batch_size:
        raise DataError(f"{images} training images do not fill a batch of {recipe.batch_size}; lower batch_size")
    processes = Processes()
    resume = processes.restarted or spec.resume == "auto"
    if processes.is_main:
        _require_place(opened, teacher, data, recipe, augment, output, resume=resume)
    processes.wait()


def _require_place(
    opened: Opened,
    teacher: nn.Module | None,
    data: Data,
    recipe: Recipe,
    augment: Augment,
    output: Path,
    *,
    resume: bool,
) -> None:
    require_writable(output)
    checkpoints = Checkpoints(output / CHECKPOINTS)
    if not checkpoints.all():
        if (output / CONFIG).exists():
            raise OutputError(f"{output} holds a model already, which the run would replace; name another folder")
    elif not resume:
        raise OutputError(f"{output} holds a run already; add --resume auto to continue it, or name another folder")
    elif (found := checkpoints.newest(lambda _line: None)) is not None:  # the loop will tell which ones are broken
        found.refuse_other(recipe, {"verb": found.about.get("verb"), **_about(opened, teacher, data, augment)})


def keep_recipe(text: str, output: Path) -> None:
    """Write what was asked for as recipe.toml; a run that goes on keeps what began it."""
    if not (Checkpoints(output / CHECKPOINTS).all() and (output / KEPT).exists()):
        write_text(output / KEPT, text)


def require_writable(output: Path) -> None:
    """Check that results can be kept in a folder; it is made.

    Raises:
        OutputError: it is a file, or cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"output {output} is a file; name a folder")
    probe = output / ".writable"
    write_text(probe, " " * 2**16)  # a full disk still takes an empty file
    probe.unlink()


def run_training(
    opened: Opened,
    teacher: nn.Module | None,
    data: Data,
    recipe: Recipe,
    augment: Augment,
    output: Path,
    spec: RunSpec,
    *,
    watch: Watch,
) -> Run:
    """Train `opened.model` in place; at the end it holds the last weights, in eval mode, and drops nothing.

    The last, not the best: choosing by the validation images would make their accuracy look better than it is.
    Where the recipe keeps a moving average, it is the average.
    """
    processes = Processes()
    about = _about(opened, teacher, data, augment)
    if processes.is_main and not Checkpoints(output / CHECKPOINTS).all():
        for name in (BAD_IMAGES, FIRST_BATCH):  # of a run that ended before its first checkpoint
            (output / name).unlink(missing_ok=True)
    data.bad.keep_in(output / BAD_IMAGES)
    if processes.is_main and not (output / FIRST_BATCH).exists():
        picture_first_batch(data, augment, recipe.seed, output / FIRST_BATCH)
    _set_dropping(opened.model, recipe.drop_path, recipe.patch_drop)
    share = Share(processes.index, processes.count, recipe.accumulate)
    run = train(
        opened.model,
        teacher,
        TrainingData(data.train_batches(augment, recipe.seed, share), data.num_classes),
        recipe,
        output,
        spec=spec,
        validate=validation(data, watch),
        progress=_TellingBadImages(watch.training(), data.bad),
        about=about,
        environment=environment(),
    )
    last = Checkpoints(output / CHECKPOINTS).last() if processes.is_main else output
    last = last if recipe.ema_decay is None else last.with_name(EMA)
    load_weights(opened.model, processes.told(read_weights(last) if processes.is_main else {}), str(last))
    _set_dropping(opened.model, 0.0, 0.0)
    opened.model.eval()
    return run


def _set_dropping(model: Vim, paths: float, patches: float) -> None:
    """Rates of what is dropped while training, in place."""
    set_drop_path(model, paths)
    model.patch_drop.rate = patches


def validation(data: Data, watch: Watch) -> Callable[[nn.Module], Accuracy]:
    """The accuracy of a model on the validation images, of which each process takes a share; with a bar."""
    processes = Processes()
    batches = data.eval_batches(Share(processes.index, processes.count))

    def validate(model: nn.Module) -> Accuracy:
        images, device = len(data.val), next(model.parameters()).device
        with watch.counting("evaluating", images) as advance:
            return accuracy(
                model,
                batches,
                device=device,
                progress=lambda done: advance(min(images, done * processes.count)),
                total=processes.total,
            )

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
        records=records if opened.origin is None else {**records, "base": opened.origin},
    )


class _TellingBadImages:
    """A `Progress` that adds a line to each epoch while there are images that could not be read."""

    def __init__(self, progress: Progress, bad: BadImages) -> None:
        self._progress, self._bad = progress, bad

    def step(self, report: StepReport) -> None:
        self._progress.step(report)

    def epoch(self, record: Epoch) -> None:
        self._progress.epoch(record)
        if (line := self._bad.summary()) is not None:
            self._progress.note(line)

    def note(self, line: str) -> None:
        self._progress.note(line)

    def close(self) -> None:
        self._progress.close()


def _about(opened: Opened, teacher: nn.Module | None, data: Data, augment: Augment) -> dict[str, Any]:
    """What is trained on what: a run resumes only with the same."""
    attachment = attached(opened.model)
    return {
        "model": opened.name,
        "sizes": opened.sizes,
        "schedule": list(attachment[0].removals) if attachment else None,
        "reduction": attachment[1].to_dict() if attachment else None,
        "teacher": None if teacher is None else _fingerprint(teacher),
        "data": identity_of(data.train),
        "validation": identity_of(data.val),
        "classes": list(data.class_names),
        **_subset(data.spec),
        "augment": augment.to_dict(),
    }


def _subset(spec: DataSpec) -> dict[str, Any]:
    """Parts of one size may hold other images."""
    part = {"train_limit": spec.train_limit, "train_share": spec.train_share}
    return {"subset": {**part, "seed": spec.subset_seed}} if any(part.values()) else {}


def _fingerprint(model: nn.Module) -> str:
    """A few letters that other weights would not have."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def _summary(opened: Opened, data: Data, recipe: Recipe) -> str:
    parameters = sum(parameter.numel() for parameter in opened.model.parameters())
    return (
        f"{opened.name}: {parameters / 1e6:.2f} M parameters, {opened.model.num_tokens} tokens; "
        f"{len(data.train)} training and {len(data.val)} validation images of {data.num_classes} classes; "
        f"{recipe.epochs} epochs of batch {recipe.batch_size}, learning rate {recipe.peak_lr:.2e}"
    )
