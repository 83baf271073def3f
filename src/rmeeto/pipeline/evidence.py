"""What is measured of a model: accuracy, cost, speed, and which tokens became one."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmeeto.data import Augment, Data
from rmeeto.errors import SettingsError
from rmeeto.evaluate import Replay, counted_cost, measure_speed, published_cost
from rmeeto.models import Vim
from rmeeto.pipeline.opening import device_of
from rmeeto.pipeline.specs import SpeedSpec
from rmeeto.pipeline.watch import Watch
from rmeeto.records import Accuracy, Cost, MergedImage, Speed, write_json
from rmeeto.reduction import Settings, attach, attached, detach, feature_width, trace
from rmeeto.report import draw_batch, draw_sheet, draw_tokens, write_picture
from rmeeto.schedule import Schedule, removable

FIRST_IMAGES = 32


@dataclass(frozen=True)
class Costs:
    """One model's cost by both conventions; a merge costs where one happens."""

    counted: Cost
    published: Cost

    @property
    def conventions(self) -> dict[str, str]:
        """How result.json's numbers were counted."""
        return {"gflops": self.counted.convention, "gflops_paper": self.published.convention}


def merged_copy(model: Vim, schedule: Schedule, settings: Settings) -> Vim:
    """The same weights, tokens merged; the model itself stays as it is."""
    return attach(copy.deepcopy(model), schedule, settings)


def unmerged_copy(model: Vim) -> Vim:
    """The same weights, no tokens merged; the model itself stays as it is."""
    return detach(copy.deepcopy(model))


def costs_of(model: Vim) -> Costs:
    """Cost of one image, counted and by the published formula."""
    config = model.config
    attachment = attached(model)
    schedule, settings = attachment if attachment else (Schedule.none(config.depth), Settings())
    lengths = schedule.lengths(model.num_tokens, protected=model.num_protected)
    removed = [(n, removable(n, r, model.num_protected)) for n, r in zip(lengths, schedule.removals, strict=True)]
    example = torch.zeros(1, *config.input_shape, device=device_of(model))
    published = published_cost(
        lengths,
        [(n, r) for n, r in removed if r],
        embed_dim=config.embed_dim,
        num_classes=config.num_classes,
        patch_values=config.in_chans * config.patch_size**2,
        state_size=config.state_size,
        feature_width=feature_width(
            settings.feature,
            embed_dim=config.embed_dim,
            inner_dim=config.inner_dim,
            state_size=config.state_size,
        ),
    )
    return Costs(counted_cost(model, example), published)


def speeds_of(models: Mapping[str, Any], spec: SpeedSpec, watch: Watch) -> dict[str, Speed]:
    """Speed of each model, in turn with the first one, which is a `Vim`; the others are called with its images.

    Raises:
        SettingsError: more threads than the machine has cores; thousands of them end the process.
    """
    cores = os.cpu_count() or 1
    if spec.threads is not None and spec.threads > cores:
        raise SettingsError(f"threads = {spec.threads} is more than the {cores} cores of this machine; give {cores}")
    model = next(iter(models.values()))
    config = model.config
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(spec.speed_batch, *config.input_shape, generator=generator).to(device_of(model))
    if example.is_cuda and spec.cuda_graphs:
        models = recorded(models, example, watch)
    with watch.counting("measuring speed", spec.speed_repeats) as advance:
        return measure_speed(
            models,
            example,
            warmup=spec.speed_warmup,
            repeats=spec.speed_repeats,
            threads=spec.threads,
            progress=lambda done, _total: advance(done),
        )


def recorded(models: Mapping[str, Any], example: Tensor, watch: Watch) -> Mapping[str, Any]:
    """Each model as a CUDA graph; all as they are, which is told, where one cannot be recorded or memory ends."""
    try:
        return {name: Replay(each, example) for name, each in models.items()}
    except RuntimeError as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        watch.stage(f"measuring calls from Python, for there is no CUDA graph: {why}")
        return models


def row_of(model: Vim, costs: Costs, accuracy: Accuracy, speed: Speed) -> dict[str, Any]:
    """One model's line in result.json."""
    attachment = attached(model)
    schedule = attachment[0] if attachment else Schedule.none(model.config.depth)
    return {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "tokens": schedule.final_length(model.num_tokens, protected=model.num_protected),
        "gflops": costs.counted.gflops,
        "gflops_paper": costs.published.gflops,
        "images_per_second": speed.images_per_second,
        "images_per_second_low": speed.low,
        "images_per_second_high": speed.high,
    }


def picture_tokens(model: Vim, data: Data, output: Path, *, images: int) -> None:
    """Write images.json and tokens/*.png: validation images with the tokens that `model` made of them."""
    batch, labels = _some_images(data, images)
    with torch.inference_mode(), trace(model) as seen:
        predicted = model(batch.to(device_of(model))).argmax(dim=1)
    names = data.class_names
    records = [
        MergedImage(found.grid, found.groups, found.protected, found.tokens, names[label], names[guess])
        for found, label, guess in zip(seen.images(model.grid_size), labels.tolist(), predicted.tolist(), strict=True)
    ]
    write_json(output / "images.json", {"images": [record.to_dict() for record in records]})
    pixels = list(_pixels(batch, data))
    for number, (image, record) in enumerate(zip(pixels, records, strict=True)):
        write_picture(output / "tokens" / f"{number:02d}.png", draw_tokens(image, record))
    write_picture(output / "tokens.png", draw_sheet(pixels, records))


def picture_first_batch(data: Data, augment: Augment, seed: int, path: Path) -> None:
    """Draw the first images that a run will be trained on, augmented, with their labels."""
    few = dataclasses.replace(data.spec, batch_size=min(FIRST_IMAGES, len(data.train)), workers=0)
    images, labels = next(iter(dataclasses.replace(data, spec=few).train_batches(augment, seed)))
    names = data.class_names
    write_picture(path, draw_batch(list(_pixels(images, data)), [names[label] for label in labels.tolist()]))


def _some_images(data: Data, count: int) -> tuple[Tensor, Tensor]:
    """The first validation images of as many classes as there are, in the order in which they come."""
    chosen: dict[int, list[Tensor]] = {}
    for images, labels in data.eval_batches():
        for image, label in zip(images, labels.tolist(), strict=True):
            chosen.setdefault(label, []).append(image)
        if len(chosen) == data.num_classes or sum(map(len, chosen.values())) >= 50 * count:
            break
    in_turn = sorted((place, label) for label, found in chosen.items() for place in range(len(found)))[:count]
    return torch.stack([chosen[label][place] for place, label in in_turn]), torch.tensor([lb for _, lb in in_turn])


def _pixels(batch: Tensor, data: Data) -> Any:
    """Normalised (b, c, [frames,] h, w) images or videos -> (b, [frames *] h, w, c) uint8 arrays."""
    batch = batch.flatten(2, -2)  # frames one under the other, as `Trace.images` has them
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.form.mean, data.form.std))
    pixels = (batch * std + mean).clamp(0, 1) * 255
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
