"""Processes, devices and trackers: the only file that imports Accelerate.

torchrun starts the processes and says so in the environment; Accelerate reads it and joins them by torch.distributed
(NCCL between GPUs, gloo between CPUs). Without torchrun there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import broadcast, broadcast_object_list, gather_object, reduce, set_seed
from torch import Tensor, distributed, nn

from rmeeto.errors import OutputError, SettingsError
from rmeeto.retrain.run_spec import TENSORBOARD

T = TypeVar("T")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
_PROJECT = "rmeeto"


class Processes:
    """All processes of a run; making one waits until the others are there.

    Args:
        cpu: stay off the accelerator.

    Attributes:
        device: where this process computes.
        index, count: number of this process, from 0, and how many there are.

    Raises:
        SettingsError: torchrun started several processes, and the accelerator here cannot join them.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        self._cpu = cpu or not torch.accelerator.is_available()  # else Accelerate joins no processes on a CPU
        _share_threads()
        _join(self._cpu)
        state = PartialState(cpu=self._cpu)
        self.device: torch.device = state.device
        self.index: int = state.process_index
        self.count: int = state.num_processes
        if self.count != int(os.environ.get("WORLD_SIZE", "1")):
            raise SettingsError(f"several processes cannot train together on {self.device.type}; start one")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and tells people."""
        return self.index == 0

    @property
    def restarted(self) -> bool:
        """Whether torchrun started a process again after a fault; asked of all processes together."""
        return self.any(int(os.environ.get(RESTARTS, "0")) > 0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return reduce(values, "mean") if self.count > 1 else values

    def total(self, values: Sequence[float]) -> list[float]:
        """Numbers added up over all processes, in float64 where the device has it."""
        if self.count == 1:
            return list(values)
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        added: list[float] = reduce(torch.tensor(values, dtype=kind, device=self.device), "sum").tolist()
        return added

    def any(self, flag: bool) -> bool:  # noqa: FBT001  a function of one value, like the built-in
        """Whether it is true in any process."""
        return self.total([float(flag)])[0] > 0

    def told(self, value: T) -> T:
        """The main process's value, in all processes."""
        if self.count == 1:
            return value
        values = [value if self.is_main else None]
        found: T = broadcast_object_list(values)[0]
        return found

    def first(self, number: float) -> float:
        """The main process's number, in all processes."""
        if self.count == 1:
            return number
        return float(broadcast(torch.tensor(number, dtype=torch.float32, device=self.device)))

    def gathered(self, value: T) -> list[T]:
        """Every process's value, in all of them."""
        values: list[T] = gather_object([value])
        return values

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            PartialState().wait_for_everyone()

    def seed(self, seed: int) -> None:
        """Start every generator of this process at `seed` + its number."""
        set_seed(seed + self.index)

    def replicated(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over all processes (DistributedDataParallel)."""
        if self.count == 1:  # one process needs nothing of what preparing does to a model
            return model
        prepared: nn.Module = Accelerator(cpu=self._cpu).prepare_model(model)
        return prepared

    def trackers(self, names: Sequence[str], output: Path) -> Trackers:
        """Further logs.

        Raises:
            SettingsError: one of them is not installed.
        """
        for name in names:
            if find_spec(name) is None:
                raise SettingsError(f"tracker {name} is not installed; run `pip install {name}`, or leave it out")
        return Trackers(Accelerator(cpu=self._cpu, log_with=list(names) or None, project_dir=output), output)


class Trackers:
    """What Accelerate logs to, on the main process; `Processes.trackers` makes it.

    Args:
        engine: Accelerate's.
        output: folder of the run.
    """

    def __init__(self, engine: Accelerator, output: Path) -> None:
        self._engine, self._output = engine, output

    def open(self, step: int, settings: Mapping[str, Any]) -> None:
        """Begin, or go on after `step`.

        Raises:
            SettingsError: one of them refuses, as where nobody is logged in.
        """
        kept = {name: value for name, value in settings.items() if isinstance(value, bool | str | float | int)}
        names = list(map(str, self._engine.log_with))
        self._engine.log_with = [self._tracker(name, step) for name in names]
        try:
            # TensorBoard would write them as a run of their own; they are in run.json.
            self._engine.init_trackers(_PROJECT, kept if names != [TENSORBOARD] else None)
        except Exception as error:
            self._engine.trackers.clear()  # one that is half open cannot be closed
            if isinstance(error, OSError) or names == [TENSORBOARD]:
                raise
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise SettingsError(
                f"tracker {', '.join(names)} cannot start: {reason}; log in, let it work without a network (wandb: "
                "WANDB_MODE=offline), or leave it out"
            ) from None

    def _tracker(self, name: str, step: int) -> Any:
        """One of Accelerate's: TensorBoard in a folder of its name, a run called like the output folder elsewhere."""
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        if name == TENSORBOARD:
            return kind(TENSORBOARD, self._output, purge_step=step + 1)
        where = {"dir": str(self._output)} if name == "wandb" else {}
        return kind(_PROJECT, name=self._output.resolve().name, **where)

    def log(self, values: dict[str, float], step: int) -> None:
        """Hand on values of one step."""
        with written(self._output / TENSORBOARD, "free some space, then resume"):
            self._engine.log(values, step=step)

    def close(self) -> None:
        """Write what is left."""
        with written(self._output / TENSORBOARD, "free some space, then resume"):
            for tracker in self._engine.trackers:
                tracker.finish()


def _share_threads() -> None:
    """Divide the processor among the processes of this machine where nobody did.

    torchrun does it for several processes and not for one, as of two machines; Accelerate then would, with a warning.
    """
    here = os.environ.get("LOCAL_WORLD_SIZE")
    if here is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(here)))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # for what this process starts, and for Accelerate


def _join(cpu: bool) -> None:  # noqa: FBT001  private, and read at one place
    """Meet the other processes of this machine under a name that no earlier attempt used.

    torchrun keeps one store for all attempts, and a process that was started again would find in it the address of
    one that died. Between machines attempts are counted differently: there torchrun gives each a store of its own
    where TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is set, and Accelerate joins them.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    one_machine = os.environ.get("GROUP_WORLD_SIZE") == "1"
    if not (several and one_machine and cpu | torch.cuda.is_available()) or distributed.is_initialized():
        return
    if not cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, world = next(distributed.rendezvous("env://"))
    attempt = distributed.PrefixStore(f"attempt {os.environ.get(RESTARTS, '0')}", store)
    distributed.init_process_group("gloo" if cpu else "nccl", store=attempt, rank=rank, world_size=world)


@contextmanager
def written(path: Path, cure: str) -> Iterator[None]:
    """A fault of the disk, as the user is told of it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {cure}") from None
