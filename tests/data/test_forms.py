"""The same images in every form give the same batches, as far as a form lets them."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rmeeto.data import Augment, DataSpec, InputSpec, Share, open_data, open_validation
from rmeeto.errors import DataError
from rmeeto.evaluate import accuracy

from .forms import FORMS, Form

# Two workers are wanted on one core too; libraries warn of what they do themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(datasets|webdataset|torchvision|numpy|fsspec).*"),
]

CLASSES = ("n01", "n02", "n10")
INPUT = InputSpec.of((3, 32, 32))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    random = np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 4)):
        for label in CLASSES:
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{label}_{number}.jpeg", quality=90)
    return root


def _forms(*, streams: bool = False, files: bool = False) -> pytest.MarkDecorator:
    """Every form, or those that are streams, or hold files; and a reason for those whose library is not here."""
    chosen = {
        name: form for name, form in FORMS.items() if (form.streams or not streams) and not (files and name == "cifar")
    }
    absent = {
        name: [one for one in form.needs if importlib.util.find_spec(one) is None] for name, form in chosen.items()
    }
    return pytest.mark.parametrize(
        "form",
        [
            pytest.param(
                form, id=name, marks=pytest.mark.skipif(bool(absent[name]), reason=f"{absent[name]} is absent")
            )
            for name, form in chosen.items()
        ],
    )


@pytest.fixture
def where(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; one of a name with "test" in it would make Hugging Face see a test part."""
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda _self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_arguments: True)
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def spec(form: Form, source: Path, where: Path) -> DataSpec:
    return dataclasses.replace(form.make(source, where), batch_size=5, val_batch_size=4)


def _model() -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, len(CLASSES)))


def _rows(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[int, bytes]]:
    """What was shown, in no order."""
    rows = [(int(label), image) for x, y in batches for image, label in zip(x, y, strict=True)]
    # Sets in memory are normalised by another formula, whose last bit may differ.
    return sorted((label, (1000 * image).round().short().numpy().tobytes()) for label, image in rows)


@_forms()
def test_evaluation_is_the_same_in_every_form(spec: DataSpec, source: Path) -> None:
    model = _model()
    expected = accuracy(model, open_validation(DataSpec(str(source)), INPUT).batches)
    found = open_validation(spec, INPUT)
    assert (len(found.images), len(found.class_names)) == (12, 3)
    result = accuracy(model, found.batches)
    assert (result.images, result.top1, result.top5) == (12, expected.top1, expected.top5)
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)
    assert _rows(list(found.batches)) == _rows(list(open_validation(DataSpec(str(source)), INPUT).batches))


@_forms()
def test_an_epoch_shows_every_image_once(spec: DataSpec, source: Path) -> None:
    every = _rows(list(open_data(DataSpec(str(source), batch_size=5), INPUT).train_batches(Augment.none(), 0)))
    data = open_data(spec, INPUT)
    assert (len(data.train), data.num_classes) == (30, 3)
    batches = data.train_batches(Augment.none(), 0)
    assert len(batches) == 6
    assert _rows(list(batches)) == every


def _epoch(spec: DataSpec, epoch: int, *, seed: int = 0, share: Share | None = None, skip: int = 0) -> Tensor:
    batches = open_data(spec, INPUT).train_batches(Augment(repeats=1), seed, share or Share())
    batches.set_epoch(epoch)
    batches.skip(skip)
    return torch.cat([images for images, _ in batches])


@_forms()
def test_an_epoch_is_a_function_of_seed_and_epoch(spec: DataSpec) -> None:
    images = _epoch(spec, 1)
    assert torch.equal(images, _epoch(dataclasses.replace(spec, workers=2), 1))
    assert torch.equal(images[10:], _epoch(spec, 1, skip=2))
    for other in (_epoch(spec, 2), _epoch(spec, 1, seed=1)):
        assert other.shape == images.shape
        assert not torch.equal(other, images)


