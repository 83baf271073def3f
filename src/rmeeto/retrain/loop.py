"""The training loop: epochs, steps, checkpoints and validations in their order.

One loop for re-training (with a teacher) and for training from random weights (without). It knows neither
that tokens are merged nor where images come from.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm.utils import ModelEmaV3
from torch import nn

from rmeeto.errors import CheckpointError, DataError, OutputError, SettingsError, TrainingError
from rmeeto.records import Accuracy, Epoch, Run
from rmeeto.retrain.batches import TrainingData, begin_epoch, full_batches
from rmeeto.retrain.checkpoint import Checkpoints, Contents
from rmeeto.retrain.engine import Processes, written
from rmeeto.retrain.log import Diary, JsonLines
from rmeeto.retrain.meter import Meter
from rmeeto.retrain.optimise import LearningRate, set_lr
from rmeeto.retrain.parallel import hold
from rmeeto.retrain.progress import Progress, Silent
from rmeeto.retrain.recipe import Recipe
from rmeeto.retrain.run_spec import RunSpec
from rmeeto.retrain.signals import Stopped, StopRequests
from rmeeto.retrain.state import WEIGHTS, Position, kept_random_state, random_state, set_random_state
from rmeeto.retrain.steps import Stepper

Validate = Callable[[nn.Module], Accuracy]
CHECKPOINTS = "checkpoints"
LOG = "log.jsonl"
_DEFAULT = RunSpec()


def train(
    student: nn.Module,
    teacher: nn.Module | None,
    data: TrainingData,
    recipe: Recipe,
    output: str | Path,
    *,
    spec: RunSpec = _DEFAULT,
    validate: Validate | None = None,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    cpu: bool = False,
) -> Run:
    """Train a model as a recipe says; at the end it holds the last weights and is in eval mode.

    Seeds Python's, NumPy's and torch's generators with the recipe's seed. Writes checkpoints/, log.jsonl and
    tensorboard/ under `output`; `Checkpoints(output / "checkpoints").best()` names the best weights. Under torchrun
    all processes call it; SIGTERM and SIGINT end it after a step.

    Args:
        student: images -> logits (b, classes); its drop-path is already built in.
        teacher: the same from the same images, put into eval mode; None trains on labels alone.
        data: full batches of `recipe.micro_batch(processes)` images, this process's share.
        recipe: the settings.
        output: folder of the run; only the main process reads and writes it.
        spec: how the run is carried out.
        validate: the accuracy of a model, which is in eval mode, the same in all processes; called after each epoch
            for the student and for its moving average, and as `spec` says for the student.
        progress: told how it goes.
        about: plain values that say what is trained on what; a resume with others is refused.
        environment: kept in the record.
        cpu: stay off the accelerator.

    Raises:
        SettingsError: the recipe does not fit the number of processes, or the teacher is the student itself.
        DataError: too few images for one step, or batches of a wrong size.
        ShapeError: the model's classes are not the data's.
        CheckpointError: nothing to resume from is whole, or it is another run's.
        OutputError: `output` holds another run, or cannot be written.
        TrainingError: the loss is no longer a number.
        Stopped: a signal ended the run; what is done is saved.
    """
    if teacher is student:
        raise SettingsError("the teacher is the student itself; give a copy of it as the teacher")
    run = _Run(student, teacher, data, recipe, Path(output), spec, progress or Silent(), about or {}, cpu=cpu)
    try:
        with run.stop:
            position = run.go_on(run.start(validate), validate)
    finally:
        run.close()
    run.held.refresh()
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


class _Run:
    """The parts of one run."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        data: TrainingData,
        recipe: Recipe,
        output: Path,
        spec: RunSpec,
        progress: Progress,
        about: Mapping[str, Any],
        *,
        cpu: bool,
    ) -> None:
        self.processes = Processes(cpu=cpu)
        self.recipe, self.output, self.data, self.spec = recipe, output, data, spec
        self.about = {"verb": "pretrain" if teacher is None else "retrain", **about}
        self.stop = StopRequests()
        self.progress = progress if self.processes.is_main else Silent()
        self.checkpoints = Checkpoints(output / CHECKPOINTS)
        self.trackers = self.processes.trackers(spec.trackers, output)
        micro_batch = recipe.micro_batch(self.processes.count)
        self.steps_per_epoch = full_batches(data.train, micro_batch) // recipe.accumulate
        if self.steps_per_epoch == 0:
            raise DataError(f"the training set has less than one step of {recipe.batch_size} images; lower batch_size")
        self.lr = LearningRate.of(recipe, self.steps_per_epoch)
        self.lines = JsonLines(output / LOG) if self.processes.is_main else None
        self.diary = Diary(
            self.lines,
            self.trackers.log,
            self.progress,
            every=spec.log_every,
            epochs=recipe.epochs,
            steps_per_epoch=self.steps_per_epoch,
            time_limit=recipe.time_limit,
        )
        self._build(student, teacher if recipe.distill_weight > 0 else None, micro_batch)

    def _build(self, student: nn.Module, teacher: nn.Module | None, micro_batch: int) -> None:
        recipe, device = self.recipe, self.processes.device
        self.held = hold(student.to(device), self.processes, self.spec.parallel)
        teacher = teacher.to(device).eval() if teacher is not None else None
        self.ema: ModelEmaV3 | None = None
        if recipe.ema_decay is not None:
            self.ema = ModelEmaV3(student, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)
        process = (self.processes.index, self.processes.count)
        self.stepper = Stepper(self.held, teacher, recipe, self.data.num_classes, micro_batch, device, process)

    def start(self, validate: Validate | None) -> Position:
        """Seed, or take up where a checkpoint stands; open the logs."""
        self.processes.seed(self.recipe.seed)
        resuming = self.processes.restarted or self.spec.resume == "auto"
        position = self._resumed() if resuming else self._new()
        self.begun = time.perf_counter() - position.seconds
        if self.processes.is_main:
            with written(self.output, "name another output folder"):
                self.output.mkdir(parents=True, exist_ok=True)
        with written(self.output, "name another output folder"):
            self.trackers.open(position.step, self.recipe.to_dict())
        if self.lines is not None:
            self.lines.cut_after(position, position.epochs if validate is None else position.judged_epochs)
        return position

    def go_on(self, position: Position, validate: Validate | None) -> Position:
        """Train epoch after epoch; each is saved before it is validated, so that validating can cost none."""
        while True:
            judging = validate is not None and len(position.judged_epochs) < len(position.epochs)
            if self.processes.any(self.stop.asked is not None):
                raise self._stopped(position)
            if position.finished and not judging:
                return position
            if judging and validate is not None:
                position = self._judge(position, validate)
            else:
                position = self._epoch(position, validate)
                position = self._save(position)
            if not judging and validate is not None:
                continue
            self.diary.epoch(position.epochs[-1], position.step)

    def close(self) -> None:
        """End the bar and the trackers, and give the student its layers back, whatever happened."""
        self.stepper.dropping.close()
        self.progress.close()
        self.trackers.close()

    def _epoch(self, position: Position, validate: Validate | None) -> Position:
        """Train one epoch, or what is left of it, or what the time limit leaves."""
        skip = position.epoch_steps * self.recipe.accumulate
        batches = begin_epoch(self.data.train, position.epoch, skip)
        self.held.model.train()
        meter, place = self._meter(position), 0.0
        waited = meter.timed(batches)
        while meter.steps < self.steps_per_epoch and (place < self.lr.last or meter.step == 0):
            place = self._place(meter)
            set_lr(self.stepper.optimizer, self.lr.at(place))
            meter.add(self.stepper.take(waited, meter.step))
            self._average(meter.step)
            if meter.steps < self.steps_per_epoch and place < self.lr.last:
                self._between(position, meter, validate)
        meter.read()
        epoch = Epoch(
            epoch=position.epoch + 1,
            steps=meter.steps,
            loss=meter.loss,
            lr=self.lr.at(place),
            images_per_second=meter.steps * self.recipe.batch_size / meter.seconds,
            seconds=meter.seconds,
            skipped=meter.skipped,
            data_wait=meter.data_wait,
        )
        ended = dataclasses.replace(
            self._reached(position, meter), epoch_steps=0, epoch_loss=0.0, epoch_skipped=0, epoch_seconds=0.0
        )
        return dataclasses.replace(ended.after(epoch), finished=place >= self.lr.last)

    def _between(self, position: Position, meter: Meter, validate: Validate | None) -> None:
        """After a step within an epoch: validate, save, or leave, as is due."""
        validating = validate is not None and _due(self.spec.validate_every, meter.step)
        due = validating or _due(self.spec.checkpoint_every, meter.step)
        # Whether somebody asked is agreed on where losses are read: more often would make an accelerator wait.
        asked = (due or meter.is_read) and self.processes.any(self.stop.asked is not None)
        if not (asked or due):
            return
        with meter.paused():
            here = self._reached(position, meter)
            if validating and validate is not None and not asked:
                try:
                    self.diary.validation(self._accuracy(self.held.student, validate), meter.step)
                except Stopped:
                    self._save(here)
                    raise self._stopped(here) from None
                self.held.model.train()
            # Bad steps must not push the last good checkpoint out.
            if asked or (_due(self.spec.checkpoint_every, meter.step) and not meter.in_a_row):
                self._save(here)
        if asked:
            raise self._stopped(here)

    def _stopped(self, position: Position) -> Stopped:
        found = self.checkpoints.all()
        return Stopped(self.stop.asked or "a signal", position.step, found[0] if found else None)

    def _reached(self, position: Position, meter: Meter) -> Position:
        """The position after the meter's last step."""
        return dataclasses.replace(
            position,
            step=meter.step,
            epoch_steps=meter.steps,
            epoch_loss=meter.total,
            epoch_skipped=meter.skipped,
            epoch_seconds=meter.seconds,
            skipped_in_a_row=meter.in_a_row,
            trained=meter.trained,
            images=meter.step * self.recipe.batch_size,
        )

    def _average(self, step: int) -> None:
        # Without warm-up the average starts from the weights that the student starts from (as published for base).
        if self.ema is not None:
            self.held.refresh()
            self.ema.update(self.held.student, step=step if self.recipe.ema_warmup else None)

    def _place(self, meter: Meter) -> float:
        """The step's place in the schedule: its number, or further on where time is used up faster than steps.

        The step that is expected to use up the time stands at the end, so that every run ends at `min_lr`.
        """
        limit = self.recipe.time_limit
        if limit is None:
            return meter.step
        used = self.processes.first(meter.trained + meter.step_seconds)  # all must stop at the same step
        return min(self.lr.last, max(meter.step, used / limit * self.lr.last))

    def _meter(self, position: Position) -> Meter:
        def rescue() -> str:
            found = self.checkpoints.good()
            if found is None:
                return "no checkpoint was written before them"
            return f"the last good checkpoint is {found}, whose {WEIGHTS} can begin a new run"

        return Meter(
            position,
            batch_size=self.recipe.batch_size,
            # A CPU never runs ahead of Python; waiting for an accelerator at every step would.
            read_every=1 if self.processes.device.type == "cpu" else self.spec.log_every,
            window=self.spec.log_every,
            gather=self.processes.mean,
            tell=lambda reading: self.diary.step(reading, self.stepper.optimizer.param_groups[0]["lr"]),
            note=self.progress.note,
            rescue=rescue,
        )

    def _judge(self, position: Position, validate: Validate) -> Position:
        """The position with the accuracy of the student and of its moving average; its checkpoint knows it too."""
        try:
            accuracy = self._accuracy(self.held.student, validate)
            averaged = self._accuracy(self.ema.module, validate).top1 if self.ema is not None else None
        except Stopped:
            raise self._stopped(position) from None
        epoch = dataclasses.replace(position.epochs[-1], top1=accuracy.top1, top5=accuracy.top5, ema_top1=averaged)
        position = dataclasses.replace(position.judged(epoch), seconds=time.perf_counter() - self.begun)
        if self.processes.is_main:
            self.checkpoints.judge(position)
        return position

    def _accuracy(self, model: nn.Module, validate: Validate) -> Accuracy:
        self.held.refresh()
        with kept_random_state():
            if self.processes.count > 1:  # leaving alone would keep the others waiting
                return validate(model.eval())
            with self.stop.at_once():
                return validate(model.eval())

    def _save(self, position: Position) -> Position:
        """The position with the time that it took until now, which its checkpoint knows."""
        self.held.refresh()
        weights = self.held.student.state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise TrainingError(
                f"weights are no longer numbers after step {position.step}; resume from the checkpoint before it with "
                "a lower learning rate"
            )
        position = dataclasses.replace(position, seconds=time.perf_counter() - self.begun)
        random = self.processes.gathered(random_state())
        state = {**self.stepper.state(), "random": random}
        if self.processes.is_main:
            ema = self.ema.module.state_dict() if self.ema is not None else None
            self.checkpoints.save(Contents(position, self.recipe, self.about, weights, ema, state))
        self.processes.wait()
        return position

    def _new(self) -> Position:
        if self.processes.told(bool(self.checkpoints.all())):
            raise OutputError(f"{self.output} holds a run already; resume it, or name another output folder")
        return Position()

    def _resumed(self) -> Position:
        """Where the newest whole checkpoint stands, which the main process reads for all."""
        found = self.checkpoints.newest(self.progress.note) if self.processes.is_main else None
        found = self.processes.told(found)
        return Position() if found is None else self._restore(found)

    def _restore(self, found: Contents) -> Position:
        found.refuse_other(self.recipe, self.about)
        try:
            self.held.load(found.weights)
            if self.ema is not None:
                self.ema.module.load_state_dict(found.ema or {})
            self.stepper.load(dict(found.state))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint is of another model: {reason}; resume with the same model") from None
        states, position = found.state["random"], found.position
        if len(states) == self.processes.count:
            set_random_state(states[self.processes.index])
        else:  # whoever is new has no state; what drop-path draws was another number of processes' anyway
            self.processes.seed(self.recipe.seed + position.step * self.processes.count)
        if self.processes.is_main:
            self.checkpoints.index(position)
        for line in found.news(self.processes.count):
            self.progress.note(line)
        return position


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
