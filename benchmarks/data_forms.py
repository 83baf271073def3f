"""One model evaluated on the same validation images in every form that can be read: the accuracies must be equal.

    python benchmarks/data_forms.py cifar10-train.tar cifar10-test.tar --model runs/c10 --work /tmp/forms

The tars hold one folder per class. Forms whose library is not installed are left out, and said so.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import sys
import tarfile
import time
import unittest.mock
from pathlib import Path

from rmeeto.evaluate import environment
from rmeeto.pipeline import ModelSpec, evaluate
from rmeeto.records import write_json
from rmeeto.report import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "data"))
from forms import FORMS

# torchvision compares the archive's checksums, which a set written here from JPEGs does not have.
UNCHECKED = ("torchvision.datasets.CIFAR10._check_integrity", "torchvision.datasets.cifar.check_integrity")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="tar of the training images")
    parser.add_argument("val", type=Path, help="tar of the validation images")
    parser.add_argument("--model", required=True, help="folder of a model trained on them")
    parser.add_argument("--work", type=Path, required=True, help="empty folder for the forms")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    source = _unpacked(options.train, options.val, options.work / "folder")
    rows = []
    for name, form in FORMS.items():
        absent = [library for library in form.needs if importlib.util.find_spec(library) is None]
        if absent:
            print(f"{name}: left out, {absent[0]} is not installed", file=sys.stderr)
            continue
        where = options.work / name.replace(" ", "_") / "made"
        where.mkdir(parents=True)
        begun = time.perf_counter()
        spec = dataclasses.replace(form.make(source, where), workers=options.workers, val_batch_size=250)
        made = time.perf_counter() - begun
        with contextlib.ExitStack() as patches:
            for each in UNCHECKED:
                patches.enter_context(unittest.mock.patch(each, return_value=True))
            found = evaluate(ModelSpec(model=options.model), spec)
        rows.append({"form": name, "images": found.images, "top1": found.top1, "top5": found.top5, "loss": found.loss,
                     "seconds": found.seconds, "seconds_to_make": made})  # fmt: skip
        print(f"{name}: {found.top1:.2f}", file=sys.stderr)
    headers = ("form", "images", "top-1", "top-5", "loss", "s")
    cells = [
        (row["form"], row["images"], *(f"{row[key]:.2f}" for key in ("top1", "top5")), f"{row['loss']:.6f}",
         f"{row['seconds']:.1f}")
        for row in rows
    ]  # fmt: skip
    print(Table.of(headers, cells).to_text())
    if options.json is not None:
        write_json(options.json, {"rows": rows, "environment": environment()})
    return int(len({(row["images"], row["top1"], row["top5"]) for row in rows}) != 1)


def _unpacked(train: Path, val: Path, where: Path) -> Path:
    """train/CLASS and val/CLASS, whatever the tars call their top folder."""
    for path, part in ((train, "train"), (val, "val")):
        with tarfile.open(path) as tar:
            for member in tar:
                member.name = "/".join((part, *Path(member.name).parts[-2:]))
                if member.isfile():
                    tar.extract(member, where, filter="data")
    return where


if __name__ == "__main__":
    raise SystemExit(main())
