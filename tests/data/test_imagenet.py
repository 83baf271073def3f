from __future__ import annotations

import shutil
import sys

import pytest

from rmeeto.data.opening import open_split
from rmeeto.data.spec import DataSpec
from rmeeto.errors import DataError


@pytest.fixture
def flat(folder):
    """train/ with classes and val/ without."""
    for path in sorted((folder / "val").rglob("*.png")):
        path.rename(folder / "val" / f"{path.parent.name}_{path.name}")
    for name in ("cat", "dog", "owl"):
        (folder / "val" / name).rmdir()
    return folder


def table(*rows):
    return "\n".join(["ImageId,PredictionString", *(f"{name},{label} 1 2 3 4" for name, label in rows)])


ALL = [(f"{label}_{number}", label) for label in ("cat", "dog", "owl") for number in range(2)]


@pytest.mark.parametrize("classes", ["of the training images", "of the list"])
def test_a_table_beside_a_flat_folder_is_read(flat, classes):
    (flat / "LOC_val_solution.csv").write_text(table(*ALL))
    spec = DataSpec(str(flat))
    if classes == "of the list":
        shutil.rmtree(flat / "train")
    images = open_split(spec, "val")
    assert (images.class_names, images.targets()) == (("cat", "dog", "owl"), [0, 0, 1, 1, 2, 2])
    assert images.filename(3) == "dog_1.png"


def test_hidden_files_and_folders_are_not_looked_at(flat):
    (flat / "LOC_val_solution.csv").write_text(table(*ALL))
    for name in ("val/._cat_0.png", "val/.thumbnails/cat_0.png", "train/.ipynb_checkpoints/0.png"):
        (flat / name).parent.mkdir(exist_ok=True)
        (flat / name).write_bytes(b"no picture")
    images = open_split(DataSpec(str(flat)), "val")
    assert (images.class_names, images.targets()) == (("cat", "dog", "owl"), [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (None, "", "none of LOC_val_solution.csv, .*ILSVRC2012_devkit_t12.tar.gz lies beside it"),
        ("LOC_val_solution.csv", table(*ALL[:-1]), r"owl_1.png is not in the list"),
        ("LOC_val_solution.csv", table(*ALL[:-1], ("owl_1", "fox")), "is of class fox, which has no folder"),
        ("LOC_val_solution.csv", "a,b\n1,2", "has no columns ImageId and PredictionString"),
        ("imagenet_2012_validation_synset_labels.txt", "cat\ndog", "names the classes of 2 images and there are 6"),
        ("ILSVRC2012_devkit_t12.tar.gz", "no tar", "development kit .* cannot be read .*; fetch it again"),
        ("ILSVRC2012_validation_ground_truth.txt", "1\n2", "development kit .* cannot be read .*meta.mat"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(flat, name, text, words):
    if name:
        folder = flat / "ILSVRC2012_devkit_t12" / "data" if name.endswith("truth.txt") else flat
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.raises(DataError, match=words):
        open_split(DataSpec(str(flat)), "val")


@pytest.mark.parametrize("place", ["ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"])
def test_the_archive_s_own_folders_are_found(folder, tmp_path, place):
    inner = tmp_path / "archive" / place
    inner.parent.mkdir(parents=True)
    shutil.copytree(folder, inner)
    assert len(open_split(DataSpec(str(tmp_path / "archive")), "train")) == 15
    assert len(open_split(DataSpec(str(tmp_path / "archive")), "val")) == 6


def test_the_development_kit_needs_a_library(flat, monkeypatch):
    (flat / "data").mkdir()
    (flat / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n" * 6)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"in MATLAB's format; install scipy \(or rmeeto\[datasets\]\)"):
        open_split(DataSpec(str(flat)), "val")
