"""One set of images in every form that can be read: the same bytes in a folder, tars, shards, tables, an archive."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rmeeto.data import DataSpec


@dataclass(frozen=True)
class Form:
    """How one form is made and asked for.

    Attributes:
        make: (the folder it is made of, where) -> what to open.
        needs: libraries.
        streams: whether it can only be read one image after another.
    """

    make: Callable[[Path, Path], DataSpec]
    needs: tuple[str, ...] = ()
    streams: bool = False


def _samples(part: Path) -> Iterator[tuple[Path, int]]:
    for label, folder in enumerate(sorted(path for path in part.iterdir() if path.is_dir())):
        yield from ((path, label) for path in sorted(folder.iterdir()))


def folder(source: Path, _where: Path) -> DataSpec:
    """As it is."""
    return DataSpec(str(source))


def tar(source: Path, where: Path) -> DataSpec:
    """One tar a part."""
    for part in ("train", "val"):
        with tarfile.open(where / f"{part}.tar", "w") as file:
            file.add(source / part, arcname=part)
    return DataSpec(str(where / "train.tar"), str(where / "val.tar"))


def write_shards(part: Path, where: Path, shards: int) -> None:
    """part-0000.tar and so on: an image and its class side by side, in turns, so that a shard holds all classes."""
    samples = list(_samples(part))
    where.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        with tarfile.open(where / f"{part.name}-{number:04d}.tar", "w") as file:
            for place, (path, label) in list(enumerate(samples))[number::shards]:
                for suffix, data in ((path.suffix, path.read_bytes()), (".cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{place:06d}{suffix}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))


def shards(source: Path, where: Path) -> DataSpec:
    """WebDataset on a disk."""
    for part in ("train", "val"):
        write_shards(source / part, where, 3)
    return DataSpec(f"wds/{where}")


def shard_stream(source: Path, where: Path) -> DataSpec:
    """WebDataset behind an address."""
    shards(source, where)
    sizes = {part: len(list(_samples(source / part))) for part in ("train", "val")}
    classes = sum(path.is_dir() for path in (source / "train").iterdir())
    return DataSpec(
        f"wds/file://{where}",
        train_split="train-{0000..0002}.tar",
        val_split=f"val-{{0000..0002}}.tar|{sizes['val']}",
        train_size=sizes["train"],
        num_classes=classes,
    )


def write_tables(source: Path, where: Path, files: int = 3) -> None:
    """Parquet as Hugging Face's datasets writes it: several files a part."""
    import datasets

    where.mkdir(parents=True)
    names = sorted(path.name for path in (source / "train").iterdir())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    for part, called in (("train", "train"), ("val", "validation")):
        samples = list(_samples(source / part))
        for number in range(files):
            chosen = samples[number::files]
            rows = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path, _ in chosen]}
            table = datasets.Dataset.from_dict({**rows, "label": [label for _, label in chosen]}, features=features)
            table.to_parquet(where / f"{called}-{number:05d}-of-{files:05d}.parquet")


def table(source: Path, where: Path) -> DataSpec:
    """A table, fetched whole."""
    write_tables(source, where / "tables")
    return DataSpec(f"hfds/{where / 'tables'}:{where / 'cache'}")


def table_stream(source: Path, where: Path) -> DataSpec:
    """A table as a stream."""
    write_tables(source, where / "tables")
    sizes = {part: len(list(_samples(source / part))) for part in ("train", "val")}
    return DataSpec(f"hfids/{where / 'tables'}:{where / 'cache'}", train_size=sizes["train"], val_size=sizes["val"])


def torchvision_folder(source: Path, _where: Path) -> DataSpec:
    """torchvision's reader of folders."""
    return DataSpec(f"torch/folder:{source / 'train'}", f"torch/folder:{source / 'val'}")


