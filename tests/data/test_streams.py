"""Streams, told by hand."""

from __future__ import annotations

import itertools

import pytest

from rmeeto.data import streams
from rmeeto.data.spec import Share
from rmeeto.data.streams import HubStream, Sample, ShardStream, StreamImages, StreamOrder


def shards(monkeypatch, lengths):
    """Shards of these numbers of images, each image named by its shard and place."""
    held = {f"{number}": length for number, length in enumerate(lengths)}
    monkeypatch.setattr(
        streams, "_read_shard", lambda url: (Sample(b"", 0, f"{url}/{place}") for place in range(held[url]))
    )
    return ShardStream(list(held))


def table(lengths):
    """The same as a table of files."""
    from datasets import Dataset

    rows = [f"{number}/{place}" for number, length in enumerate(lengths) for place in range(length)]
    images = [{"bytes": b"", "path": name} for name in rows]
    made = Dataset.from_dict({"image": images, "label": [0] * len(rows)})
    return HubStream(made.to_iterable_dataset(num_shards=len(lengths)), ("image", "label"))


@pytest.mark.parametrize("kind", ["shards", "table"])
@pytest.mark.parametrize(
    ("lengths", "count"), [([10] * 3, 2), ([10] * 5, 4), ([1, 9, 4], 3), ([7], 3), ([2, 1], 5), ([4, 4], 2)]
)
def test_an_evaluation_sees_every_image_once_on_any_number_of_processes(monkeypatch, kind, lengths, count):
    pytest.importorskip("datasets")
    stream = shards(monkeypatch, lengths) if kind == "shards" else table(lengths)
    images = StreamImages("some", ["0"], stream, sum(lengths))
    orders = [StreamOrder(images, Share(index, count)) for index in range(count)]
    seen = [[sample.name for batch, _ in order.in_batches(3) for sample in batch] for order in orders]
    assert sorted(itertools.chain(*seen)) == sorted(
        f"{n}/{p}" for n, length in enumerate(lengths) for p in range(length)
    )
    assert [len(part) for part in seen] == [len(order) for order in orders]
    first = StreamImages("some", ["0"], stream, min(5, sum(lengths)))  # --val-size takes the first ones
    orders = [StreamOrder(first, Share(index, count)) for index in range(count)]
    part = [sample.name for order in orders for batch, _ in order.in_batches(3) for sample in batch]
    whole = [sample.name for sample in stream.samples(None, Share())]
    assert sorted(part) == sorted(whole[:5])
