"""What a run minimises: soft-target cross entropy plus the teacher's KL divergence (arXiv 2412.12496)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

from rmeeto.retrain.recipe import Recipe
from rmeeto.retrain.state import numpy_seeded


class Mixed(NamedTuple):
    """A batch as student and teacher see it."""

    images: Tensor
    targets: Tensor


class Mixer:
    """Turns (images, labels) into mixed images and soft targets, by timm's mixup and CutMix.

    What is drawn is a function of seed and step: all parts of a step are mixed in one way.
    """

    def __init__(self, recipe: Recipe, classes: int) -> None:
        self.classes = classes
        self.seed = recipe.seed
        self.smoothing = recipe.smoothing
        self.mixup = _mixup(recipe, classes) if recipe.mixes else None

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> Mixed:
        """Mix one batch.

        Args:
            images: (b, ...) with b even where images are mixed; left as they are.
            labels: (b,) int64 class numbers.
            step: number of the optimiser step, from 0.

        Returns:
            images of the same shape, targets (b, classes) float32 whose rows sum to 1.
        """
        if self.mixup is None:
            return Mixed(images, mixup_target(labels, self.classes, smoothing=self.smoothing))
        # timm mixes in place: the caller's images may be a data set in memory.
        with numpy_seeded(self.seed, step):
            return Mixed(*self.mixup(images.clone(), labels))


class DistillationLoss:
    """Cross entropy with soft targets + `weight` x KL(teacher || student), mean over the batch.

    KL is taken between the softmaxes at temperature T and multiplied by T^2, so that its gradient keeps its
    size (Hinton et al., arXiv 1503.02531).
    """

    def __init__(self, weight: float, temperature: float) -> None:
        self.weight = weight
        self.temperature = temperature
        self.cross_entropy = SoftTargetCrossEntropy()

    def __call__(self, logits: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        """The scalar loss, in float32.

        Args:
            logits: (b, classes) of the student.
            targets: (b, classes) rows that sum to 1.
            teacher_logits: (b, classes); None leaves the cross entropy alone.
        """
        logits = logits.float()
        loss: Tensor = self.cross_entropy(logits, targets)
        if teacher_logits is None or self.weight == 0:
            return loss
        student = F.log_softmax(logits / self.temperature, dim=-1)
        teacher = F.log_softmax(teacher_logits.float() / self.temperature, dim=-1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return loss + self.weight * self.temperature**2 * divergence


def _mixup(recipe: Recipe, classes: int) -> Mixup:
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_prob,
        switch_prob=recipe.mixup_switch_prob,
        label_smoothing=recipe.smoothing,
        num_classes=classes,
    )
