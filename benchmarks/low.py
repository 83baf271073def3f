"""Half precision and eight-bit weights: their speed and their error, against the same model in float32, in turns.

    python benchmarks/low.py

Speed: vim_tiny and vim_small, random weights, un-merged. Error: the demo's trained model on its own test images: how
often the predicted class is that of float32, the accuracy, and the root mean square of the logits' error over that of
the logits. "bfloat16" casts the weights (`cast_weights`) and the images; "autocast" leaves the weights in float32 and
lets torch choose per op; "int8" quantises the weights of in_proj, out_proj and head once and their inputs in each
call.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from importlib.resources import as_file, files

import torch
from harness import Report, begin, forward_only, in_turns
from torch import Tensor, nn

from rmeeto.data import DataSpec, open_data
from rmeeto.models import Vim, cast_weights, create
from rmeeto.pipeline.opening import fitting, open_with_images
from rmeeto.pipeline.specs import ModelSpec

FULL = "float32"
Forward = Callable[[Tensor], Tensor]


def main() -> None:
    report = begin("low", __doc__)
    rows = []
    for name in ("vim_tiny",) if report.options.quick else ("vim_tiny", "vim_small"):
        variants = _variants(create(name).eval(), report)
        for batch in (1,) if report.options.quick else (1, 16):
            images = torch.randn(batch, 3, 224, 224)
            timings = in_turns({how: forward_only(model, images) for how, model in variants.items()}, report.options)
            report.keep(f"{name}, batch {batch}", timings)
            for how, each in timings.items():
                ratio = f"{each.times_as_fast_as(timings[FULL]):.2f}x"
                rows.append([f"{name}, batch {batch}", how, *each.milliseconds(), f"{batch / each.median:.1f}", ratio])
    report.show("low", ["inference", "in", "ms", "10-90 %", "images/s", f"of {FULL}"], rows)
    _errors(report)
    report.finish()


def _variants(model: Vim, report: Report) -> dict[str, Forward]:
    """Each way that runs here."""
    half = cast_weights(copy.deepcopy(model), torch.bfloat16)

    def autocast(images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(images)

    found: dict[str, Forward] = {
        FULL: model,
        "bfloat16": lambda images: half(images.bfloat16()).float(),
        "bfloat16, autocast": lambda images: autocast(images).float(),
    }
    try:
        found["int8, dynamic"] = _quantised(model)
    except (ImportError, AttributeError, RuntimeError) as error:
        report.remark(f"int8 cannot run here: {error}")
    return found


def _quantised(model: Vim) -> nn.Module:
    """The layers that are called as layers; x_proj and dt_proj are weights inside one op."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells of its successor, torchao
        from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

        made = copy.deepcopy(model)
        wanted = {name: layer for name, layer in made.named_modules() if name.endswith(("in_proj", "out_proj", "head"))}
        for layer in wanted.values():
            layer.__class__ = nn.Linear  # torch maps exact types, and ours computes the same
        return quantize_dynamic(made, dict.fromkeys(wanted, default_dynamic_qconfig), inplace=True)


def _errors(report: Report) -> None:
    count = 64 if report.options.quick else 1024
    spec = fitting(DataSpec(data="demo", train_limit=32, val_limit=count), 32)
    with as_file(files("rmeeto.data") / "demo" / "vim_nano") as folder:
        opened, data = open_with_images(ModelSpec(model=str(folder)), lambda form: open_data(spec, form))
    batches = list(data.eval_batches())
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.inference_mode():
        logits = {how: model(images) for how, model in _variants(opened.model.eval(), report).items()}
    rows = [_error(how, found, logits[FULL], labels) for how, found in logits.items()]
    report.figures["errors"] = rows
    headers = [f"vim_nano, {len(labels)} test images", "top-1 %", f"same class as {FULL}, %", "error of logits, %"]
    report.show("low_error", headers, [list(row.values()) for row in rows])


def _error(how: str, found: Tensor, wanted: Tensor, labels: Tensor) -> Mapping[str, str]:
    guess = found.argmax(1)
    error = (found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    return {
        "how": how,
        "top1": f"{100 * (guess == labels).float().mean():.2f}",
        "same": f"{100 * (guess == wanted.argmax(1)).float().mean():.2f}",
        "error": f"{100 * error:.3f}",
    }


if __name__ == "__main__":
    main()
