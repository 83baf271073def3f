"""One optimiser step: micro-batches, precision, clipping, and what happens when numbers are no longer numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn

from rmeeto.data import Share, places_in_step
from rmeeto.errors import DataError, SettingsError, ShapeError
from rmeeto.retrain.batches import next_batch
from rmeeto.retrain.distill import DistillationLoss, Mixed, Mixer
from rmeeto.retrain.dropping import Dropping
from rmeeto.retrain.optimise import adamw
from rmeeto.retrain.parallel import Held, Sharded
from rmeeto.retrain.recipe import Recipe
from rmeeto.retrain.teacher import Memory

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
Batch = tuple[Tensor, Tensor]


@final
class Stepper:
    """Takes optimiser steps.

    A step whose loss or gradients are not finite changes no weight, in no process.

    Args:
        held: the student.
        teacher: in eval mode, or None.
        recipe: the settings.
        classes: outputs that student and teacher must have.
        micro_batch: images that a batch must have.
        device: where all is computed.
        process: number of this process, and how many there are.
    """

    def __init__(
        self,
        held: Held,
        teacher: nn.Module | None,
        recipe: Recipe,
        classes: int,
        micro_batch: int,
        device: torch.device,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        if recipe.precision == "fp16" and isinstance(held, Sharded):
            raise SettingsError("precision fp16 scales the loss, which fsdp does not do here; use bf16, or ddp")
        self.held, self.teacher, self.recipe, self.device = held, teacher, recipe, device
        self.classes, self.micro_batch = classes, micro_batch
        self.optimizer: torch.optim.Optimizer = adamw(held.trained, recipe)
        self.parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.mixer = Mixer(recipe, classes)
        self.share = Share(*process, recipe.accumulate)
        self.dropping = Dropping(held.trained, recipe.seed)
        self.loss = DistillationLoss(recipe.distill_weight, recipe.temperature)
        self.taught = Memory(self._computed) if recipe.cache_teacher else self._computed

    def take(self, batches: Iterator[Batch], step: int) -> Tensor:
        """One step.

        Args:
            batches: gives as many as `recipe.accumulate` says.
            step: its number, from 0.

        Returns:
            (2,) float32: this process's mean loss, and the norm of all gradients before clipping.

        Raises:
            DataError, ShapeError: a batch or its classes do not fit.
        """
        parts = self.recipe.accumulate
        losses = []
        for part in range(parts):
            mixed = self._mixed(*next_batch(batches), step)
            taught = None if self.teacher is None else self.taught(mixed.images)
            places = places_in_step(self.share, part, self.micro_batch)
            self.dropping.draw(step, self.recipe.batch_size, places, self.device)
            with self.held.accumulating(last=part == parts - 1):
                with self._autocast():
                    logits = self.held.model(mixed.images)
                self._check_classes(logits, "student")
                loss = self.loss(logits, mixed.targets, taught)
                # A loss that is no number spoils all gradients, so that every process sees it and takes no step.
                fair = torch.where(loss.isfinite(), 1.0, torch.nan)
                self.scaler.scale(loss * fair / parts).backward()
            losses.append(loss.detach())
        norm = self._apply()
        return torch.stack([torch.stack(losses).mean(), norm])

    def state(self) -> dict[str, Any]:
        """Optimiser and scaler, as a checkpoint keeps them."""
        return {"optimizer": self.held.optimizer_state(self.optimizer), "scaler": self.scaler.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.held.load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def _apply(self) -> Tensor:
        """Clip, step, and forget the gradients; their norm before."""
        self.scaler.unscale_(self.optimizer)
        norm: Any = nn.utils.get_total_norm([each.grad for each in self.parameters if each.grad is not None])
        if self.recipe.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.clip_grad, norm)
        if isinstance(self.held, Sharded):  # the parts of all processes
            norm = norm.full_tensor()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif isinstance(self.held, Sharded):
            if bool(norm.isfinite()):
                self.optimizer.step()
        else:
            self._step_unless(~norm.isfinite())
        self.optimizer.zero_grad()
        whole: Tensor = norm.float()
        return whole

    def _step_unless(self, broken: Tensor) -> None:
        """The fused optimiser reads this flag on the device, so that nobody waits for it."""
        optimizer: Any = self.optimizer
        optimizer.found_inf = broken.float()
        optimizer.step()
        del optimizer.found_inf

    def _mixed(self, images: Tensor, labels: Tensor, step: int) -> Mixed:
        if len(images) != self.micro_batch:
            raise DataError(
                f"the data gives {len(images)} images at a time where the recipe needs {self.micro_batch}; open it "
                "with that batch size"
            )
        return self.mixer(images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True), step)

    def _computed(self, images: Tensor) -> Tensor:
        """The teacher's logits of the same mixed images."""
        assert self.teacher is not None
        with torch.no_grad(), self._autocast():
            logits: Tensor = self.teacher(images)
        self._check_classes(logits, "teacher")
        return logits

    def _autocast(self) -> torch.autocast:
        # torch's own: Accelerate fixes one dtype per Python process and rewrites the model's forward.
        dtype = _AUTOCAST[self.recipe.precision]
        return torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def _check_classes(self, logits: Tensor, who: str) -> None:
        if logits.shape[-1] != self.classes:
            raise ShapeError(
                f"the {who} has {logits.shape[-1]} classes, the data {self.classes}; build it with "
                f"num_classes={self.classes}"
            )
