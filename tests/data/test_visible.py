from __future__ import annotations

import pickle
import shutil
import tarfile

import pytest

from rmeeto.data.names import is_hidden
from rmeeto.data.opening import open_split
from rmeeto.data.spec import DataSpec
from rmeeto.errors import DataError

# What a Mac, a notebook and a file manager leave behind.
LEFTOVERS = ["cat/._0.png", "._cat/0.png", ".ipynb_checkpoints/0.png", "dog/.thumbnails/1.png", "._root.png"]


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("cat/0.png", False),
        ("./cat/0.png", False),
        ("../cat/0.png", False),
        ("cat/0..png", False),
        ("cat/._0.png", True),
        (".cat/0.png", True),
        (r"C:\cat\.0.png", True),
    ],
)
def test_a_dot_in_front_hides(path, hidden):
    assert is_hidden(path) is hidden


def leave(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no picture")


def contents(images):
    return images.class_names, images.targets(), [images.read(index)[0].tobytes() for index in range(len(images))]


@pytest.mark.parametrize("names", [LEFTOVERS, *([name] for name in LEFTOVERS)], ids=str)
@pytest.mark.parametrize("form", ["folder", "torchvision's folder", "tar", "beneath a hidden folder"])
def test_hidden_files_are_no_images_and_no_classes(folder, tmp_path, form, names):
    expected = contents(open_split(DataSpec(str(folder)), "train"))
    leave(folder / "train", names)
    data = folder
    if form == "torchvision's folder":
        data = f"torch/folder:{folder / 'train'}"
    elif form == "tar":
        data = tmp_path / "train.tar"
        with tarfile.open(data, "w") as tar:
            tar.add(folder / "train", arcname=".")
    elif form == "beneath a hidden folder":
        data = tmp_path / ".cache" / "set"
        shutil.copytree(folder, data)
    images = open_split(DataSpec(str(data)), "train")
    assert contents(images) == expected
    assert contents(pickle.loads(pickle.dumps(images))) == expected
    assert [images.read(index)[1] for index in range(len(images))] == expected[1]
    assert not any(is_hidden(images.filename(index)) for index in range(len(images)))
    assert images.part([3, 7]).targets() == [expected[1][3], expected[1][7]]


def test_hidden_images_alone_are_none(tmp_path):
    leave(tmp_path / "set", ["cat/.0.png", "dog/.0.png"])
    with pytest.raises(DataError, match=r"holds hidden images only, such as .*cat/.0.png; give names that"):
        open_split(DataSpec(str(tmp_path / "set")), "train")
