"""Whether Triton kernels run on the GPU of this machine, and why not. Nothing happens before the first use."""

from __future__ import annotations

import torch

CURE = "use a GPU that torch finds, with Triton (on Linux it comes with torch) and a C compiler"

_problem: str | None = None
_asked = False


def problem() -> str | None:
    """Why Triton kernels cannot be used here, or None when they can; compiles a trial kernel on the first call."""
    global _problem, _asked
    if not _asked:
        _problem, _asked = _find_problem(), True
    return _problem


# As in _library.py: torch.compile asks once and keeps the answer.
problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _find_problem() -> str | None:
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    try:
        from rmeeto.ops import _jit

        _jit.compile_trial()
    except Exception as error:  # noqa: BLE001  (of what can be missing or broken each raises its own kind)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"Triton cannot make kernels for {torch.cuda.get_device_name()} ({reason})"
    return None
