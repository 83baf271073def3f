"""Opening one part of a set, whatever it is: by number, or as a stream."""

from __future__ import annotations

from rmeeto.data.images import ImageSet, open_numbered
from rmeeto.data.locate import locate
from rmeeto.data.open_streams import open_stream
from rmeeto.data.spec import DataSpec, Split
from rmeeto.errors import DataError


def open_split(spec: DataSpec, split: Split) -> ImageSet:
    """Open the training or the validation images.

    Raises:
        DataError: they are missing, empty, of one class only, or of a kind that cannot be opened here.
    """
    source = locate(spec, split)
    size = spec.train_size if split == "train" else spec.val_size
    if size is not None and not source.streams:
        raise DataError(
            f"data {source.spelling} knows how many images it has, so {split}_size {size} means nothing; use "
            f"--{split}-limit for a part of them"
        )
    images = open_stream(source, spec, split) if source.streams else open_numbered(source, spec, split)
    if len(images.class_names) < 2:
        raise DataError(f"{images.name} has one class only ({images.class_names[0]}); give two or more, a folder each")
    return images
