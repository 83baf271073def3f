"""Print, as Markdown, how far every golden case is from the published network's own answer: `docs/golden.md`.

python tools/golden_table.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.golden import cases
from tests.golden.fill import fill_input

from rmeeto.ops import use_backend

Row = tuple[str, str, str, str, str]
HEADERS = ("file", "case", "reference op", "native kernel", "equal to the number")


def main() -> None:
    """Ask every case on both ops and print one row each."""
    rows = [*mambas(), *deits()]
    for cells in (HEADERS, (":--", ":--", "--:", "--:", ":--"), *rows):
        print("|", " | ".join(cells), "|")
    print(f"\nLargest: {max(float(cell) for row in rows for cell in row[2:4]):.1e}, of {len(rows)} cases.")


def mambas() -> Iterator[Row]:
    """Every Vision Mamba, its scans by the reference op and by the native kernel."""
    for network in cases.NETWORKS.values():
        for case in network.cases:
            model, expected = network.merging(case), network.expected(case)
            seen = []
            for backend in ("reference", "native"):
                with use_backend(backend):
                    seen.append(cases.observed(model, network.images(), model.layers))
            yield row(network.file, f"{network.prefix}{case}", seen, expected)


def deits() -> Iterator[Row]:
    """The DeiT has no scan: its attention written out, and as torch's fused op."""
    for case in cases.DEIT_CASES:
        seen = []
        for fused in (False, True):
            model = cases.merging_deit(case, fused=fused)
            seen.append(cases.observed(model, fill_input(*cases.IMAGE), model.slots))
        yield row("deit.npz", case, seen, cases.answers("deit.npz", f"{case}/"))


def row(file: str, case: str, seen: list[cases.Seen], expected: cases.Seen) -> Row:
    """The largest absolute errors of the logits, and what is exact on both."""
    reference, native = (f"{cases.largest_error(one, expected):.1e}" for one in seen)
    wrong = {name for one in seen for name in cases.inexact(one, expected)}
    words = {"lengths": "lengths", "positions": "class places", "sizes": "sizes"}
    told = [f"{'NOT ' * (name in wrong)}{word}" for name, word in words.items() if name in expected]
    return file, case, reference, native, ", ".join(told)


if __name__ == "__main__":
    main()
