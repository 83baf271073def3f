"""From a located source to a stream of known length and classes."""

from __future__ import annotations

from typing import Any

from rmeeto.data.locate import Source
from rmeeto.data.shards import braces
from rmeeto.data.spec import DataSpec, Split
from rmeeto.data.streams import HubStream, ShardStream, StreamImages
from rmeeto.errors import DataError


def open_stream(source: Source, spec: DataSpec, split: Split) -> StreamImages:
    """Open one part of a stream.

    Raises:
        DataError: it cannot be reached, or does not say how many images or classes it has and nobody else did.
    """
    given = [("train_limit", spec.train_limit), ("train_share", spec.train_share)]
    for name, value in given if split == "train" else [("val_limit", spec.val_limit)]:
        if value is not None:
            raise DataError(
                f"data {source.spelling!r} is a stream, of which {name} {value} cannot draw images; --{split}-size "
                "takes its first ones"
            )
    if source.reader == "wds":
        urls, length = _urls(source, split)
        return _sized(source, spec, split, ShardStream(urls), None, length)
    return _from_hub(source, spec, split)


def _sized(
    source: Source, spec: DataSpec, split: Split, stream: Any, names: list[str] | None, length: int | None
) -> StreamImages:
    size = (spec.train_size if split == "train" else spec.val_size) or length
    if not size:
        raise DataError(f"data {source.spelling!r} does not say how many images it has; give --{split}-size")
    if names is None and spec.num_classes is None:
        raise DataError(f"data {source.spelling!r} does not say how many classes it has; give --num-classes")
    classes = names or [str(label) for label in range(spec.num_classes or 0)]
    return StreamImages(source.name, classes, stream, size)


def _urls(source: Source, split: Split) -> tuple[list[str], int | None]:
    """root and train-{0000..0009}.tar|10000 -> ten addresses and the number of images."""
    pattern, _, count = source.split.partition("|")
    if ".tar" not in pattern and ".." not in pattern:
        raise DataError(
            f"data {source.spelling!r} cannot be listed; name its shards, such as --{split}-split "
            f"'{split}-{{0000..0007}}.tar'"
        )
    if count and not count.isdigit():
        raise DataError(f"{source.split!r} ends in {count!r}, which is no number of images; leave it out")
    return [f"{(source.root or '').rstrip('/')}/{name}" for name in braces(pattern)], int(count) if count else None


def _from_hub(source: Source, spec: DataSpec, split: Split) -> StreamImages:
    import datasets

    try:
        table = datasets.load_dataset(
            source.reader.partition("/")[2], split=source.split, streaming=True, cache_dir=source.root
        )
        features, splits = table.features or {}, table.info.splits or {}
        image, label = spec.input_key or "image", spec.target_key or "label"
        if missing := [key for key in (image, label) if key not in features]:
            raise ValueError(f"no column {missing[0]!r} among {', '.join(features)}")
        table = table.cast_column(image, datasets.Image(decode=False))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DataError(
            f"data {source.spelling} cannot be opened ({reason}); check the name, its part {source.split!r} "
            "(--train-split, --val-split) and its columns (--input-key, --target-key)"
        ) from None
    length = splits[source.split].num_examples if source.split in splits else None
    names = getattr(features[label], "names", None)
    return _sized(source, spec, split, HubStream(table, (image, label)), names, length)
