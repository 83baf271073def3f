from __future__ import annotations

from itertools import chain

import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor

from rmeeto.data import DEMO_INPUT, Augment, Batches, DataSpec, InputSpec, Share, open_data, open_validation
from rmeeto.data.array_batches import ArrayBatches
from rmeeto.data.augment import eval_transform
from rmeeto.data.decoded_batches import DecodedBatches
from rmeeto.data.order import ShuffledOrder
from rmeeto.errors import DataError

# Two workers are wanted on one core too; torch advises against them.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

FORM = InputSpec.of((3, 16, 16))
# Python 3.12 warns that a process with torch's threads is forked; the workers use none of them.
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def spec_of(folder, **settings):
    return DataSpec(str(folder), **{"batch_size": 4, **settings})


def epoch_of(data, augment=None, *, seed=0, epoch=0, share=None):
    batches = data.train_batches(augment or Augment(), seed, share or Share())
    batches.set_epoch(epoch)
    got = list(batches)
    assert len(got) == len(batches)
    return torch.cat([x for x, _ in got]), torch.cat([y for _, y in got])


@pytest.mark.parametrize(
    ("augment", "form", "kind"),
    [
        (Augment.light(), DEMO_INPUT, ArrayBatches),
        (Augment(), DEMO_INPUT, DecodedBatches),
        (Augment.light(), InputSpec.of((3, 28, 28)), ArrayBatches),
        (Augment.light(), InputSpec.of((1, 32, 32)), DecodedBatches),
    ],
)
def test_the_demo_set_in_any_form(augment, form, kind):
    data = open_data(DataSpec(batch_size=8, train_limit=24, val_limit=11), form)
    assert (len(data.train), len(data.val), data.num_classes) == (24, 11, 10)
    train, val = data.train_batches(augment, 0), data.eval_batches()
    assert isinstance(train, kind)
    assert isinstance(train, Batches)
    assert isinstance(val, Batches)
    assert [x.shape for x, _ in train] == [(8, *form.size)] * 3
    assert [len(y) for _, y in val] == [8, 3]
    assert (train.num_images, val.num_images) == (24, 11)


def test_both_paths_read_the_same_demo_images():
    spec = DataSpec(train_limit=20, val_limit=20)
    data = open_data(spec, DEMO_INPUT)
    images, labels = next(iter(data.eval_batches()))
    decoded = torch.stack([pil_to_tensor(data.val.read(i)[0]) for i in range(20)])
    torch.testing.assert_close(images, (decoded / 255 - DEMO_INPUT.mean[0]) / DEMO_INPUT.std[0])
    assert labels.tolist() == [data.val.read(i)[1] for i in range(20)]


@FORKS
@pytest.mark.parametrize("source", ["folder", "tars"])
def test_images_do_not_depend_on_the_workers(source, folder, tars):
    places = (str(folder), None) if source == "folder" else tuple(map(str, tars))
    seen = [
        epoch_of(open_data(DataSpec(*places, batch_size=4, workers=workers), FORM), epoch=2) for workers in (0, 1, 2)
    ]
    for images, labels in seen[1:]:
        assert torch.equal(images, seen[0][0])
        assert torch.equal(labels, seen[0][1])


@FORKS
def test_workers_that_stay_follow_the_epoch_and_an_open_tar(tars):
    data = open_data(DataSpec(*map(str, tars), batch_size=5, workers=2), FORM)
    data.train.read(0)
    batches = data.train_batches(Augment(repeats=1), 0)
    epochs = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        epochs.append(torch.cat([x for x, _ in batches]))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_batches_are_not_decoded(folder, workers):
    data = open_data(spec_of(folder, workers=workers), FORM)
    batches = data.train_batches(Augment(repeats=1), 0)
    whole = [x for x, _ in batches]
    for path in folder.rglob("*.png"):
        path.write_text("unreadable")
    batches.skip(len(whole))
    assert list(batches) == []
    with pytest.raises(DataError):
        list(batches)


