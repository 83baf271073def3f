from __future__ import annotations

import tarfile

import pytest

from rmeeto.data import opening
from rmeeto.data.locate import Source, locate
from rmeeto.data.opening import open_split
from rmeeto.data.spec import DataSpec
from rmeeto.errors import DataError


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("held", "asked", "train", "val"),
    [
        (("train", "val"), {}, "train", "val"),
        (("train", "test"), {}, "train", "test"),
        (("train", "validation", "test"), {}, "train", "validation"),
        (("training", "valid"), {}, "training", "valid"),
        (("small", "train", "test", "val"), {"train_split": "small", "val_split": "test"}, "small", "test"),
    ],
)
def test_the_parts_of_a_folder_are_found(tmp_path, held, asked, train, val):
    spec = DataSpec(str(folders(tmp_path, *held)), **asked)
    assert locate(spec, "train").root == str(tmp_path / train)
    assert locate(spec, "val").root == str(tmp_path / val)


@pytest.mark.parametrize(
    ("held", "asked", "split", "words"),
    [
        (
            ("train/a", "val/a"),
            {"train_split": "trian"},
            "train",
            "has no part trian/; name another with --train-split",
        ),
        (("train/a", "val/a"), {"val_split": "holdout"}, "val", "has no part holdout/; name another with --val-split"),
        (("train/a", "val/a"), {"val_split": "test"}, "val", "has no part test/"),
        (("cat", "dog"), {"train_split": "small"}, "train", "has no part small/"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "torch/folder:{}"])
def test_another_part_is_never_taken_for_the_one_that_was_named(tmp_path, held, asked, split, words, form):
    spec = DataSpec(form.format(folders(tmp_path, *held)), **asked)
    with pytest.raises(DataError, match=words):
        locate(spec, split)


@pytest.mark.parametrize(
    ("data", "asked", "split", "part"),
    [
        ("demo", {"train_split": "trian"}, "train", "trian"),
        ("demo", {"val_split": "holdout"}, "val", "holdout"),
        ("torch/mnist:sets", {"train_split": "Train"}, "train", "Train"),
        ("torch/QMNIST:sets", {"val_split": "tset"}, "val", "tset"),
    ],
)
def test_sets_of_two_halves_have_no_third(data, asked, split, part):
    with pytest.raises(DataError, match=f"data {data} has no part '{part}'; it has train and test: leave --{split}"):
        locate(DataSpec(data, **asked), split)


@pytest.mark.parametrize("form", ["{}", "torch/folder:{}"])
def test_training_images_may_be_evaluated(folder, form):
    spec = DataSpec(form.format(folder), val_split="train")
    assert [len(open_split(spec, split)) for split in ("train", "val")] == [15, 15]
    assert locate(DataSpec("torch/mnist:sets", val_split="train"), "val").split == "train"
    demo = DataSpec(val_split="train", val_limit=7, train_limit=7)
    assert locate(demo, "val") == Source("demo", "demo", None, "train")
    assert locate(DataSpec(val_split="test"), "val") == locate(DataSpec(), "val")


@pytest.mark.parametrize("name", ["test", "val", "train"])
def test_a_class_may_be_called_as_a_part(make_folder, name):
    root = make_folder("things", classes=("cat", "dog", name))
    for spec, split in [(DataSpec(str(root)), "train"), (DataSpec("demo", str(root)), "val")]:
        assert locate(spec, split).root == str(root)
        assert open_split(spec, split).class_names == ("cat", "dog", name)
    with pytest.raises(DataError, match="has no validation images in val/ or test/"):
        locate(DataSpec(str(root)), "val")


def test_torchvisions_folder_has_parts_too(folder):
    opened = (
        open_split(DataSpec(f"torch/folder:{folder}"), "train"),
        open_split(DataSpec(f"torch/folder:{folder}"), "val"),
    )
    assert [len(images) for images in opened] == [15, 6]


def test_separate_sources_are_taken_as_they_are(tmp_path):
    folders(tmp_path, "a/cat", "b/cat", "c/test/cat")
    spec = DataSpec(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (locate(spec, "train").root, locate(spec, "val").root) == (str(tmp_path / "a"), str(tmp_path / "b"))
    spec = DataSpec(str(tmp_path / "a"), str(tmp_path / "c"))
    assert locate(spec, "val").root == str(tmp_path / "c/test")


@pytest.mark.parametrize(
    ("spec", "split", "source"),
    [
        (DataSpec(), "val", Source("demo", "demo", None, "val")),
        (DataSpec("torch/cifar10:sets/"), "train", Source("torch/cifar10:sets/", "torch/cifar10", "sets/", "train")),
        (DataSpec("torch/cifar10:sets/"), "val", Source("torch/cifar10:sets/", "torch/cifar10", "sets/", "validation")),
        (DataSpec("torch/mnist:a", val_split="test"), "val", Source("torch/mnist:a", "torch/mnist", "a", "test")),
    ],
)
def test_names_keep_their_split(spec, split, source):
    assert locate(spec, split) == source


@pytest.mark.parametrize(
    ("data", "split", "words"),
    [
        ("nowhere", "train", "'nowhere' does not exist"),
        ("foo/bar:there", "train", "a name that starts with torch/, hfds/"),
        ("text.zip", "train", "is a file, but no .tar"),
        ("set.tar", "val", "--val-data"),
        ("plain", "val", "--val-data"),
        ("halves", "train", "holds test/ but no train/"),
        ("wds/imagenet", "train", "names no folder of shards; write wds/FOLDER"),
        ("tfds/imagenet", "train", "needs TensorFlow"),
        ("wds/plain", "train", "has no shards of 'train'"),
        ("empty", "train", "must hold images"),
        ("bare", "train", "must hold images"),
        ("single", "train", "one class only (cat)"),
        ("plain/cat", "train", "beside its class folders"),
        ("beside", "train", "beside its class folders"),
        ("broken.tar", "train", "cannot be opened"),
        ("cut.tar", "train", "cannot be opened"),
        ("nothing.tar", "train", "must hold images"),
        ("both.tar", "train", "holds several parts"),
        ("torch/nothing:plain", "train", "Unknown torchvision dataset nothing"),
        ("torch/fashion_mnist:plain", "train", "nothing is downloaded"),
        ("torch/cifar10", "train", "names no folder; write torch/cifar10:FOLDER"),
    ],
)
def test_what_cannot_be_opened_is_named_in_one_line(data, split, words, tmp_path, make_folder, tars, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder("plain")
    make_folder("single", classes=("cat",))
    beside = make_folder("beside")
    (beside / "cat" / "0.png").rename(beside / "0.png")
    folders(tmp_path, "halves/test/cat", "empty", "bare/cat", "bare/dog")
    (tmp_path / "text.zip").write_text("no images")
    (tmp_path / "broken.tar").write_text("no tar " * 200)
    whole = tars[0].read_bytes()
    tars[0].rename(tmp_path / "set.tar")
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 300])
    with tarfile.open("nothing.tar", "w"), tarfile.open("both.tar", "w") as both:
        both.add("set/train", "train")
        both.add("set/val", "val")
    with pytest.raises(DataError) as caught:
        open_split(DataSpec(data), split)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"num_classes": 7}, "knows how many classes it has, so num_classes 7 means nothing"),
        ({"input_key": "picture"}, "has no columns, so input_key 'picture' means nothing"),
        ({"target_key": "kind"}, "has no columns, so target_key 'kind' means nothing"),
    ],
)
def test_what_a_folder_does_not_need_is_refused(folder, asked, words):
    with pytest.raises(DataError, match=words):
        open_split(DataSpec(str(folder), **asked), "train")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="needs the library 'datasets'"):
        locate(DataSpec("hfds/cifar10"), "train")


def test_other_errors_of_a_hub_are_told_in_one_line(monkeypatch):
    def refuse(*arguments, **settings):
        raise ValueError("Unknown split.\nMore.")

    monkeypatch.setattr("rmeeto.data.locate.create_dataset", refuse)
    monkeypatch.setattr(opening, "locate", lambda spec, split: Source("hfds/some", "hfds/some", None, "val"))
    with pytest.raises(DataError, match=r"^data hfds/some cannot be opened \(Unknown split\); check the name.*'val'"):
        open_split(DataSpec("hfds/some"), "val")
