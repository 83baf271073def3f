"""One HTML page that tells a whole run: nothing in it is fetched from elsewhere, and all text is escaped."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from rmeeto.records import write_text
from rmeeto.report import words
from rmeeto.report.charts import CHARTS, Chart
from rmeeto.report.evidence import Evidence, mapping, number, read_evidence, stage_of
from rmeeto.report.table import Table, result_table
from rmeeto.report.theme import PAGE_DARK, PAGE_LIGHT

PAGE = "report.html"

# The page carries its pictures in itself: some are enough to see, and the others lie beside it.
_MOST_PICTURES, _MOST_BYTES = 12, 4_000_000
_PNG = b"\x89PNG\r\n\x1a\n"
_PAGE_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


def write_report(folder: Path | str) -> Path:
    """Write report.html from the records in a run's folder.

    Reads result.json and, where they are there, run.json, log.jsonl, images.json and tokens/*.png.

    Returns:
        the page.

    Raises:
        RmeetoError: there is no result.json, or a record cannot be read.
        OutputError: the folder cannot be written or the disk is full.
    """
    folder = Path(folder)
    page, evidence = folder / PAGE, read_evidence(folder)
    write_text(page, page_of(evidence, pictures=_pictures(folder, evidence), beside=_beside(folder)))
    return page


@dataclass(frozen=True)
class Picture:
    """One picture of merged tokens.

    Attributes:
        data: PNG.
        caption: what it shows.
        tokens: how many tokens are left, in words.
        wrong: the model was wrong about it.
    """

    data: bytes
    caption: str
    tokens: str = ""
    wrong: bool = False


def page_of(evidence: Evidence, *, pictures: Sequence[Picture] = (), beside: Sequence[str] = ()) -> str:
    """The page as text.

    Args:
        evidence: the run's records.
        pictures: pictures of merged tokens.
        beside: files to link to, relative to the page.
    """
    result = evidence.result
    title = _title(result)
    parts = [
        f'<header><p class="kind">rmeeto report: {escape(title)}</p><h1>{escape(words.headline(result))}</h1>',
        f'<p class="lead">{escape(words.story(result))}</p></header>',
        _tiles(result),
        _section("Before and after", _table(result_table(result)) + _conventions(result)),
        _section("Charts", _charts(evidence)),
        _section("Which tokens became one", _picture_grid(pictures)),
        _section("How it was measured", _method(result)),
        _section("Settings", _settings(evidence)),
        _section("Files beside this page", _links(beside)),
    ]
    return _PAGE.format(title=escape(title), style=_style(), body="\n".join(filter(None, parts)))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}: rmeeto report</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
<footer>Made by rmeeto from the records beside this page.</footer>
</main>
</body>
</html>
"""


def _style() -> str:
    return (files("rmeeto.report") / "style.css").read_text(encoding="utf-8")


def _title(result: Mapping[str, Any]) -> str:
    model, data = str(result.get("model") or "a model"), str(result.get("data") or "")
    if PurePath(data).is_absolute():
        data = PurePath(data).name
    return f"{model} on {data}" if data else model


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>" if body else ""


def _tiles(result: Mapping[str, Any]) -> str:
    """The figures that people ask for first."""
    ratio, between, lost = words.speedup(result), words.spread(result), words.points_lost(result)
    gone, seconds = number(result, "token_reduction"), number(result, "retrain_seconds")
    first, last = stage_of(result, "unmerged"), words.final_stage(result)
    change = [words.figure(stage.number("top1")) for stage in (first, last) if stage]
    tiles = [
        ("Speed-up", ratio and f"{ratio:.2f}x", between and f"{between[0]:.2f} to {between[1]:.2f} in 80 % of runs"),
        ("Top-1 accuracy", None if lost is None else f"{0.0 - round(lost, 1):+.1f} points", " to ".join(change) + " %"),
        ("Token-layers gone", None if gone is None else f"{100 * gone:.0f} %", "share of the tokens over all blocks"),
        ("Re-training", None if seconds is None else words.duration(seconds), _seen(result)),
    ]  # fmt: skip
    shown = "".join(
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value).replace("-", "&minus;")}</dd>'
        f'<dd class="note">{escape(note or "")}</dd></div>'
        for name, value, note in tiles
        if value
    )
    return f'<dl class="tiles">{shown}</dl>' if shown else ""


def _seen(result: Mapping[str, Any]) -> str:
    images = number(result, "retrain_images")
    return "wall time" if images is None else f"wall time, {images:,.0f} images"


def _table(table: Table) -> str:
    """A table whose rows become cards on a phone; the last row is what the result is about."""
    if not table.rows:
        return ""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in table.headers)
    body = []
    for place, (name, *cells) in enumerate(table.rows):
        data = "".join(
            f'<td data-label="{escape(header)}">{escape(cell)}</td>'
            for header, cell in zip(table.headers[1:], cells, strict=True)
        )
        final = ' class="final"' if place == len(table.rows) - 1 else ""
        body.append(f'<tr{final}><th scope="row">{escape(name)}</th>{data}</tr>')
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _conventions(result: Mapping[str, Any]) -> str:
    told = mapping(result.get("conventions"))
    names = {"gflops": "GFLOPs", "gflops_paper": "paper GFLOPs"}
    notes = [f"<b>{escape(names.get(key, key))}</b>: {escape(str(value))}." for key, value in told.items() if value]
    if words.speedup(result) is not None:
        notes.append("<b>speed</b>: the last row's is measured pass by pass against the un-merged model, see below.")
    return f'<p class="note">{"<br>".join(notes)}</p>' if notes else ""


def _charts(evidence: Evidence) -> str:
    figures = "".join(_chart(chart, evidence) for chart in CHARTS)
    return f'<div class="charts">{figures}</div>' if figures else ""


def _chart(chart: Chart, evidence: Evidence) -> str:
    """A chart in the page's own type, once for light and once for dark."""
    light, dark = (chart.render(evidence, theme, "svg") for theme in (PAGE_LIGHT, PAGE_DARK))
    if light is None or dark is None:
        return ""
    sources = [
        _embedded(data.replace(b"'DejaVu Sans'", _PAGE_FONT.encode()), "image/svg+xml") for data in (light, dark)
    ]
    return (
        f"<figure><figcaption>{escape(chart.title)}</figcaption><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{sources[1]}">'
        f'<img src="{sources[0]}" alt="Chart: {escape(chart.title)}. Its figures are in the table above.">'
        "</picture></figure>"
    )


def _picture_grid(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    return (
        "<p>Left the image; in the middle its tokens after the last block, each in the mean colour of the pixels it "
        "stands for; on the right the largest tokens, one colour each, wherever their patches lie.</p>"
        f'<div class="pictures">{"".join(map(_picture, pictures))}</div>'
    )


def _picture(picture: Picture) -> str:
    caption, mark = escape(picture.caption), ' class="wrong"' if picture.wrong else ""
    return (
        f'<figure><img src="{_embedded(picture.data, "image/png")}" alt="Merged tokens: {caption}" loading="lazy">'
        f"<figcaption><span{mark}>{caption}</span><span>{escape(picture.tokens)}</span></figcaption></figure>"
    )


def _method(result: Mapping[str, Any]) -> str:
    setting = mapping(result.get("speed_setting"))
    place = words.measured_on(setting)
    told = [_certainty(result)]
    if {"batch", "repeats", "warmup"} <= setting.keys():
        told.append(
            f"Images per second is the median of {setting['repeats']} timed forward passes of "
            f"{setting['batch']} images, after {setting['warmup']} untimed ones to warm up"
            + (f", on {place}" if place else "")
            + ". The models took turns within one run. The speed-up is the median ratio of neighbouring passes of the "
            "final and the un-merged model, with its 10th and 90th percentile: machine and moment change both alike."
        )
    if result.get("conventions"):
        told.append(
            "Cost is given by two conventions, named below the table; numbers of two conventions do not compare."
        )
    if number(result, "token_reduction") is not None:
        told.append(
            "Token-layers gone: 1 minus the mean, over the blocks, of the share of tokens that each still works on."
        )
    return "".join(f"<p>{escape(text)}</p>" for text in told if text)


def _certainty(result: Mapping[str, Any]) -> str:
    """How well an accuracy is known from so many images: 1.96 standard errors of a share."""
    count, final = number(mapping(result.get("images")), "validation"), words.final_stage(result)
    top1 = final.number("top1") if final else None
    if not count or top1 is None or not 0 <= top1 <= 100:
        return ""
    error = 196 * math.sqrt(top1 / 100 * (1 - top1 / 100) / count)
    return (
        f"Accuracy is over {count:,.0f} validation images, which tell one model's top-1 to about {error:.1f} points "
        "either way (95 %); two models on the same images compare more closely than that."
    )


def _settings(evidence: Evidence) -> str:
    """What would be needed to do it again, folded away."""
    result, run = evidence.result, evidence.run
    merging = {"tokens that leave after each block": result.get("schedule"), **mapping(result.get("reduction"))}
    groups = {
        "Merging": {name: value for name, value in merging.items() if value is not None},
        "Training recipe": mapping(run.get("recipe")) or mapping(result.get("recipe")),
        "Augmentation": mapping(result.get("augment")),
        "Speed measurement": mapping(result.get("speed_setting")),
        "Environment": mapping(result.get("environment")) or mapping(run.get("environment")),
    }
    return "".join(
        f"<details><summary>{escape(name)}</summary>{_facts(values)}</details>"
        for name, values in groups.items()
        if values
    )


def _facts(values: Mapping[str, Any]) -> str:
    rows = (
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(_plain(value))}</dd>"
        for key, value in values.items()
    )
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _plain(value: Any) -> str:
    """A JSON value as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _links(names: Iterable[str]) -> str:
    items = "".join(f'<li><a href="{quote(name)}">{escape(name)}</a></li>' for name in names)
    return f'<ul class="files">{items}</ul>' if items else ""


def _embedded(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _pictures(folder: Path, evidence: Evidence) -> list[Picture]:
    """Single pictures of tokens/, or its sheet where there are none; what is no PNG file is left out."""
    paths = sorted(path for path in (folder / "tokens").glob("*.png") if path.is_file())
    chosen = [path for path in paths if path.stem != "sheet"] or paths
    found: list[Picture] = []
    room = _MOST_BYTES
    for path in chosen[:_MOST_PICTURES]:
        data = path.read_bytes()
        if data.startswith(_PNG) and len(data) <= room:
            room -= len(data)
            found.append(_captioned(data, path.stem, evidence.images))
    return found


def _captioned(data: bytes, stem: str, images: Sequence[Mapping[str, Any]]) -> Picture:
    """A picture whose name begins with a number shows that record of images.json, counted from 0."""
    first = re.match(r"\d+", stem)
    place = int(first[0]) if first else len(images)
    if place >= len(images):
        return Picture(data, stem.replace("_", " "))
    image = images[place]
    label, predicted, tokens = (image.get(key) for key in ("label", "predicted", "tokens"))
    wrong = bool(label and predicted and label != predicted)
    caption = f"{label}, seen as {predicted}" if wrong else str(label or predicted or f"image {place}")
    return Picture(data, caption, f"{tokens} tokens" if tokens else "", wrong)


def _beside(folder: Path) -> list[str]:
    """The records and the model, where they are."""
    endings = {".json", ".jsonl", ".safetensors"}
    paths = [*folder.iterdir(), *(folder / "model").glob("*")]
    return sorted(
        path.relative_to(folder).as_posix()
        for path in paths
        if path.suffix in endings and not path.name.startswith(".") and path.is_file()
    )
