"""Which images a set holds, in one line: what another set would not say, wherever it lies."""

from __future__ import annotations

import hashlib

from rmeeto.data.images import ArrayImages, FileImages, ImageSet, TorchImages

_ASKED = 512  # of the names of a large set, evenly spread: a table reads an image for each


def identity_of(images: ImageSet) -> str:
    """Number, first and last name, and a digest: 24 images, blue/0.png to red/7.png, 5f3a1c77.

    Of files the digest is of all labels and up to 512 names within the set; of images in memory it is of them and
    their labels. A stream, which is not read for it, is what the user called it.
    """
    digest, count = hashlib.sha256(), len(images)
    if isinstance(images, ArrayImages):
        digest.update(images.images.contiguous().numpy().data)
        digest.update(images.labels.contiguous().numpy().data)
        return f"{count} images, {digest.hexdigest()[:8]}"
    if not isinstance(images, FileImages | TorchImages) or not count:
        return f"{count} images of {images.name}"
    names = {place: images.filename(place) for place in sorted({place * count // _ASKED for place in range(_ASKED)})}
    names[count - 1] = images.filename(count - 1)
    labels = images.targets() if isinstance(images, FileImages) else ()
    digest.update("\0".join(names.values()).encode("utf-8", errors="surrogateescape"))
    digest.update(",".join(str(int(label)) for label in labels).encode())
    return f"{count} images, {names[0]} to {names[count - 1]}, {digest.hexdigest()[:8]}"
