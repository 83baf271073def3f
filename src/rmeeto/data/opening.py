"""Opening one part of a set, whatever it is: by number, or as a stream."""

from __future__ import annotations

from rmeeto.data.images import ImageSet, open_numbered
from rmeeto.data.locate import Source, locate
from rmeeto.data.open_streams import open_stream
from rmeeto.data.spec import DataSpec, Split
from rmeeto.errors import DataError


def open_split(spec: DataSpec, split: Split) -> ImageSet:
    """Open the training or the validation images.

    Raises:
        DataError: they are missing, empty, of one class only, or of a kind that cannot be opened here.
    """
    source = locate(spec, split)
    _refuse_idle(source, spec, split)
    images = open_stream(source, spec, split) if source.streams else open_numbered(source, spec, split)
    if len(images.class_names) < 2:
        raise DataError(f"{images.name} has one class only ({images.class_names[0]}); give two or more, a folder each")
    return images


def _refuse_idle(source: Source, spec: DataSpec, split: Split) -> None:
    """An option that this set does not need would be passed over."""
    size = spec.train_size if split == "train" else spec.val_size
    if size is not None and not source.streams:
        raise DataError(
            f"data {source.spelling} knows how many images it has, so {split}_size {size} means nothing; use "
            f"--{split}-limit for a part of them"
        )
    if split == "val" and spec.val_data is not None:  # the options below may be for the training images
        return
    keys = {"input_key": spec.input_key, "target_key": spec.target_key}
    for name, key in keys.items() if not source.reader.startswith(("hfds/", "hfids/")) else ():
        if key is not None:
            raise DataError(f"data {source.spelling} has no columns, so {name} {key!r} means nothing; leave it out")
    if spec.num_classes is not None and not source.streams:
        raise DataError(
            f"data {source.spelling} knows how many classes it has, so num_classes {spec.num_classes} means nothing; "
            "leave it out"
        )
