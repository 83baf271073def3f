"""Read a weight file without running code from it, and put weights into a model by name."""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import safe_globals

from rmeeto.errors import WeightsError

# Where training programs keep the weights inside their checkpoints, in the order they are looked for.
_WRAPPERS = ("model", "state_dict", "model_ema", "state_dict_ema")
# What wrappers of a model (data parallel, torch.compile) put before each name.
_PREFIXES = ("module.", "_orig_mod.")
# What torch.load raises, besides its own refusals, for a file that was cut, changed or is something else.
_DAMAGE = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, pickle.PickleError,
    struct.error, tarfile.TarError, zipfile.BadZipFile, OSError, MemoryError,
)  # fmt: skip


def read_weights(path: Path | str, *, part: str | None = None) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU, in the dtypes they were saved in.

    `.safetensors` files and files of `torch.save` are told apart by their content. No code of the file runs: beside
    tensors and plain values only `argparse.Namespace` is allowed, which official checkpoints keep their options in.

    Args:
        path: the file.
        part: which entry of a checkpoint to take, such as "model_ema"; None takes the first of model, state_dict,
            model_ema, state_dict_ema, or the file itself when it has none of them.

    Raises:
        WeightsError: the file is missing, cut, asks to run code, or holds no weights; or it has no such part.
    """
    return read_part(path, part=part)[0]


def read_part(
    path: Path | str, *, part: str | None = None, preferred: str | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """The same as `read_weights`, and which entry of the file was taken; None for the file itself.

    Args:
        path: the file.
        part: which entry to take, see `read_weights`.
        preferred: which entry to take where the file has it and `part` names none.
    """
    path = Path(path)
    head = _head(path)
    if not head:
        raise WeightsError(f"weight file {path} is empty; copy or download it again")
    content: Any = _read_safetensors(path) if _is_safetensors(path, head) else _read_torch(path, head)
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__} and no named tensors; give a file with a state dict"
        )
    taken = _part(content, part, preferred, path)
    return _without_prefixes(_tensors(content if taken is None else content[taken], path), path), taken


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a model, all of them or none; the model keeps its dtypes and device.

    Args:
        model: what receives the weights.
        state: tensors by name.
        source: where they come from, for the message.

    Raises:
        WeightsError: names are missing or left over, or shapes differ; the message names the first few.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} is {_shape(state[name])} and the model's is {_shape(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        _first_few(misshapen, "of another size"),
        _first_few(missing, "missing"),
        _first_few(unexpected, "unexpected"),
    ]
    if any(problems):
        cure = _cure(misshapen, missing, unexpected, own)
        raise WeightsError(f"{source} does not fit the model: {'; '.join(filter(None, problems))}; {cure}")
    model.load_state_dict(dict(state))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except FileNotFoundError:
        raise WeightsError(f"no weight file at {path}; check the name") from None
    except OSError as error:
        raise WeightsError(f"cannot read weight file {path}: {error.strerror or error}; name a readable file") from None


def _is_safetensors(path: Path, head: bytes) -> bool:
    """The format begins with the length of its header, eight bytes, and the header's brace."""
    return head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith((b"PK\x03\x04", b"version ")))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise WeightsError(
            f"weight file {path} is cut short or is no safetensors file ({_line(error)}); copy or download it again"
        ) from None


def _read_torch(path: Path, head: bytes) -> Any:
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer and not the weights; run `git lfs pull` where it came from")
    try:
        # The open file and not its name: torch.load would choose another reader by the name's ending.
        with path.open("rb") as file, warnings.catch_warnings(), safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of torch.load about old formats: what cannot be read is an error below
            return torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        if name := _refused(path, error):
            raise WeightsError(
                f"weight file {path} would run code when opened: it names `{name}`; refused, nothing was run; "
                "get the weights as .safetensors, or as a plain state dict"
            ) from None
        if head.startswith((b"PK\x03\x04", b"\x80")):
            raise WeightsError(f"weight file {path} is cut short or damaged; copy or download it again") from None
    raise WeightsError(f"{path} is not a weight file; give a .safetensors file or one that torch.save wrote")


def _refused(path: Path, error: Exception) -> str | None:
    """The name in the file that torch.load would not resolve, or None where it failed for another reason."""
    if named := re.search(r"unsupported (?:global: )?GLOBAL (\S+)", str(error), flags=re.IGNORECASE):
        return named[1].rstrip(".")
    if not isinstance(error, pickle.UnpicklingError | RuntimeError):
        return None
    if "TorchScript" in str(error):
        return "torch.jit.load"
    return next((name for name in _names(_pickled(path)) if not _is_tensor_part(name)), None)


def _pickled(path: Path) -> bytes:
    """The pickle inside a file of torch.save, or the file itself."""
    try:
        with zipfile.ZipFile(path) as archive:
            inner = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return archive.read(inner)
    except (zipfile.BadZipFile, StopIteration, OSError, RuntimeError, EOFError):
        with path.open("rb") as file:
            return file.read(1 << 20)


def _names(data: bytes) -> Iterable[str]:
    """Every "module.name" that a pickle asks for, read from its opcodes without running them."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name in ("GLOBAL", "INST"):
                if not re.fullmatch(r"[\w.]+ [\w.]+", str(argument)):
                    return  # not a pickle but a text that begins like one
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, LookupError, struct.error):
        return  # not a pickle from here on


def _is_tensor_part(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in ("torch", "collections") or name == "argparse.Namespace"


def _part(content: Mapping[Any, Any], part: str | None, preferred: str | None, path: Path) -> str | None:
    """The entry that holds the weights; None where they are the content itself."""
    wrappers = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    if part is None:
        return preferred if preferred in wrappers else next(iter(wrappers), None)
    if not isinstance(content.get(part), Mapping):
        known = ", ".join(wrappers) or "none"
        raise WeightsError(f"{path} has no part {part!r} with weights; parts it has: {known}")
    return part


def _tensors(content: Mapping[Any, Any], path: Path) -> Mapping[str, Tensor]:
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)} if content else {}
    if not tensors or len(tensors) != len(content):
        odd = next((name for name in content or () if name not in tensors), "nothing at all")
        raise WeightsError(
            f"{path} holds no plain state dict (it has {str(odd)[:80]!r}); give a file with named tensors"
        )
    return tensors


def _without_prefixes(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, value in state.items():
        short = str(name)
        while short.startswith(_PREFIXES):
            short = short.split(".", 1)[1]
        if short in stripped:
            raise WeightsError(f"{path} names {short} twice, with and without a prefix; save one of the two models")
        stripped[short] = value
    return stripped


def _cure(misshapen: list[str], missing: list[str], unexpected: list[str], own: Mapping[str, Tensor]) -> str:
    if len(missing) == len(own):
        return "no name agrees: these are the weights of another kind of network"
    names = [] if missing or unexpected else [text.split(" ", 1)[0] for text in misshapen]
    if names and all(name.startswith("head.") for name in names):
        return "build the model with the file's number of classes"
    if names == ["pos_embed"]:
        return "build the model with the file's input size"
    return "build the model with the file's sizes, or give weights that were made for this model"


def _first_few(items: list[str], what: str, most: int = 3) -> str:
    if not items:
        return ""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{len(items)} {what} ({', '.join(items[:most])}{more})"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _line(error: Exception) -> str:
    """The first line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
