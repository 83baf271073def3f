"""Puts the measured tables into docs/performance.md and draws its pictures, from the results alone.

    python benchmarks/page.py            # rewrites what stands between the marks, and the pictures
    python benchmarks/page.py --check    # says whether the page is what the results say; exit code 1 where not

A mark in the page is `<!-- entry.table -->`, its end `<!-- end -->`; what lies in a folder below the results, for it
was measured elsewhere, has the folder's name in front: `<!-- folder_entry.table -->`. `entry.remarks` are a result's
remarks, `machine` are the places where all was measured. What was not measured yet says so.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plots import draw

from rmeeto.records import read_json, write_bytes, write_text
from rmeeto.report import Table

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
_MARK = re.compile(r"(<!-- ([\w.]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
Results = Mapping[str, Mapping[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="results (all in benchmarks/results)")
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    results = read(options.files or everything())
    before = PAGE.read_text(encoding="utf-8")
    after = rendered(before, results)
    if options.check:
        sys.exit(None if before == after else f"{PAGE.name} is not what the results say; run benchmarks/page.py")
    write_text(PAGE, after)
    for name, data in draw(results).items():
        write_bytes(RESULTS / f"{name}.png", data)


def everything() -> list[Path]:
    """The files of all results."""
    return [*sorted(RESULTS.glob("*.json")), *sorted(RESULTS.glob("*/*.json"))]


def read(files: Iterable[Path]) -> dict[str, Mapping[str, Any]]:
    """Results by the name of their entry, with that of the folder in front where they lie in one."""
    return {_name(file, found["entry"]): found for file, found in ((file, read_json(file)) for file in files)}


def _name(file: Path, entry: str) -> str:
    folder = file.resolve().parent
    return entry if folder.parent != RESULTS else f"{folder.name}_{entry}"


def rendered(page: str, results: Results) -> str:
    """The page with every marked part anew."""
    return _MARK.sub(lambda mark: f"{mark[1]}{_part(mark[2], results)}\n{mark[3]}", page)


def _part(name: str, results: Results) -> str:
    machines = list(dict.fromkeys(_machine(found) for found in results.values()))
    if name == "machine":
        return "\n".join(f"{n}. {told}" for n, told in enumerate(machines, 1)) or "Nothing was measured yet."
    entry, _, part = name.partition(".")
    found = results.get(entry)
    if found is None:
        return f"Not measured yet: `python benchmarks/{entry}.py`."
    if part == "remarks":
        return "\n".join(f"- {remark}" for remark in found["remarks"]) or "Nothing to remark."
    if part == "picture":
        return f"![{entry}](../benchmarks/results/{entry}.png)"
    if part not in found["tables"]:
        return f"Not among the results of `{found['command']}`."
    table = found["tables"][part]
    how = " (quick: these numbers mean nothing)" if found["quick"] else ""
    where = f" on machine {machines.index(_machine(found)) + 1}" if len(machines) > 1 else ""
    return f"{Table.of(table['headers'], table['rows']).to_markdown()}\n\nPrinted by `{found['command']}`{where}{how}."


def _machine(found: Mapping[str, Any]) -> str:
    where = found["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items() if version)
    native = where.get("native")
    kernels = f"kernels for {native['instruction_set']} by {native['compiler']}" if native else "no native kernels"
    gpus = "".join(f", {name}" for name in where.get("gpus", ()))
    return f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads{gpus}, {kernels}; {packages}."


if __name__ == "__main__":
    main()
