from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FashionMNIST

from rmeeto.data.images import ArrayImages, FileImages, TorchImages, _held_in_memory
from rmeeto.data.opening import open_split
from rmeeto.data.spec import DataSpec
from rmeeto.errors import DataError


def test_a_folder_and_its_tar_hold_the_same(folder, tars):
    opened = open_split(DataSpec(str(folder)), "train")
    packed = open_split(DataSpec(str(tars[0])), "train")
    assert opened.class_names == packed.class_names == ("cat", "dog", "owl")
    assert len(opened) == len(packed) == 15
    for index in range(15):
        (image, label), (same, same_label) = opened.read(index), packed.read(index)
        assert label == same_label == index // 5
        assert image.size == (12, 10)
        assert image.tobytes() == same.tobytes()


@pytest.mark.parametrize("limit", [1, 7, 15, 100])
def test_a_limit_draws_the_same_part_every_time(folder, limit):
    spec = DataSpec(str(folder), train_limit=limit)
    first, again = open_split(spec, "train"), open_split(spec, "train")
    assert len(first) == min(limit, 15)
    names = [first.filename(index) for index in range(len(first))]
    assert names == [again.filename(index) for index in range(len(again))]
    assert len(set(names)) == len(names)
    assert len(open_split(spec, "val")) == 6


def test_a_limit_of_a_sorted_set_touches_several_classes(make_folder):
    root = make_folder("large", per_class=20)
    opened = open_split(DataSpec(str(root), train_limit=12), "train")
    assert {opened.read(index)[1] for index in range(12)} == {0, 1, 2}


def spoil_text(path):
    path.write_text("this is a letter, not a picture")


def spoil_truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def spoil_header_only(path):
    path.write_bytes(path.read_bytes()[:40])


def spoil_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("spoil", [spoil_text, spoil_truncated, spoil_header_only, spoil_empty])
def test_an_unreadable_image_is_named(make_folder, spoil, suffix):
    root = make_folder("spoilt", suffix=suffix)
    spoil(root / "dog" / f"2{suffix}")
    opened = open_split(DataSpec(str(root)), "train")
    with pytest.raises(DataError) as caught:
        opened.read(6)
    assert f"dog/2{suffix}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert opened.read(7)[1] == 1


@pytest.mark.parametrize(
    ("settings", "per_class"),
    [({"train_share": 0.1}, [2, 2, 2]), ({"train_share": 0.01}, [1, 1, 1]), ({"train_share": 1.0}, [20, 20, 20])],
)
def test_a_share_takes_the_same_of_every_class(make_folder, tmp_path, settings, per_class):
    root = make_folder("large", per_class=20)
    images = open_split(DataSpec(str(root), **settings), "train")
    assert [images.targets().count(label) for label in range(3)] == per_class
    assert [images.read(i)[1] for i in range(len(images))] == images.targets()
    assert len(open_split(DataSpec(str(root), str(root), **settings), "val")) == 60


def test_a_larger_share_holds_the_smaller_and_the_seed_chooses(make_folder):
    root = make_folder("large", per_class=20)

    def names(share, seed=0):
        images = open_split(DataSpec(str(root), train_share=share, subset_seed=seed), "train")
        return {images.filename(i) for i in range(len(images))}

    assert names(0.2) == names(0.2) < names(0.5)
    assert names(0.2) != names(0.2, seed=1)


@pytest.mark.parametrize("name", ["folder", "tar", "torch", "demo"])
def test_targets_are_the_labels_that_are_read(name, folder, tars, tmp_path):
    spelled = {"folder": str(folder), "tar": str(tars[0]), "torch": f"torch/folder:{folder / 'train'}", "demo": "demo"}
    images = open_split(DataSpec(spelled[name], train_limit=12), "train")
    assert images.targets() == [images.read(i)[1] for i in range(12)]


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_give_pictures(channels):
    pixels = torch.randint(0, 256, (4, channels, 5, 6)).byte()
    images = ArrayImages("some", ("a", "b"), pixels, torch.tensor([0, 1, 1, 0]))
    image, label = images.read(2)
    assert (image.mode, image.size, label) == ("L" if channels == 1 else "RGB", (6, 5), 1)
    assert (np.asarray(image).reshape(5, 6, channels) == pixels[2].permute(1, 2, 0).numpy()).all()
    part = images.part([3, 1])
    assert part.labels.tolist() == [0, 1]
    assert torch.equal(part.images, pixels[[3, 1]])


