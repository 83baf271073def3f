"""Long trials of what must not be lost: `make soak`. Prints a table of what was tried, survived and lost.

Every file `soak/case_*.py` is one scenario: `TITLE`, a line, and `trial(place, tries)`, which yields a `Try` for each
attempt. A new file is found by its name.

    python soak/run.py [--tries 20] [--only killed restarted]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def scenarios(only: list[str]) -> Iterator[tuple[str, ModuleType]]:
    for path in sorted(HERE.glob("case_*.py")):
        name = path.stem.removeprefix("case_")
        if not only or name in only:
            yield name, importlib.import_module(path.stem)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20, help="attempts of scenarios that are random")
    parser.add_argument("--only", nargs="*", default=[], help="names of scenarios, such as killed")
    options = parser.parse_args()
    rows, lost = [], 0
    for name, module in scenarios(options.only):
        begun, tried, survived, said = time.perf_counter(), 0, 0, ""
        with tempfile.TemporaryDirectory(prefix=f"soak-{name}-") as place:
            try:
                for attempt in module.trial(Path(place), options.tries):
                    tried += 1
                    survived += attempt.survived
                    said = attempt.said
                    print(f"{name}: {'survived' if attempt.survived else 'LOST'}: {attempt.said}", file=sys.stderr)
            except PermissionError as error:
                said = f"not tried here: {error}"
        lost += tried - survived
        rows.append((module.TITLE, tried, survived, tried - survived, f"{time.perf_counter() - begun:.0f} s", said))
    print("| what happens | tried | survived | lost | took | last seen |")
    print("| :-- | --: | --: | --: | --: | :-- |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
