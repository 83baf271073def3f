from __future__ import annotations

import gzip
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from rmeeto.data.demo_set import DEMO_CLASSES, DEMO_INPUT, demo_arrays

sys.path.append(str(Path(__file__).parents[2] / "tools"))


@pytest.mark.parametrize(("split", "per_class"), [("train", 1200), ("val", 300)])
def test_every_class_has_the_same_number_of_images(split, per_class):
    images, labels = demo_arrays(split)
    assert images.shape == (10 * per_class, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [per_class] * len(DEMO_CLASSES)
    assert labels[:20].tolist() == list(range(10)) * 2


def test_no_test_image_is_a_training_image():
    train, val = (set(map(bytes, demo_arrays(split)[0].numpy())) for split in ("train", "val"))
    assert not train & val


def test_the_statistics_are_those_of_the_images():
    images = demo_arrays("train")[0] / 255
    assert float(images.mean()) == pytest.approx(DEMO_INPUT.mean[0], abs=0.005)
    assert float(images.std()) == pytest.approx(DEMO_INPUT.std[0], abs=0.005)


def test_the_file_is_small_and_has_its_licence():
    folder = files("rmeeto.data") / "demo"
    assert len((folder / "fashion_mnist.npz").read_bytes()) < 8e6
    assert "Copyright (c) 2017 Zalando SE" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_the_tool_takes_the_first_of_each_class_in_turn(tmp_path):
    import make_demo_set

    labels = np.array([*range(10)] * 3, np.uint8)[::-1]
    chosen = make_demo_set.balanced(labels, per_class=2)
    assert labels[chosen].tolist() == [*range(10)] * 2
    assert (np.diff(chosen.reshape(2, 10), axis=0) > 0).all()

    path = tmp_path / "images.gz"
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes()))
    assert (make_demo_set.read_idx(path) == pixels).all()
