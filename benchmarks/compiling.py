"""torch.compile with an end: a graph that takes too long to compile is a finding, not a wait."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class TooLong(BaseException):
    """Not an Exception, so that nothing between the compiler and us catches it."""


# Modules are then not asked in every call whether they are what was compiled: 400 tensors of a Vision Mamba.
UNASKED = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}


def compiled(
    call: Callable[..., Any],
    *arguments: Any,
    seconds: float,
    gradients: bool,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any] | str:
    """The compiled function after its first call, or one sentence saying why there is none.

    Args:
        call: what to compile, as one graph without a break.
        arguments: compiled for these.
        seconds: the most that compiling may take.
        gradients: compile for training.
        options: of torch.compile.
    """
    made = torch.compile(call, fullgraph=True, options=options)
    try:
        with _alarm(seconds), torch.inference_mode(mode=not gradients):
            made(*arguments)
    except TooLong:
        return f"torch.compile was not done after {seconds:.0f} s"
    except RuntimeError as error:  # dynamo's and inductor's own errors are kinds of it
        return f"torch.compile failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return made


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
