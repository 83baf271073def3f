from __future__ import annotations

import io
import json
import tarfile

import pytest

from rmeeto.data.opening import open_split
from rmeeto.data.shards import braces, find_shards
from rmeeto.data.spec import DataSpec
from rmeeto.errors import DataError

from .spoil import encoded, ramp


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{x,y}-{0..1}.tar", ["x-0.tar", "x-1.tar", "y-0.tar", "y-1.tar"]),
        ("{}.tar", [".tar"]),
    ],
)
def test_braces(pattern, names):
    assert braces(pattern) == names


@pytest.mark.parametrize(
    ("files", "asked", "split", "found"),
    [
        (["train-0.tar", "val-0.tar"], "train", "train", ["train-0.tar"]),
        (["imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"], "", "val", ["imagenet1k-validation-00.tar"]),
        (["train/b.tar", "train/a.tar", "test/c.tar"], "train", "train", ["train/a.tar", "train/b.tar"]),
        (["train/b.tar", "test/c.tar"], None, "val", ["test/c.tar"]),
        (["x-0.tar", "x-1.tar", "x-2.tar"], "x-{1..2}.tar|500", "train", ["x-1.tar", "x-2.tar"]),
        (["trainer-0.tar", "my.train.0.tar"], "train", "train", ["my.train.0.tar"]),
        (["._train-0.tar", "train-0.tar"], "train", "train", ["train-0.tar"]),
        (["train/._0.tar", "train/0.tar"], "train", "train", ["train/0.tar"]),
    ],
)
def test_the_shards_of_a_part_are_found(tmp_path, files, asked, split, found):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in find_shards(tmp_path, asked, split)] == found


def test_an_info_file_names_them(tmp_path):
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": {"filenames": ["b.tar", "a.tar"]}}}))
    assert find_shards(tmp_path, "train", "train") == [tmp_path / "b.tar", tmp_path / "a.tar"]


def write(path, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def image():
    from PIL import Image

    return encoded(Image.fromarray(ramp()), "PNG")


def test_hidden_members_are_no_samples(tmp_path):
    members = [("._0.png", b"x"), ("0.png", image()), ("._0.cls", b"x"), ("0.cls", b"1"), (".a/1.png", b"x")]
    members += [("1.png", image()), ("1.cls", b"0")]
    write(tmp_path / "set" / "train-0.tar", members)
    images = open_split(DataSpec(f"wds/{tmp_path / 'set'}"), "train")
    assert (images.targets(), images.filename(1)) == ([1, 0], "train-0.tar/1.png")


def test_samples_are_paired_by_name(tmp_path):
    members = [
        ("a/0.cls", b"1"), ("a/0.png", image()), ("a/0.mask.png", b"x"), ("a/0.json", b"{}"),
        ("b/0.seg.png", image()), ("b/0.cls", b"0\n"),
        ("c/1.txt", b"no image"), ("c/2.JPEG", image()), ("c/2.cls", b"1"),
    ]  # fmt: skip
    write(tmp_path / "set" / "train-0.tar", members)
    images = open_split(DataSpec(f"wds/{tmp_path / 'set'}"), "train")
    assert images.targets() == [1, 0, 1]
    assert [images.filename(i) for i in range(3)] == [
        f"train-0.tar/{name}" for name in ("a/0.png", "b/0.seg.png", "c/2.JPEG")
    ]
    assert images.read(2)[0].size == (32, 24)
    assert images.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("0.png", b"x")], "train-0.tar: 0.png has no class number in a .cls file beside it"),
        ([("0.png", b"x"), ("0.cls", b"cat")], "has no class number"),
        ([("0.png", b"x"), ("0.cls", b"-1")], "has no class number"),
        (None, "shard .*train-0.tar cannot be read"),
    ],
)
def test_a_shard_without_labels_or_end_is_named(tmp_path, members, words):
    write(tmp_path / "set" / "train-0.tar", members or [("0.png", image() * 40), ("0.cls", b"1")])
    if members is None:
        path = tmp_path / "set" / "train-0.tar"
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=words):
        open_split(DataSpec(f"wds/{tmp_path / 'set'}"), "train")


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "x-0.tar").touch()
    with pytest.raises(DataError, match=r"shard .*x-1\.tar does not exist"):
        find_shards(tmp_path, "x-{0..1}.tar", "train")
