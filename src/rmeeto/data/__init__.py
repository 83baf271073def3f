"""Images in, batches out: any set that timm reads, the sets that fit in memory, and the demo set.

    data = open_data(DataSpec("photos/"), InputSpec((3, 224, 224)))
    train = data.train_batches(Augment.light(), seed=0)
    train.set_epoch(0)
    for images, labels in train: ...         # (b, c, h, w) float32 normalised, (b,) int64
    for images, labels in data.eval_batches(): ...

Names are imported when they are first used, so that the settings can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily

if TYPE_CHECKING:
    from rmeeto.data.bad_images import BAD_IMAGES, BadImages
    from rmeeto.data.demo_set import DEMO_INPUT
    from rmeeto.data.embedded import DEMO_MODEL, DEMO_TAG, demo_model
    from rmeeto.data.identity import identity_of
    from rmeeto.data.images import ImageSet
    from rmeeto.data.loaders import Batches, Data, Validation, open_data, open_validation
    from rmeeto.data.opening import open_split
    from rmeeto.data.order import places_in_step
    from rmeeto.data.spec import Augment, DataSpec, InputSpec, Share

_HOMES = {
    "Augment": "rmeeto.data.spec",
    "BAD_IMAGES": "rmeeto.data.bad_images",
    "BadImages": "rmeeto.data.bad_images",
    "Batches": "rmeeto.data.loaders",
    "DEMO_INPUT": "rmeeto.data.demo_set",
    "DEMO_MODEL": "rmeeto.data.embedded",
    "DEMO_TAG": "rmeeto.data.embedded",
    "Data": "rmeeto.data.loaders",
    "DataSpec": "rmeeto.data.spec",
    "ImageSet": "rmeeto.data.images",
    "InputSpec": "rmeeto.data.spec",
    "Share": "rmeeto.data.spec",
    "Validation": "rmeeto.data.loaders",
    "demo_model": "rmeeto.data.embedded",
    "identity_of": "rmeeto.data.identity",
    "open_data": "rmeeto.data.loaders",
    "open_split": "rmeeto.data.opening",
    "open_validation": "rmeeto.data.loaders",
    "places_in_step": "rmeeto.data.order",
}

__all__ = [
    "BAD_IMAGES",
    "DEMO_INPUT",
    "DEMO_MODEL",
    "DEMO_TAG",
    "Augment",
    "BadImages",
    "Batches",
    "Data",
    "DataSpec",
    "ImageSet",
    "InputSpec",
    "Share",
    "Validation",
    "demo_model",
    "identity_of",
    "open_data",
    "open_split",
    "open_validation",
    "places_in_step",
]

__getattr__ = lazily(__name__, _HOMES)
