"""How a run is carried out: one frozen value that no checkpoint compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rmeeto.errors import SettingsError

Parallel = Literal["ddp", "fsdp"]
Resume = Literal["no", "auto"]
TENSORBOARD = "tensorboard"
TRACKERS = (TENSORBOARD, "wandb", "trackio")


@dataclass(frozen=True)
class RunSpec:
    """What may differ between two parts of one run: nothing in it changes what is learnt.

    Attributes:
        resume: "auto" continues from the newest whole checkpoint in the output folder and starts where there is none;
            "no" starts.
        checkpoint_every: steps between two checkpoints; None writes one at the end of each epoch alone, and when
            SIGTERM or SIGINT end the run.
        validate_every: steps between two validations within an epoch; None validates at the end of each epoch alone.
        log_every: steps between two lines of the log.
        tracker: logs beside log.jsonl, several with commas between: tensorboard, wandb, trackio; "none" for none.
        parallel: how several processes hold the model: "ddp" each all of it, "fsdp" each a part (FSDP2).

    Raises:
        SettingsError: a value that cannot be.
    """

    resume: Resume = "no"
    checkpoint_every: int | None = None
    validate_every: int | None = None
    log_every: int = 10
    tracker: str = TENSORBOARD
    parallel: Parallel = "ddp"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("checkpoint_every", "validate_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} {value} is no number of steps; give 1 or more")
        if self.resume not in ("no", "auto"):
            raise SettingsError(f"resume {self.resume!r} is unknown; use auto to continue, no to start")
        if self.parallel not in ("ddp", "fsdp"):
            raise SettingsError(f"parallel {self.parallel!r} is unknown; use ddp or fsdp")
        if unknown := [name for name in self.trackers if name not in TRACKERS]:
            raise SettingsError(f"tracker {unknown[0]!r} is unknown; use {', '.join(TRACKERS)} or none")

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names in `tracker`."""
        names = (name.strip() for name in self.tracker.split(","))
        return tuple(name for name in names if name not in ("", "none"))