@pytest.mark.parametrize("augment", [Augment(), Augment.light()])
def test_an_epoch_is_a_function_of_seed_and_epoch(folder, augment):
    data = open_data(spec_of(folder), FORM)
    torch.manual_seed(1)
    images, labels = epoch_of(data, augment, seed=3, epoch=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = epoch_of(data, augment, seed=3, epoch=5)
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(images, epoch_of(data, augment, seed=3, epoch=6)[0])
    assert not torch.equal(images, epoch_of(data, augment, seed=4, epoch=5)[0])


def test_repeated_images_are_augmented_anew(folder):
    data = open_data(spec_of(folder, batch_size=15), FORM)
    images, labels = epoch_of(data, Augment(repeats=3))
    assert len(images) == 15
    assert len(torch.unique(images.flatten(1), dim=0)) == 15
    assert [int(a) for a in labels[::3]] == [int(a) for a in labels[1::3]]


def test_evaluation_shows_every_image_once_whatever_the_shares(folder):
    data = open_data(spec_of(folder, val_batch_size=4), FORM)
    whole = [y for _, y in data.eval_batches()]
    assert [len(y) for y in whole] == [4, 2]
    assert torch.cat(whole).tolist() == [0, 0, 1, 1, 2, 2]
    shares = [data.eval_batches(Share(index, 4)) for index in range(4)]
    assert sorted(chain(*(y.tolist() for share in shares for _, y in share))) == [0, 0, 1, 1, 2, 2]
    assert sum(share.num_images for share in shares) == 6


def test_validation_images_alone(folder):
    found = open_validation(spec_of(folder / "val", val_data=str(folder)), FORM)
    assert (found.class_names, len(found.images), len(found.batches)) == (("cat", "dog", "owl"), 6, 2)


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", ["train", "val"])
def test_an_unreadable_image_ends_the_pass_in_one_line(folder, workers, part):
    (folder / part / "dog" / "1.png").write_text("a letter")
    data = open_data(spec_of(folder, batch_size=5, workers=workers), FORM)
    batches = data.train_batches(Augment(repeats=1), 0) if part == "train" else data.eval_batches()
    with pytest.raises(DataError) as caught:
        list(batches)
    assert "dog/1.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def spoilt(folder, *names):
    for name in names:
        (folder / name).write_text("a letter")
    return folder


@FORKS
def test_training_goes_on_with_full_batches_that_do_not_depend_on_the_workers(folder):
    spoilt(folder, "train/dog/1.png", "train/owl/4.png")
    seen = []
    for workers in (0, 2):
        data = open_data(spec_of(folder, batch_size=5, workers=workers, max_bad_images=0.2), FORM)
        images, labels = epoch_of(data, Augment(repeats=1), epoch=1)
        assert len(images) == 15
        assert len(data.bad) == 2
        seen.append((images, labels))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("batch_size", [5, 3])
def test_the_next_of_the_set_takes_a_bad_image_s_place(folder, batch_size):
    spoilt(folder, "train/dog/1.png", "train/dog/2.png", "train/owl/4.png")
    data = open_data(spec_of(folder, batch_size=batch_size, max_bad_images=0.2), FORM)
    names = [data.train.filename(place) for place in range(15)]
    transform = eval_transform(FORM)
    expected = []
    for place in next(iter(ShuffledOrder(15, 0, Share()).in_batches(15)))[0].tolist():
        shown = {"dog/1.png": "dog/3.png", "dog/2.png": "dog/3.png", "owl/4.png": "cat/0.png"}.get(names[place])
        image, label = data.train.read(place if shown is None else names.index(shown))
        expected.append((transform(image), label))
    images, labels = epoch_of(data, Augment.none())
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert labels.tolist() == [label for _, label in expected]


def test_evaluation_leaves_a_bad_image_out(folder):
    spoilt(folder, "val/dog/1.png")
    found = open_validation(spec_of(folder, batch_size=4, max_bad_images=0.2), FORM)
    assert torch.cat([y for _, y in found.batches]).tolist() == [0, 0, 1, 2, 2]
    list(found.batches)
    assert len(found.bad) == 1
    assert "val/dog" not in found.bad.summary()
    assert "image dog/1.png of" in found.bad.summary()


def test_no_readable_image_at_all_ends_the_pass(folder):
    spoilt(folder, *(f"train/{label}/{n}.png" for label in ("cat", "dog", "owl") for n in range(5)))
    data = open_data(spec_of(folder, batch_size=5, max_bad_images=1.0), FORM)
    with pytest.raises(DataError, match="nor could the 14 others that were tried; repair or remove them"):
        epoch_of(data)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("cat", "dog"), "2 classes and .* 3; they differ in owl"),
        (("cat", "dog", "fox"), "they differ in fox, owl"),
        (("ant", "bee", "cow", "dog"), "they differ in ant, bee, cat, ..."),
    ],
)
def test_classes_that_differ_are_named(make_folder, classes, words):
    spec = DataSpec(str(make_folder("a")), str(make_folder("b", classes=classes)))
    with pytest.raises(DataError, match=words):
        open_data(spec, FORM)
