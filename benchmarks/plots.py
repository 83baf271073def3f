"""The pictures of docs/performance.md, each from one result."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullFormatter

from rmeeto.report.theme import LIGHT, SMALL, style

Result = Mapping[str, Any]
OURS, PEER = LIGHT.colour("retrained"), LIGHT.colour("unmerged")


def draw(results: Mapping[str, Result]) -> dict[str, bytes]:
    """entry -> a PNG file's content, for those results that have a picture."""
    return {entry: _render(_PICTURES[entry], found) for entry, found in results.items() if entry in _PICTURES}


def _render(paint: Callable[[Figure, Result], None], found: Result) -> bytes:
    with style(LIGHT):
        figure = Figure(figsize=(8.0, 3.6), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
        paint(figure, found)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
        return out.getvalue()


def _median(timing: Mapping[str, float]) -> float:
    return 1e3 * timing["median"]


def _scan(figure: Figure, found: Result) -> None:
    cases = [(name, found["figures"].get(name)) for name in ("forward, batch 16", "forward + backward, batch 16")]
    panels = figure.subplots(1, len(cases))
    for axes, (name, timings) in zip(panels, cases, strict=True):
        _bars(axes, name, {way: _median(timing) for way, timing in (timings or {}).items()}, ours="rmeeto")
        axes.set(xscale="log", xlabel="ms, logarithmic")
        _plain(axes.xaxis)


def _models(figure: Figure, found: Result) -> None:
    cases = [(name, timings) for name, timings in found["figures"].items() if "deit" in timings and "16" in name]
    panels = figure.subplots(1, max(len(cases), 1), squeeze=False, sharey=True)[0]  # the names stand once
    for axes, (name, timings) in zip(panels, cases, strict=False):
        deit = timings["deit"]["median"]
        speeds = {way: deit / timing["median"] for way, timing in timings.items()}
        _bars(axes, name, speeds, ours="vim")
        axes.axvline(1.0, color=LIGHT.muted, linewidth=1.0, linestyle=(0, (4, 4)))
        axes.set(xlabel="speed, deit = 1")


def _bars(axes: Axes, title: str, values: Mapping[str, float], ours: str) -> None:
    names = list(values)[::-1]
    colours = [OURS if name.startswith(ours) else PEER for name in names]
    drawn = axes.barh(names, [values[name] for name in names], color=colours, height=0.65)
    axes.bar_label(drawn, fmt="%.3g", padding=3, fontsize=SMALL - 1)
    axes.set_title(title, loc="left")
    axes.margins(x=0.25)
    axes.grid(visible=False, axis="y")


def _long(figure: Figure, found: Result) -> None:
    sides = sorted((side for side in found["figures"] if side.isdigit()), key=int)
    tokens = [(int(side) // 16) ** 2 + 1 for side in sides]
    times, memory = figure.subplots(1, 2)
    for name, colour, marker in (("vim_tiny", OURS, "D"), ("deit_tiny", PEER, "o")):
        _curve(times, tokens, [_median(found["figures"][side][name]) for side in sides], name, colour, marker)
        _curve(memory, tokens, [found["figures"][f"{side}, MiB"][name] for side in sides], name, colour, marker)
    for axes, title in ((times, "time of one image, ms"), (memory, "memory of one image, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="tokens")
        axes.set_xticks(tokens, [str(n) for n in tokens])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(title, loc="left")
        axes.legend(frameon=False)


def _plain(axis: Axis) -> None:
    """10 and 100 instead of powers."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _curve(axes: Axes, x: Sequence[float], y: Sequence[float], name: str, colour: str, marker: str) -> None:
    axes.plot(x, y, color=colour, marker=marker, label=name)


_PICTURES: dict[str, Callable[[Figure, Result], None]] = {"scan": _scan, "models": _models, "long": _long}