def test_torchvision_s_small_sets_are_held_in_memory(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    for stem in ("train", "t10k"):
        header = np.array([0x803, 4, 28, 28], ">u4").tobytes()
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(np.array([0x801, 4], ">u4").tobytes() + bytes([3, 1, 4, 1]))
    opened = open_split(DataSpec(f"torch/fashion_mnist:{tmp_path}"), "train")
    assert isinstance(opened, ArrayImages)
    assert opened.class_names == tuple(FashionMNIST.classes)
    assert (opened.images[:, 0].numpy() == pixels).all()
    assert opened.labels.tolist() == [3, 1, 4, 1]


def test_colours_of_torchvision_s_arrays_come_first():
    class Cifar:
        data = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
        targets = (1, 0)
        classes = ("a", "b")

    held = _held_in_memory("some", Cifar())
    assert held.images.shape == (2, 3, 4, 5)
    assert (np.asarray(held.read(1)[0]) == Cifar.data[1]).all()


def test_labels_with_more_beside_them_are_the_first_column():
    """QMNIST notes who wrote each digit."""

    class Qmnist:
        data = np.zeros((2, 4, 5), dtype=np.uint8)
        targets = np.array([[7, 1, 2], [3, 0, 9]])
        classes = tuple("0123456789")

    held = _held_in_memory("some", Qmnist())
    assert (held.labels.tolist(), held.read(1)[1], held.targets()) == ([7, 3], 3, [7, 3])


def test_torchvision_s_folder(make_folder):
    root = make_folder("plain")
    opened = open_split(DataSpec(f"torch/image_folder:{root}"), "train")
    assert isinstance(opened, TorchImages)
    assert opened.class_names == ("cat", "dog", "owl")
    assert opened.part([9, 1]).read(0)[1] == 2
    spoil_text(root / "cat" / "1.png")
    with pytest.raises(DataError, match=r"cat/1.png of torch/image_folder"):
        opened.read(1)


class Reader:
    """What FileImages needs of a reader, without class names."""

    def __init__(self, path, labels):
        self._path, self._labels = path, labels

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        return self._path.open("rb"), self._labels[index]

    def filename(self, index):
        return str(index)

    def iter_targets(self):
        return iter(self._labels)


def test_numbers_name_classes_that_have_no_names(make_folder):
    path = make_folder("plain") / "cat" / "0.png"
    assert FileImages("table", Reader(path, [2, 0, 2])).class_names == ("0", "1", "2")
    with pytest.raises(DataError, match="labels such as 'red' are no class numbers"):
        FileImages("table", Reader(path, ["red", "red"]))


def test_a_tar_is_opened_anew_in_another_process(tars, monkeypatch):
    opened = open_split(DataSpec(str(tars[0])), "train")
    opened.read(0)
    before = opened._reader.tar_state.tf
    opened.read(1)
    assert opened._reader.tar_state.tf is before
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    opened.read(2)
    assert opened._reader.tar_state.tf is not before
    assert before.closed


def test_an_opened_tar_can_be_sent_to_a_process(tars):
    opened = open_split(DataSpec(str(tars[0])), "train")
    image = opened.read(3)[0]
    assert pickle.loads(pickle.dumps(opened)).read(3)[0].tobytes() == image.tobytes()


def test_a_picture_outlives_its_file(folder):
    image, _ = open_split(DataSpec(str(folder)), "train").read(0)
    assert isinstance(image.resize((4, 4)), Image.Image)