def imagenet(source: Path, where: Path) -> DataSpec:
    """ImageNet as Kaggle hands it out: validation images in one folder, their classes in a list."""
    inner = where / "ILSVRC" / "Data" / "CLS-LOC"
    (inner / "val").mkdir(parents=True)
    (inner / "train").symlink_to(source / "train", target_is_directory=True)
    lines = ["ImageId,PredictionString"]
    for number, (path, _) in enumerate(_samples(source / "val"), 1):
        name = f"ILSVRC2012_val_{number:08d}"
        (inner / "val" / f"{name}.JPEG").write_bytes(path.read_bytes())
        lines.append(f"{name},{path.parent.name} 1 2 30 40 {path.parent.name} 5 6 7 8")
    (where / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    return DataSpec(str(where))


def imagenet_flat(source: Path, where: Path) -> DataSpec:
    """The same with a list of one class a line beside it."""
    spec = imagenet(source, where)
    (where / "LOC_val_solution.csv").unlink()
    names = [path.parent.name for path, _ in _samples(source / "val")]
    (where / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(names) + "\n")
    return spec


def _write_devkit(where: Path, val: Path) -> None:
    """The development kit: its numbers of classes are not the order of the folders, and its groups come last."""
    from scipy.io import savemat

    names = sorted(path.name for path in val.iterdir())
    numbers = {name: number for number, name in enumerate(reversed(names), 1)}
    rows = [(number, name, 0) for name, number in numbers.items()] + [(len(names) + 1, "n00", len(names))]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    where.mkdir(parents=True)
    savemat(where / "meta.mat", {"synsets": np.array(rows, dtype=kind).reshape(-1, 1)})
    lines = [str(numbers[path.parent.name]) for path, _ in _samples(val)]
    (where / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(lines) + "\n")


def imagenet_devkit(source: Path, where: Path) -> DataSpec:
    """The same with the development kit beside it."""
    spec = imagenet(source, where)
    (where / "LOC_val_solution.csv").unlink()
    _write_devkit(where / "ILSVRC2012_devkit_t12" / "data", source / "val")
    return spec


def imagenet_tars(source: Path, where: Path) -> DataSpec:
    """ImageNet as its authors hand it out: a tar of a tar for each class, a tar of flat images, the development kit."""
    with tarfile.open(where / "ILSVRC2012_img_train.tar", "w") as train:
        for folder in sorted((source / "train").iterdir()):
            inner = where / f"{folder.name}.tar"
            with tarfile.open(inner, "w") as file:
                for path in sorted(folder.iterdir()):
                    file.add(path, arcname=path.name)
            train.add(inner, arcname=inner.name)
            inner.unlink()
    with tarfile.open(where / "ILSVRC2012_img_val.tar", "w") as val:
        for number, (path, _) in enumerate(_samples(source / "val"), 1):
            val.add(path, arcname=f"ILSVRC2012_val_{number:08d}.JPEG")
    kit = where / "ILSVRC2012_devkit_t12"
    _write_devkit(kit / "data", source / "val")
    with tarfile.open(where / f"{kit.name}.tar.gz", "w:gz") as file:
        file.add(kit, arcname=kit.name)
    shutil.rmtree(kit)
    return DataSpec(str(where))


def cifar(source: Path, where: Path) -> DataSpec:
    """CIFAR-10's own archive of 32 px, as torchvision reads it; its checksums are those of other images."""
    base = where / "cifar-10-batches-py"
    base.mkdir()
    names = sorted(path.name for path in (source / "train").iterdir())
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    for part, files in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("val", ["test_batch"])):
        samples = list(_samples(source / part))
        for number, name in enumerate(files):
            chosen = samples[number :: len(files)]
            pixels = [np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1).reshape(-1) for path, _ in chosen]
            rows = {"data": np.stack(pixels), "labels": [label for _, label in chosen]}
            (base / name).write_bytes(pickle.dumps(rows))
    return DataSpec(f"torch/cifar10:{where}")


FORMS = {
    "folder": Form(folder),
    "tar": Form(tar),
    "shards": Form(shards),
    "shard stream": Form(shard_stream, ("webdataset",), streams=True),
    "table": Form(table, ("datasets",)),
    "table stream": Form(table_stream, ("datasets",), streams=True),
    "torchvision folder": Form(torchvision_folder),
    "imagenet": Form(imagenet),
    "imagenet flat": Form(imagenet_flat),
    "imagenet devkit": Form(imagenet_devkit, ("scipy",)),
    "imagenet tars": Form(imagenet_tars, ("scipy",)),
    "cifar": Form(cifar),
}