@_forms()
def test_shares_together_are_the_whole(spec: DataSpec, source: Path) -> None:
    every = _rows(list(open_data(DataSpec(str(source), batch_size=5), INPUT).train_batches(Augment.none(), 0)))
    data = open_data(spec, INPUT)
    shares = [list(data.train_batches(Augment.none(), 0, Share(index, 3))) for index in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert _rows([batch for share in shares for batch in share]) == every


@_forms(streams=True)
def test_more_processes_than_shards(spec: DataSpec) -> None:
    data = open_data(dataclasses.replace(spec, batch_size=2), INPUT)
    shares = [list(data.train_batches(Augment.none(), 0, Share(index, 5))) for index in range(5)]
    assert [len(share) for share in shares] == [3] * 5
    assert len(set(_rows([batch for share in shares for batch in share]))) == 30
    val = [list(open_validation(spec, INPUT, Share(index, 5)).batches) for index in range(5)]
    assert len(set(_rows([batch for share in val for batch in share]))) == 12


@_forms(files=True)
def test_a_bad_image_is_counted_in_every_form(form: Form, source: Path, where: Path) -> None:
    copy = Path(shutil.copytree(source, where / "copy"))
    (copy / "train" / "n02" / "n02_3.jpeg").write_bytes(b"a letter")
    (copy / "val" / "n10" / "n10_0.jpeg").write_bytes(b"")
    (where / "made").mkdir()
    spec = dataclasses.replace(form.make(copy, where / "made"), batch_size=5, max_bad_images=0.1)
    data = open_data(spec, INPUT)
    train, val = list(data.train_batches(Augment.none(), 0)), list(data.eval_batches())
    assert (sum(len(y) for _, y in train), sum(len(y) for _, y in val)) == (30, 11)
    assert len(data.bad) == 2
    strict = open_data(dataclasses.replace(spec, max_bad_images=0.0), INPUT)
    with pytest.raises(DataError, match="repair or remove it, or raise --max-bad-images"):
        list(strict.train_batches(Augment.none(), 0))


@_forms(streams=True)
def test_a_stream_that_is_shorter_than_said_begins_again(spec: DataSpec) -> None:
    data = open_data(dataclasses.replace(spec, train_size=50, val_size=50), INPUT)
    rows = _rows(list(data.train_batches(Augment.none(), 0)))
    assert (len(rows), len(set(rows))) == (50, 30)
    assert sum(len(y) for _, y in data.eval_batches()) == 12
    part = open_data(dataclasses.replace(spec, train_size=20, val_size=5), INPUT)
    assert len(set(_rows(list(part.train_batches(Augment.none(), 0))))) == 20
    assert sum(len(y) for _, y in part.eval_batches()) == 5


@_forms(streams=True)
def test_a_stream_repeats_images_too(spec: DataSpec) -> None:
    data = open_data(dataclasses.replace(spec, batch_size=6), INPUT)
    rows = _rows(list(data.train_batches(dataclasses.replace(Augment.none(), repeats=3), 0)))
    assert (len(rows), len(set(rows))) == (30, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_size": None}, "does not say how many images it has; give --train-size"),
        ({"num_classes": None, "data": "wds"}, "does not say how many classes it has; give --num-classes"),
        (
            {"train_share": 0.5},
            "is a stream, of which train_share 0.5 cannot draw images; --train-size takes its",
        ),
        ({"val_limit": 5}, "is a stream, of which val_limit 5 cannot draw images"),
        ({"train_split": "nothing"}, "--train-split"),
        ({"train_split": "train-{0000..0001}.tar|many", "data": "wds"}, "ends in 'many', which is no number"),
        ({"target_key": "class", "data": "hfids"}, "no column 'class' among image, label"),
    ],
)
@_forms(streams=True)
def test_what_a_stream_cannot_do_is_told(spec: DataSpec, changes, words) -> None:
    if changes.get("data", "") not in spec.data:
        return
    with pytest.raises(DataError) as caught:
        open_data(dataclasses.replace(spec, **{**changes, "data": spec.data}), INPUT)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_size_of_what_is_no_stream_is_known(source: Path) -> None:
    with pytest.raises(DataError, match="knows how many images it has, so train_size 5 means nothing; use --train-lim"):
        open_data(DataSpec(str(source), train_size=5), INPUT)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"input_key": "picture"}, "has no column 'picture' among image, label; name one with --input-key"),
        ({"target_key": "kind"}, "has no column 'kind' among image, label; name one with --target-key"),
    ],
)
def test_a_table_without_the_column_is_told(source: Path, tmp_path: Path, asked, words) -> None:
    pytest.importorskip("datasets")
    spec = dataclasses.replace(FORMS["table"].make(source, tmp_path), **asked)
    with pytest.raises(DataError, match=words):
        open_data(spec, INPUT)
