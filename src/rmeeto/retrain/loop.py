"""The training loop, with Accelerate as its engine: the only file that imports it.

One loop for re-training (with a teacher) and for training from random weights (without). It knows neither
that tokens are merged nor where images come from.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, broadcast, gather_object, set_seed
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from rmeeto.errors import CheckpointError, DataError, OutputError, SettingsError, ShapeError, TrainingError
from rmeeto.records import Accuracy, Epoch, Run
from rmeeto.retrain.batches import TrainingData, full_batches, next_batch
from rmeeto.retrain.checkpoint import Checkpoints, Contents
from rmeeto.retrain.distill import DistillationLoss, Mixer
from rmeeto.retrain.log import Diary, JsonLines
from rmeeto.retrain.meter import Meter
from rmeeto.retrain.optimise import LearningRate, adamw, set_lr
from rmeeto.retrain.progress import Progress, Silent
from rmeeto.retrain.recipe import Recipe
from rmeeto.retrain.state import Position, kept_random_state, random_state, set_random_state

Validate = Callable[[nn.Module], Accuracy]
CHECKPOINTS = "checkpoints"
LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


def train(
    student: nn.Module,
    teacher: nn.Module | None,
    data: TrainingData,
    recipe: Recipe,
    output: str | Path,
    *,
    validate: Validate | None = None,
    progress: Progress | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    validate_every: int = 1,
    log_every: int = 10,
    trackers: Sequence[str] = (TENSORBOARD,),
    cpu: bool = False,
) -> Run:
    """Train a model as a recipe says; at the end it holds the last epoch's weights and is in eval mode.

    Seeds Python's, NumPy's and torch's generators with the recipe's seed. Writes checkpoints/, log.jsonl and
    tensorboard/ under `output`; `Checkpoints(output / "checkpoints").best()` names the best weights.

    Args:
        student: images -> logits (b, classes); its drop-path is already built in.
        teacher: the same from the same images, put into eval mode; None trains on labels alone.
        data: full batches of `recipe.micro_batch(processes)` images.
        recipe: the settings.
        output: folder of the run.
        validate: the accuracy of a model, which is in eval mode; called after each `validate_every`-th epoch and
            the last, for the student and for its moving average.
        progress: told how it goes.
        resume: continue from the newest whole checkpoint, or start where there is none.
        about: plain values that say what is trained on what; a resume with others is refused.
        environment: kept in the record.
        log_every: steps between two lines of the log.
        trackers: Accelerate's names of further logs.
        cpu: stay off the accelerator.

    Raises:
        SettingsError: the recipe does not fit the number of processes, or the teacher is the student itself.
        DataError: too few images for one step, or batches of a wrong size.
        ShapeError: the model's classes are not the data's.
        CheckpointError: nothing to resume from is whole, or it is another run's.
        OutputError: `output` holds another run, or cannot be written.
        TrainingError: the loss is no longer a number.
    """
    if teacher is student:
        raise SettingsError("the teacher is the student itself; give a copy of it as the teacher")
    if validate_every < 1 or log_every < 1:
        raise SettingsError(f"validate_every {validate_every} and log_every {log_every} must both be 1 or more")
    loop = _Loop(
        student,
        teacher,
        data,
        recipe,
        Path(output),
        progress=progress or Silent(),
        about=about or {},
        log_every=log_every,
        trackers=trackers,
        cpu=cpu,
    )
    try:
        position = loop.run(loop.start(resume=resume), validate, validate_every)
    finally:
        loop.close()
    student.eval()
    return Run(
        verb="pretrain" if teacher is None else "retrain",
        epochs=tuple(dataclasses.asdict(epoch) for epoch in position.epochs),
        best_epoch=position.best_epoch,
        best_top1=position.best_top1,
        recipe=recipe.to_dict(),
        seconds=position.seconds,
        images=position.images,
        environment=dict(environment or {}),
    )


class _Loop:
    """The parts of one run."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        data: TrainingData,
        recipe: Recipe,
        output: Path,
        *,
        progress: Progress,
        about: Mapping[str, Any],
        log_every: int,
        trackers: Sequence[str],
        cpu: bool,
    ) -> None:
        self.engine = _engine(recipe, output, trackers, cpu=cpu)
        self.recipe, self.output, self.data = recipe, output, data
        self.about = {"verb": "pretrain" if teacher is None else "retrain", **about}
        self.micro_batch = recipe.micro_batch(self.engine.num_processes)
        self.steps_per_epoch = full_batches(data.train, self.micro_batch) // recipe.accumulate
        if self.steps_per_epoch == 0:
            raise DataError(f"the training set has less than one step of {recipe.batch_size} images; lower batch_size")
        self.lr = LearningRate.of(recipe, self.steps_per_epoch)
        self.progress = progress if self.engine.is_main_process else Silent()
        self.log_every = log_every
        self.checkpoints = Checkpoints(output / CHECKPOINTS)
        self.lines = JsonLines(output / LOG) if self.engine.is_main_process else None
        self.diary = Diary(
            self.lines,
            self._track,
            self.progress,
            every=log_every,
            epochs=recipe.epochs,
            steps_per_epoch=self.steps_per_epoch,
            time_limit=recipe.time_limit,
        )
        self._build(student, teacher if recipe.distill_weight > 0 else None)

    def _build(self, student: nn.Module, teacher: nn.Module | None) -> None:
        recipe, device = self.recipe, self.engine.device
        self.student = student.to(device)
        self.teacher = teacher.to(device).eval() if teacher is not None else None
        self.ema: ModelEmaV3 | None = None
        if recipe.ema_decay is not None:
            self.ema = ModelEmaV3(self.student, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)
        # One process needs nothing of what preparing does to a model.
        distributed = self.engine.num_processes > 1
        self.model: nn.Module = self.engine.prepare_model(self.student) if distributed else self.student
        self.optimizer = self.engine.prepare_optimizer(adamw(self.student, recipe))
        self.mixer = Mixer(recipe, self.data.num_classes)
        self.loss = DistillationLoss(recipe.distill_weight, recipe.temperature)

    def start(self, *, resume: bool) -> Position:
        """Seed, or take up where a checkpoint stands; open the logs."""
        set_seed(self.recipe.seed, device_specific=True)
        if not resume and self.checkpoints.all():
            raise OutputError(f"{self.output} holds a run already; resume it, or name another output folder")
        found = self.checkpoints.newest(self.progress.note) if resume else None
        position = Position() if found is None else self._restore(found)
        with _written(self.output, "name another output folder"):
            self.output.mkdir(parents=True, exist_ok=True)
            self._open_trackers(position.step)
        if self.lines is not None:
            self.lines.cut_after(position.epoch)
        return position

    def _open_trackers(self, step: int) -> None:
        try:
            self.engine.init_trackers(TENSORBOARD, init_kwargs={TENSORBOARD: {"purge_step": step + 1}})
        except OSError:
            self.engine.trackers.clear()  # one that is half open cannot be closed
            raise

    def _track(self, values: dict[str, float], step: int) -> None:
        with _written(self.output / TENSORBOARD, "free some space, then resume"):
            self.engine.log(values, step=step)

    def run(self, position: Position, validate: Validate | None, validate_every: int) -> Position:
        """Train epoch after epoch; each ends in a checkpoint, also where validating it fails."""

        def waits(position: Position) -> bool:
            """Whether the last epoch is to be validated still."""
            if validate is None or not position.epochs or position.epochs[-1].top1 is not None:
                return False
            return position.finished or position.epoch % validate_every == 0

        while waits(position) or not position.finished:
            begun = time.perf_counter()
            if not waits(position):
                position, epoch = self._epoch(position)
                position = position.after(epoch)
            try:
                if validate is not None and waits(position):
                    position = position.judged(self._validated(position.epochs[-1], validate))
            finally:  # an image that cannot be read costs no epoch
                position = dataclasses.replace(position, seconds=position.seconds + time.perf_counter() - begun)
                self._save(position)
            self.diary.epoch(position.epochs[-1], position.step)
        return position

    def close(self) -> None:
        """End the bar and the trackers, whatever happened."""
        self.progress.close()
        with _written(self.output / TENSORBOARD, "free some space, then resume"):
            for tracker in self.engine.trackers:
                tracker.finish()

    def _epoch(self, position: Position) -> tuple[Position, Epoch]:
        """Train one epoch, or what the time limit leaves of it."""
        self.data.train.set_epoch(position.epoch)
        self.model.train()
        batches = islice(iter(self.data.train), self.steps_per_epoch * self.recipe.accumulate)
        meter, place = self._meter(position), 0.0
        while meter.steps < self.steps_per_epoch and (place < self.lr.last or meter.step == 0):
            place = self._place(meter)
            set_lr(self.optimizer, self.lr.at(place))
            losses = [self._micro_step(*next_batch(batches)) for _ in range(self.recipe.accumulate)]
            self._average(meter.step + 1)
            meter.add(torch.stack(losses).mean())
        meter.read()
        images = meter.steps * self.recipe.batch_size
        epoch = Epoch(
            epoch=position.epoch + 1,
            steps=meter.steps,
            loss=meter.loss,
            lr=self.lr.at(place),
            images_per_second=images / meter.seconds,
            seconds=meter.seconds,
        )
        finished = place >= self.lr.last
        images += position.images
        position = dataclasses.replace(
            position, step=meter.step, trained=meter.trained, images=images, finished=finished
        )
        return position, epoch

    def _micro_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Gradients of one micro-batch, and the optimiser's step when the last one of a batch is in."""
        self._check_batch(images)
        device = self.engine.device
        mixed = self.mixer(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))
        taught = self._taught(mixed.images)
        with self.engine.accumulate(self.model):
            with self._autocast():
                logits = self.model(mixed.images)
            self._check_classes(logits, "student")
            loss = self.loss(logits, mixed.targets, taught)
            self.engine.backward(loss)
            if self.recipe.clip_grad is not None and self.engine.sync_gradients:
                self.engine.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def _taught(self, images: Tensor) -> Tensor | None:
        """The teacher's logits of the same mixed images."""
        if self.teacher is None:
            return None
        with torch.no_grad(), self._autocast():
            logits: Tensor = self.teacher(images)
        self._check_classes(logits, "teacher")
        return logits

    def _autocast(self) -> torch.autocast:
        half = self.recipe.dtype == "bfloat16"
        return torch.autocast(self.engine.device.type, dtype=torch.bfloat16, enabled=half)

    def _average(self, step: int) -> None:
        # Without warm-up the average starts from the weights that the student starts from (as published for base).
        if self.ema is not None:
            self.ema.update(self.student, step=step if self.recipe.ema_warmup else None)

    def _place(self, meter: Meter) -> float:
        """The step's place in the schedule: its number, or further on where time is used up faster than steps.

        The step that is expected to use up the time stands at the end, so that every run ends at `min_lr`.
        """
        limit = self.recipe.time_limit
        if limit is None:
            return meter.step
        used = torch.tensor(meter.trained + meter.step_seconds, device=self.engine.device)
        if self.engine.num_processes > 1:  # all must stop at the same step
            used = broadcast(used)
        return min(self.lr.last, max(meter.step, float(used) / limit * self.lr.last))

    def _meter(self, position: Position) -> Meter:
        found = self.checkpoints.all()
        return Meter(
            step=position.step,
            trained=position.trained,
            batch_size=self.recipe.batch_size,
            # A CPU never runs ahead of Python; waiting for an accelerator at every step would.
            read_every=1 if self.engine.device.type == "cpu" else self.log_every,
            window=self.log_every,
            gather=lambda losses: self.engine.reduce(losses, "mean"),
            tell=lambda reading: self.diary.step(reading, self.optimizer.param_groups[0]["lr"]),
            rescue=f"the last good checkpoint is {found[0]}" if found else "no checkpoint was written yet",
        )

    def _validated(self, epoch: Epoch, validate: Validate) -> Epoch:
        """The epoch's record with the accuracy of the student and of its moving average."""
        with kept_random_state():
            accuracy = validate(self.student.eval())
            averaged = validate(self.ema.module.eval()).top1 if self.ema is not None else None
        return dataclasses.replace(epoch, top1=accuracy.top1, top5=accuracy.top5, ema_top1=averaged)

    def _save(self, position: Position) -> None:
        weights = self.student.state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise TrainingError(
                f"weights are no longer numbers after step {position.step}; resume from the checkpoint before it with "
                "a lower learning rate"
            )
        states = gather_object([random_state()])
        if self.engine.is_main_process:
            ema = self.ema.module.state_dict() if self.ema is not None else None
            state = {"optimizer": self.optimizer.state_dict(), "random": states}
            self.checkpoints.save(Contents(position, self.recipe, self.about, weights, ema, state))
        self.engine.wait_for_everyone()

    def _restore(self, found: Contents) -> Position:
        found.refuse_other(self.recipe, self.about)
        states = found.state["random"]
        if len(states) != self.engine.num_processes:
            raise CheckpointError(
                f"the checkpoint was made by {len(states)} processes, this run has {self.engine.num_processes}; resume "
                "with the same number"
            )
        try:
            self.student.load_state_dict(found.weights)
            if self.ema is not None:
                self.ema.module.load_state_dict(found.ema or {})
            self.optimizer.load_state_dict(found.state["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint is of another model: {reason}; resume with the same model") from None
        set_random_state(states[self.engine.process_index])
        self.progress.note(f"resuming after epoch {found.position.epoch} of {self.recipe.epochs}")
        return found.position

    def _check_batch(self, images: Tensor) -> None:
        if len(images) != self.micro_batch:
            raise DataError(
                f"the data gives {len(images)} images at a time where the recipe needs {self.micro_batch}; open it "
                "with that batch size"
            )

    def _check_classes(self, logits: Tensor, who: str) -> None:
        if logits.shape[-1] != self.data.num_classes:
            raise ShapeError(
                f"the {who} has {logits.shape[-1]} classes, the data {self.data.num_classes}; build it with "
                f"num_classes={self.data.num_classes}"
            )


@contextmanager
def _written(path: Path, cure: str) -> Iterator[None]:
    """A fault of the disk, as the user is told of it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {cure}") from None


def _engine(recipe: Recipe, output: Path, trackers: Sequence[str], *, cpu: bool) -> Accelerator:
    # Autocast is torch's own here: Accelerate fixes one dtype per Python process and rewrites the model's forward.
    return Accelerator(
        cpu=cpu,
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=recipe.accumulate, sync_with_dataloader=False
        ),
        log_with=list(trackers) or None,
        project_dir=output,
    )
