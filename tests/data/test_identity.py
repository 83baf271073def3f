from __future__ import annotations

import shutil

import pytest
import torch

from rmeeto.data.identity import identity_of
from rmeeto.data.images import ArrayImages
from rmeeto.data.opening import open_split
from rmeeto.data.spec import DataSpec


def said(data, **asked):
    return identity_of(open_split(DataSpec(str(data), **asked), "train"))


def test_it_names_what_is_there(folder):
    assert said(folder).startswith("15 images, cat/0.png to owl/4.png, ")
    assert said(folder, train_limit=4).startswith("4 images, ")


@pytest.mark.parametrize("form", ["{}", "torch/folder:{}"])
def test_it_is_the_same_wherever_the_images_lie(folder, tmp_path, monkeypatch, form):
    before = said(form.format(folder))
    (tmp_path / "link").symlink_to(folder)
    shutil.copytree(folder, tmp_path / "moved to" / "here")
    monkeypatch.chdir(tmp_path)
    for place in (f"{folder}/", "set", "./set", "link", "moved to/here"):
        assert said(form.format(place)) == before


def test_it_differs_with_the_images(folder):
    found = {said(folder), said(folder, train_limit=7), said(folder, train_limit=7, subset_seed=1)}
    (folder / "train" / "dog" / "3.png").rename(folder / "train" / "dog" / "3a.png")
    found.add(said(folder))
    (folder / "train" / "dog").rename(folder / "train" / "fox")
    found.add(said(folder))
    assert len(found) == 5


def test_images_in_memory_are_looked_at():
    pixels, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    one = ArrayImages("some", ("a", "b"), pixels, labels)
    other = ArrayImages("some", ("a", "b"), pixels.clone().index_fill_(0, torch.tensor(2), 1), labels)
    swapped = ArrayImages("some", ("a", "b"), pixels, 1 - labels)
    assert len({identity_of(images) for images in (one, other, swapped)}) == 3
    assert identity_of(one) == identity_of(ArrayImages("else", ("a", "b"), pixels.clone(), labels.clone()))
