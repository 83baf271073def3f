"""How a run trains: one frozen value, written into its checkpoints and records.

Augmentation of single images (crops, RandAugment, erasing) belongs to the data; what mixes a batch is here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rmeeto.errors import SettingsError

Precision = Literal["fp32", "bf16", "fp16"]
Name = str

# Epochs of re-training in the published results (arXiv 2412.12496): model -> settings that differ from the defaults.
PUBLISHED: dict[Name, dict[str, Any]] = {
    "vim_tiny": {"epochs": 30},
    "vim_small": {"epochs": 15},
    "vim_base": {"epochs": 15, "ema_decay": 0.99996},
    "videomamba_tiny": {"epochs": 30},
    "videomamba_small": {"epochs": 15},
    "videomamba_base": {"epochs": 15, "ema_decay": 0.99996},
}
MINUTES_EPOCHS = 3
_PUBLISHED_PEAK, _PUBLISHED_LAST = 2e-5, 1e-6  # of re-training, for batches of 512
_LARGEST_LAST = 1e-5  # as in DeiT's training, whose peak is 1e-3 and whose warm-up is 5 of 300 epochs
_EPOCHS_OVER_WARMUP, _LONGEST_WARMUP = 10, 5.0


@dataclass(frozen=True)
class Recipe:
    """The settings of one training run; the defaults are the published re-training of the tiny models.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per optimiser step, all processes and micro-batches together.
        accumulate: micro-batches whose gradients make one step.
        lr_base: peak learning rate at a batch of `lr_base_size`; scaled linearly to `batch_size`.
        lr_base_size: the batch that `lr_base` is meant for.
        lr: peak learning rate as it is, instead of the scaled one; None scales.
        min_lr: learning rate of the last step; None takes a twentieth of the peak, as published, and 1e-5 at most.
        warmup_epochs: epochs of linear warm-up, fractions allowed; None takes a tenth of all, and 5 at most.
        weight_decay: of AdamW, on weights of two or more dimensions that the model does not exempt.
        betas: of AdamW.
        eps: of AdamW.
        clip_grad: largest norm of all gradients together; None does not clip.
        drop_path: rate of the last block, linear over depth; read by whoever builds the student.
        patch_drop: largest share of an image's patches that a step leaves out; each step draws its own between 0 and
            this one; read by whoever builds the student.
        distill_weight: factor of the teacher's KL divergence; unread without a teacher.
        temperature: of the distillation, 1 leaves the logits as they are.
        cache_teacher: compute the teacher's logits once for each image that comes again as it was, and keep them, up to
            256 MiB: for few images, neither mixed nor cropped at random; unread without a teacher.
        mixup: alpha of mixup, 0 is off.
        cutmix: alpha of CutMix, 0 is off.
        mixup_prob: share of batches that are mixed.
        mixup_switch_prob: share of mixed batches that take CutMix where both are on.
        smoothing: share of the label spread over all classes.
        ema_decay: of the moving average of the weights; None keeps none.
        ema_warmup: let the decay grow from 0 (for runs from random weights).
        seed: of mixing, drop-path and all else that is drawn while training.
        precision: of the matrix products (autocast); weights, optimiser, scan states and A stay fp32. fp16 scales
            the loss.
        time_limit: seconds of training steps after which the run ends, its schedule shortened to fit; such a
            run depends on the machine's speed and is not bit-reproducible. None trains all epochs.

    Raises:
        SettingsError: a value that cannot be.
    """

    epochs: int = 30
    batch_size: int = 512
    accumulate: int = 1
    lr_base: float = 2e-5
    lr_base_size: int = 512
    lr: float | None = None
    min_lr: float | None = None
    warmup_epochs: float | None = 0.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad: float | None = None
    drop_path: float = 0.1
    patch_drop: float = 0.0
    distill_weight: float = 0.5
    temperature: float = 1.0
    cache_teacher: bool = False
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    smoothing: float = 0.1
    ema_decay: float | None = None
    ema_warmup: bool = False
    seed: int = 0
    precision: Precision = "fp32"
    time_limit: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is built."""
        for name in ("epochs", "batch_size", "accumulate", "lr_base_size"):
            self._check(name, _is_int(getattr(self, name)) and getattr(self, name) >= 1, "a whole number, 1 or more")
        self._check("seed", _is_int(self.seed) and 0 <= self.seed < 2**31, "a whole number from 0 to 2**31 - 1")
        for name in ("weight_decay", "distill_weight", "mixup", "cutmix"):
            self._check(name, _is_real(getattr(self, name)) and getattr(self, name) >= 0, "a number, 0 or more")
        for name in ("lr_base", "eps", "temperature"):
            self._check(name, _is_real(getattr(self, name)) and getattr(self, name) > 0, "a number above 0")
        for name in ("lr", "clip_grad", "time_limit"):
            value = getattr(self, name)
            self._check(name, value is None or (_is_real(value) and value > 0), "a number above 0, or None")
        for name in ("min_lr", "warmup_epochs"):
            value = getattr(self, name)
            self._check(name, value is None or (_is_real(value) and value >= 0), "a number, 0 or more, or None")
        for name in ("drop_path", "patch_drop", "smoothing"):
            self._check(name, _is_real(getattr(self, name)) and 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("mixup_prob", "mixup_switch_prob"):
            self._check(name, _is_real(getattr(self, name)) and 0 <= getattr(self, name) <= 1, "in [0, 1]")
        decay = self.ema_decay
        self._check("ema_decay", decay is None or (_is_real(decay) and 0 <= decay < 1), "in [0, 1), or None")
        for name in ("ema_warmup", "cache_teacher"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        self._check("betas", _are_betas(self.betas), "two numbers in [0, 1)")
        self._check("precision", self.precision in ("fp32", "bf16", "fp16"), "'fp32', 'bf16' or 'fp16'")
        self._check_together()

    @classmethod
    def published(cls, model: Name, *, minutes: bool = False) -> Recipe:
        """The published re-training of a model: 512 images a step on ImageNet.

        Args:
            model: a key of `PUBLISHED`.
            minutes: the three-epoch setting.

        Raises:
            SettingsError: nothing was published for this model.
        """
        if model not in PUBLISHED:
            raise SettingsError(f"no published recipe for {model!r}; there are {', '.join(PUBLISHED)}")
        settings = PUBLISHED[model] | ({"epochs": MINUTES_EPOCHS} if minutes else {})
        return cls(**settings)

    @classmethod
    def pretraining(cls) -> Recipe:
        """Training from random weights, without a teacher: the recipe of DeiT with gradient clipping."""
        return cls(epochs=300, lr_base=1e-3, warmup_epochs=None, clip_grad=1.0, distill_weight=0.0, ema_warmup=True)

    @property
    def peak_lr(self) -> float:
        """The largest learning rate of the run."""
        return self.lr if self.lr is not None else self.lr_base * self.batch_size / self.lr_base_size

    @property
    def last_lr(self) -> float:
        """The learning rate of the last step: the published share of the peak where `min_lr` does not say it."""
        published = self.peak_lr * _PUBLISHED_LAST / _PUBLISHED_PEAK
        return min(published, _LARGEST_LAST) if self.min_lr is None else self.min_lr

    @property
    def warmup(self) -> float:
        """Epochs of linear warm-up: a share of all where `warmup_epochs` does not say it."""
        return (
            min(self.epochs / _EPOCHS_OVER_WARMUP, _LONGEST_WARMUP)
            if self.warmup_epochs is None
            else self.warmup_epochs
        )

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with one another."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mixup_prob > 0

    def micro_batch(self, processes: int = 1) -> int:
        """Images that one process takes at a time.

        Raises:
            SettingsError: the batch does not divide, or is odd where images are mixed in pairs.
        """
        parts = self.accumulate * processes
        images, rest = divmod(self.batch_size, parts)
        if rest:
            raise SettingsError(
                f"batch_size {self.batch_size} does not divide by {self.accumulate} micro-batches x {processes} "
                f"processes; use a multiple of {parts}"
            )
        if self.mixes and images % 2:
            raise SettingsError(
                f"mixup and cutmix mix images in pairs, but a micro-batch holds {images}; use an even number of images "
                "in each, or set both to 0"
            )
        return images

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML know them."""
        return {**dataclasses.asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Read what `to_dict` wrote; fields left out keep their defaults.

        Raises:
            SettingsError: an unknown field, or a value that cannot be.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(values.keys() - set(known)):
            raise SettingsError(f"a recipe has no field {', '.join(unknown)}; its fields are {', '.join(known)}")
        plain = dict(values)
        if isinstance(plain.get("betas"), list):
            plain["betas"] = tuple(plain["betas"])
        return cls(**plain)

    def differences(self, other: Recipe) -> list[str]:
        """Each field in which two recipes learn differently, as "name (this value, other value)".

        `accumulate` and `cache_teacher` are none of them: they say how it is computed, not what is learnt.
        """
        mine, theirs = self.to_dict(), other.to_dict()
        names = (name for name in mine if name not in ("accumulate", "cache_teacher"))
        return [f"{name} ({mine[name]!r}, {theirs[name]!r})" for name in names if mine[name] != theirs[name]]

    def _check(self, name: str, valid: bool, rule: str) -> None:  # noqa: FBT001
        if not valid:
            raise SettingsError(f"recipe: {name} is {getattr(self, name)!r}; it must be {rule}")

    def _check_together(self) -> None:
        self.micro_batch()
        if self.cache_teacher and self.mixes:
            raise SettingsError(
                "recipe: cache_teacher is True, and mixed images never come again; set mixup and cutmix to 0, or leave "
                "cache_teacher out"
            )
        if self.min_lr is not None and self.min_lr > self.peak_lr:
            raise SettingsError(
                f"recipe: min_lr {self.min_lr:g} is above the peak {self.peak_lr:g} of a batch of {self.batch_size}; "
                "lower min_lr or leave it out, or set lr itself"
            )
        if self.warmup >= self.epochs:
            raise SettingsError(
                f"recipe: {self.warmup:g} warm-up epochs leave none of {self.epochs} for the cosine; "
                f"set warmup_epochs below {self.epochs}, or train for more epochs"
            )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_betas(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_real(beta) and 0 <= beta < 1 for beta in value)
