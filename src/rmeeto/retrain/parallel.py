"""How the processes of a run hold the model that they train: each all of it, or each a part."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from rmeeto.retrain.engine import Processes
from rmeeto.retrain.run_spec import Parallel


class Held(ABC):
    """A student in training: an interface.

    Attributes:
        model: what is called on images.
        trained: the module whose parameters the optimiser has.
        student: the whole model of this process; `refresh` gives it the newest weights.
    """

    model: nn.Module
    trained: nn.Module
    student: nn.Module

    @abstractmethod
    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Around one micro-batch: gradients travel between processes after the last one only."""

    @abstractmethod
    def refresh(self) -> None:
        """Give `student` the newest weights; all processes together."""

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a state dict."""

    @abstractmethod
    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The whole optimiser's state, parameters by their numbers; all processes together."""

    @abstractmethod
    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take over what `optimizer_state` gave, here or in another class."""


@final
class Whole(Held):
    """Each process has all of the model: one process, or DistributedDataParallel."""

    def __init__(self, student: nn.Module, processes: Processes) -> None:
        self.student = self.trained = student
        self.model = processes.replicated(student)

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """DistributedDataParallel's own, where there is one."""
        wrapped: Any = self.model
        return nullcontext() if last or wrapped is self.student else wrapped.no_sync()

    def refresh(self) -> None:
        """It is the model that is trained."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Into the student."""
        self.student.load_state_dict(weights)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As it is."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """As it is."""
        optimizer.load_state_dict(dict(state))


@final
class Sharded(Held):
    """Each process has a part of every parameter (FSDP2), and a whole copy to validate with."""

    def __init__(self, student: nn.Module, processes: Processes) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.student = student
        mesh = init_device_mesh(processes.device.type, (processes.count,))
        self.model = self.trained = copy.deepcopy(student)
        # Blocks in a row are gathered one after the other; whatever is outside of them together.
        for blocks in (part for part in self.model.modules() if isinstance(part, nn.ModuleList)):
            for block in (block for block in blocks if any(True for _ in block.parameters())):
                fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """FSDP2 is told, and believed about what it warns of: blocks hand on views, and nothing writes into them."""
        model: Any = self.model
        model.set_requires_gradient_sync(last)
        return _ignoring("FSDP2-wrapped module .* returned a view")

    def refresh(self) -> None:
        """Gather all parts."""
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        self.student.load_state_dict(get_model_state_dict(self.model, options=_whole()))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Into the student, and its parts into the parts."""
        from torch.distributed.checkpoint.state_dict import set_model_state_dict

        self.student.load_state_dict(weights)
        set_model_state_dict(self.model, dict(self.student.state_dict()), options=_whole())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Gathered; torch gives it by the names of the parameters."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        gathered = get_optimizer_state_dict(self.model, optimizer, options=_whole())
        return _renamed(gathered, {name: number for number, name in enumerate(self._names(optimizer))})

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Each process its parts."""
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        named = _renamed(state, dict(enumerate(self._names(optimizer))))
        set_optimizer_state_dict(self.model, optimizer, named, options=_whole())

    def _names(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Of the optimiser's parameters, in its order."""
        name_of = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [name_of[id(each)] for group in optimizer.param_groups for each in group["params"]]


@contextmanager
def _ignoring(warning: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", warning, UserWarning)
        yield


def hold(student: nn.Module, processes: Processes, parallel: Parallel) -> Held:
    """The student as `parallel` says; a single process has nothing to share and holds it whole."""
    sharded = parallel == "fsdp" and processes.count > 1
    return Sharded(student, processes) if sharded else Whole(student, processes)


def _renamed(state: Mapping[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    """An optimiser's state with its parameters called otherwise: it is kept by numbers, as one process has it."""
    return {
        "state": {names[name]: values for name, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [names[name] for name in group["params"]]} for group in state["param_groups"]
        ],
    }


def _whole() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True)
