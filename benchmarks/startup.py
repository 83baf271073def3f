"""What starting costs, each in a fresh process, in turns.

    python benchmarks/startup.py

`import rmeeto` imports no torch; what a program pays that uses it is the line of `rmeeto.create`, which brings torch
and timm, beside torch and timm alone. Every process begins with Python's own start.
"""

from __future__ import annotations

import subprocess
import sys

from harness import Call, begin, in_turns

MODEL = "import rmeeto; rmeeto.create('vim_nano')"
CASES = {
    "import torch": ("-c", "import torch"),
    "python alone": ("-c", "pass"),
    "import rmeeto": ("-c", "import rmeeto"),
    "rmeeto --help": ("-m", "rmeeto", "--help"),
    "import torch, timm": ("-c", "import torch, timm"),
    "import rmeeto; rmeeto.create('vim_nano')": ("-c", MODEL),
}


def main() -> None:
    report = begin("startup", __doc__)
    report.options.repeats = min(report.options.repeats, 15)
    report.options.limit *= 4
    report.options.cpu_time = False  # what is timed runs in other processes
    cases = dict(list(CASES.items())[:3]) if report.options.quick else CASES
    timings = in_turns({name: _started(arguments) for name, arguments in cases.items()}, report.options)
    report.keep("startup", timings)
    torch = timings["import torch"]
    rows = [
        [name, *timing.milliseconds(), f"{1 / timing.times_as_fast_as(torch):.2f}"] for name, timing in timings.items()
    ]
    report.show("startup", ["a fresh process", "ms", "10-90 %", "times import torch"], rows)
    report.finish()


def _started(arguments: tuple[str, ...]) -> Call:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
