"""What a user asks of the pipeline, as frozen values that know no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rmeeto.errors import ScheduleError, SettingsError
from rmeeto.schedule import Phase, Schedule

Numbers = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class ModelSpec:
    """Which network, with which weights and sizes.

    Attributes:
        model: a name such as vim_tiny, a folder with model.safetensors and config.json, published weights such as
            vim_tiny.midclstok_in1k, or hf-hub:owner/name.
        weights: a weight file for a named model (.safetensors or .pth); none means random weights.
        img_size: side of the square input in pixels; none keeps the model's own.
        in_chans: colour channels of the input; none keeps the model's own.
        patch_size: side of a patch in pixels; none keeps the model's own.
        embed_dim: model width; none keeps the model's own.
        depth: number of blocks; none keeps the model's own.
        state_size: state numbers per inner channel; none keeps the model's own.
    """

    model: str = "vim_nano"
    weights: str | None = None
    img_size: int | None = None
    in_chans: int | None = None
    patch_size: int | None = None
    embed_dim: int | None = None
    depth: int | None = None
    state_size: int | None = None

    def sizes(self) -> dict[str, Any]:
        """The sizes that were given."""
        given = {
            "img_size": self.img_size,
            "in_chans": self.in_chans,
            "patch_size": self.patch_size,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "state_size": self.state_size,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class ScheduleSpec:
    """How many tokens leave, and where.

    Attributes:
        r: tokens removed by one merge; the published models use 5 (tiny) and 11 (small, base). --remove is the same:
            older Pythons let torchrun take --r for an option of its own.
        every: distance between merges in blocks.
        phase: even merges before block i when i % every == 0, odd when (i + 1) % every == 0.
        final: tokens left at the end, spread evenly over the merges; overrides r.
        removals: tokens that leave after each block as a JSON list, one number per block; overrides all others.
    """

    r: int = field(default=11, metadata={"flag": "--remove"})
    every: int = 2
    phase: Phase = "even"
    final: int | None = None
    removals: str | None = None

    def build(self, tokens: int, depth: int, *, protected: int = 1) -> Schedule:
        """The schedule for a model, checked to the letter.

        Raises:
            ScheduleError: it does not fit the model, or it removes nothing.
        """
        if self.r < 0:
            raise ScheduleError(
                f"r = {self.r} is negative; give the number of tokens that one merge removes, 1 or more"
            )
        if self.removals is not None:
            schedule = Schedule.from_json(self.removals)
        elif self.final is not None:
            places: dict[str, Any] = {"every": self.every, "phase": self.phase, "protected": protected}
            schedule = Schedule.ending_at(self.final, tokens, depth, **places)
        else:
            schedule = Schedule.constant(self.r, depth, every=self.every, phase=self.phase)
        try:
            schedule.require_fit(tokens, depth, protected=protected)
        except ScheduleError as error:
            if self != ScheduleSpec(every=self.every, phase=self.phase):
                raise
            raise ScheduleError(f"{error} (r is {self.r} where --r or another schedule is not given)") from None
        if not schedule.merges:
            raise ScheduleError(
                f"the schedule {list(schedule.removals)} removes nothing; give r of 1 or more, and merges less than "
                f"{depth} blocks apart"
            )
        return schedule


@dataclass(frozen=True)
class PrecisionSpec:
    """In which numbers a model is measured beside fp32.

    Attributes:
        precision: fp32 for nothing else; bf16 weights and activations; or int8 weights of the large matrix products,
            whose inputs are quantised in each call.

    Raises:
        SettingsError: another word.
    """

    precision: Numbers = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in (known := get_args(Numbers)):
            raise SettingsError(f"precision = {self.precision!r} is unknown; choose one of {', '.join(known)}")


@dataclass(frozen=True)
class SpeedSpec:
    """How speed is measured.

    Attributes:
        speed_batch: images per forward pass while measuring.
        speed_repeats: timed forward passes of each model, the models in turn.
        speed_warmup: forward passes of each model before any is timed.
        threads: CPU threads; none means all that torch uses.
        cuda_graphs: on a GPU replay each forward pass as one CUDA graph, as somebody would who deploys it; without it
            small models wait for Python there.
    """

    speed_batch: int = 16
    speed_repeats: int = 30
    speed_warmup: int = 5
    threads: int | None = None
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name in ("speed_batch", "speed_repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)} measures nothing; give 1 or more")
        if self.speed_warmup < 0:
            raise SettingsError(f"speed_warmup = {self.speed_warmup} is negative; give 0 or more")
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"threads = {self.threads} cannot compute; give 1 or more")
