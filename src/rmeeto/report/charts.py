"""Charts of a run's figures, each drawn from its evidence alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from rmeeto.records import write_bytes
from rmeeto.report import words
from rmeeto.report.evidence import Evidence, Stage, number, numbers, stage_of
from rmeeto.report.theme import BODY, LIGHT, MARKERS, SMALL, TITLE, Theme, style

Format = Literal["png", "svg"]

# Inches. Narrow, so that the type is still legible on a phone and in half of a page's width.
_WIDTH, _HEIGHT = 4.6, 3.2
_PIXELS_PER_INCH = 200
_WHOLE = "unmerged"


@dataclass(frozen=True)
class Chart:
    """One kind of chart.

    Attributes:
        name: of its file.
        title: what it shows, for people.
        draw: puts it on a figure; False where the evidence does not have it.
    """

    name: str
    title: str
    draw: Callable[[Figure, Evidence, Theme], bool]

    def render(self, evidence: Evidence, theme: Theme = LIGHT, kind: Format = "png") -> bytes | None:
        """The chart as a file's content, the same bytes for the same evidence; None where there is nothing to show."""
        with style(theme):
            figure = Figure(figsize=(_WIDTH, _HEIGHT), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
            if kind == "png":  # a page has the title as text
                figure.suptitle(self.title, x=0.02, ha="left", fontsize=TITLE, color=theme.text)
            if not self.draw(figure, evidence, theme):
                return None
            out = io.BytesIO()
            about = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(out, format=kind, dpi=_PIXELS_PER_INCH, metadata=about)
            return out.getvalue()


def write_charts(folder: Path, evidence: Evidence) -> list[Path]:
    """Write each chart that there is evidence for as a PNG file on a white ground.

    Returns:
        the files.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    written = []
    for chart in CHARTS:
        if (data := chart.render(evidence)) is not None:
            written.append(Path(folder) / f"{chart.name}.png")
            write_bytes(written[-1], data)
    return written


def _accuracy_and_speed(figure: Figure, evidence: Evidence, theme: Theme) -> bool:
    placed = [
        (stage, speed, top1)
        for stage in evidence.stages
        if (speed := stage.number("images_per_second")) is not None and (top1 := stage.number("top1")) is not None
    ]
    if len(placed) < 2:
        return False
    axes = figure.subplots()
    axes.set_xlabel("images per second, measured")
    axes.set_ylabel("top-1 accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    ends = [end for stage, speed, _ in placed for end in _ends(stage, speed)]
    accuracies = [top1 for _, _, top1 in placed]
    wide, tall = max(max(ends) - min(ends), 0.15 * max(ends)), max(max(accuracies) - min(accuracies), 2.0)
    # Room on the right for the names, which stand beside the points.
    axes.set_xlim(min(ends) - 0.08 * wide, max(ends) + 0.75 * wide)
    axes.set_ylim(min(accuracies) - 0.16 * tall, max(accuracies) + 0.16 * tall)
    for stage, speed, top1 in placed:
        _point(axes, stage, (speed, top1), theme)
    at = {stage.key: (speed, top1) for stage, speed, top1 in placed}
    if _WHOLE in at:
        axes.axhline(at[_WHOLE][1], color=theme.muted, linewidth=1.0, linestyle=(0, (4, 4)), zorder=1)
    if "merged" in at and "retrained" in at:
        arrow = {"arrowstyle": "-|>", "color": theme.colour("retrained"), "shrinkA": 7, "shrinkB": 7, "linewidth": 1.4}
        axes.annotate("", xy=at["retrained"], xytext=at["merged"], arrowprops=arrow, zorder=2)
    _labels(axes, placed, theme)
    return True


def _ends(stage: Stage, speed: float) -> tuple[float, float]:
    """10th and 90th percentile of a speed, or the speed itself where they are not known."""
    low, high = stage.number("images_per_second_low"), stage.number("images_per_second_high")
    return (low, high) if low is not None and high is not None and low <= speed <= high else (speed, speed)


def _point(axes: Axes, stage: Stage, place: tuple[float, float], theme: Theme) -> None:
    axes.hlines(place[1], *_ends(stage, place[0]), color=theme.colour(stage.key), linewidth=1.6, zorder=3)
    axes.plot(*place, MARKERS.get(stage.key, "o"), color=theme.colour(stage.key), markersize=8, zorder=4)


def _labels(axes: Axes, placed: Sequence[tuple[Stage, float, float]], theme: Theme) -> None:
    """Names beside the points, pushed apart where they would lie on each other."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    gap, clear = 0.17 * (high - low), 0.36 * (right - left)
    falling = sorted(placed, key=lambda entry: -entry[2])
    heights = _apart([(speed, top1) for _, speed, top1 in falling], gap, clear, floor=low + 0.6 * gap)
    for (stage, speed, top1), y in zip(falling, heights, strict=True):
        x = max(_ends(other, at)[1] for other, at, _ in placed if abs(at - speed) < 0.2 * (right - left))
        axes.annotate(
            f"{stage.short}\n{top1:.1f} %", (x, y), xytext=(9, 0), textcoords="offset points", va="center",
            color=theme.colour(stage.key), fontsize=SMALL, linespacing=1.25, bbox=_paper(theme), zorder=2.5,
        )  # fmt: skip


def _apart(places: Sequence[tuple[float, float]], gap: float, clear: float, floor: float) -> list[float]:
    """Heights of labels for (x, y) places, highest first: `gap` apart where they are less than `clear` apart in x.

    They are pushed down from above, and up again from the floor.
    """
    heights = [y for _, y in places]
    near = [[other for other in range(len(places)) if abs(places[other][0] - x) < clear] for x, _ in places]
    for place in range(len(places)):
        heights[place] = min([heights[place], *(heights[other] - gap for other in near[place] if other < place)])
    for place in reversed(range(len(places))):
        above = [heights[other] + gap for other in near[place] if other > place]
        heights[place] = max([heights[place], floor, *above])
    return heights


def _paper(theme: Theme) -> dict[str, Any]:
    """A ground for words that lines would run through."""
    return {"facecolor": theme.surface, "edgecolor": "none", "pad": 1.5}


def _tokens(figure: Figure, evidence: Evidence, theme: Theme) -> bool:
    lengths = numbers(evidence.result.get("lengths"))
    if not lengths or max(lengths) <= 0:
        return False
    axes = figure.subplots()
    edges = [block + 0.5 for block in range(len(lengths) + 1)]
    colour = theme.colour("retrained")
    axes.stairs([lengths[0]] * len(lengths), edges, baseline=lengths, fill=True, color=theme.grid, alpha=0.7)
    axes.stairs(lengths, edges, fill=True, color=colour, alpha=0.16)
    axes.stairs(lengths, edges, baseline=None, color=colour, linewidth=2.2)
    axes.hlines(lengths[0], edges[0], edges[-1], color=theme.colour(_WHOLE), linewidth=1.2, linestyle=(0, (4, 4)))
    axes.set(xlabel="block", ylabel="tokens", ylim=(0, 1.13 * max(lengths)), xlim=(edges[0], edges[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.grid(visible=False)
    _above(axes, f"{lengths[0]:.0f} un-merged", (edges[0] + 0.15, lengths[0]), theme.colour(_WHOLE), "left")
    final = words.final_stage(evidence.result)
    left = (final.number("tokens") if final else None) or lengths[-1]
    _above(axes, f"{left:.0f} left", (edges[-1] - 0.15, lengths[-1]), colour, "right")
    gone = number(evidence.result, "token_reduction")
    if gone is not None and lengths[len(lengths) // 3] < 0.9 * lengths[0]:  # else there is no room for the words
        axes.text(
            edges[-1] - 0.15, 0.97 * lengths[0], f"{100 * gone:.0f} % of the token-layers gone", va="top", ha="right",
            color=theme.muted, fontsize=SMALL,
        )  # fmt: skip
    return True


def _above(axes: Axes, text: str, at: tuple[float, float], colour: str, side: Literal["left", "right"]) -> None:
    axes.annotate(text, at, xytext=(0, 4), textcoords="offset points", ha=side, color=colour)


def _training(figure: Figure, evidence: Evidence, theme: Theme) -> bool:
    epochs = [epoch for epoch in evidence.run.get("epochs") or () if isinstance(epoch, dict)]
    if not epochs:
        return False
    clock = _Clock.of(epochs)
    steps = [(clock.at_step(step), loss) for step in evidence.steps if (loss := number(step, "loss")) is not None]
    losses, scores = clock.series(epochs, "loss"), clock.series(epochs, "top1")
    start = stage_of(evidence.result, "merged")
    if start is not None and (top1 := start.number("top1")) is not None and evidence.run.get("verb") != "pretrain":
        scores.insert(0, (0.0, top1))
    rows = [name for name, values in (("loss", max(steps, losses, key=len)), ("top-1, %", scores)) if len(values) > 1]
    if not rows:
        return False
    panels = dict(zip(rows, figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0], strict=True))
    for name, axes in panels.items():
        axes.set(ylabel=name, xlim=(0, 1.12 * clock.ends[-1]))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.margins(y=0.16)
    if (axes := panels.get("loss")) is not None:
        if len(steps) > 1:
            axes.plot(*zip(*steps, strict=True), color=theme.colour("retrained"), alpha=0.35, linewidth=1.0)
        _curve(axes, losses, theme)
    if (axes := panels.get("top-1, %")) is not None:
        _curve(axes, scores, theme)
        _goal(axes, evidence, clock.ends[-1], theme)
    panels[rows[-1]].set_xlabel(f"{clock.unit} of training")
    figure.align_ylabels()
    return True


def _curve(axes: Axes, values: Sequence[tuple[float, float]], theme: Theme) -> None:
    colour = theme.colour("retrained")
    if values:
        size = 4.5 if len(values) < 25 else 0
        axes.plot(*zip(*values, strict=True), color=colour, marker="o", markersize=size, clip_on=False, zorder=3)
        axes.annotate(
            f"{values[-1][1]:.3g}", values[-1], xytext=(7, 0), textcoords="offset points", va="center", color=colour,
            bbox=_paper(theme), annotation_clip=False,
        )  # fmt: skip


def _goal(axes: Axes, evidence: Evidence, end: float, theme: Theme) -> None:
    """The un-merged model's accuracy as a line to reach."""
    whole = stage_of(evidence.result, _WHOLE)
    if whole is not None and (top1 := whole.number("top1")) is not None:
        axes.axhline(top1, color=theme.colour(_WHOLE), linewidth=1.2, linestyle=(0, (4, 4)))
        axes.annotate(
            f"un-merged {top1:.1f}", (0.02 * end, top1), xytext=(0, 3), textcoords="offset points", fontsize=SMALL,
            color=theme.colour(_WHOLE), bbox=_paper(theme), zorder=1.5,
        )  # fmt: skip


@dataclass(frozen=True)
class _Clock:
    """When each epoch ended, from the start of training.

    Attributes:
        ends: in `unit`s, or epochs counted where no time is known.
        unit: "seconds", "minutes", "hours" or "epochs".
        steps: steps per epoch.
    """

    ends: list[float]
    unit: str
    steps: list[float]

    @classmethod
    def of(cls, epochs: Sequence[dict[str, Any]]) -> _Clock:
        seconds = [number(epoch, "seconds") or 0.0 for epoch in epochs]
        steps = [max(1.0, number(epoch, "steps") or 1.0) for epoch in epochs]
        total = sum(seconds)
        if min(seconds) <= 0:
            return cls([float(count) for count in range(1, len(epochs) + 1)], "epochs", steps)
        unit, size = ("seconds", 1.0) if total < 180 else ("minutes", 60.0) if total < 3 * 3600 else ("hours", 3600.0)
        return cls([sum(seconds[: count + 1]) / size for count in range(len(seconds))], unit, steps)

    def series(self, epochs: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        """(end, value) of the epochs that have the value."""
        pairs = ((end, number(epoch, key)) for end, epoch in zip(self.ends, epochs, strict=True))
        return [(end, value) for end, value in pairs if value is not None]

    def at_step(self, step: Any) -> float:
        """When a step of the log was taken, its epoch's steps taken to be equally long."""
        epoch = min(max(int(number(step, "epoch") or 1), 1), len(self.ends)) - 1
        begin = self.ends[epoch - 1] if epoch else 0.0
        within = (number(step, "step") or 0.0) - sum(self.steps[:epoch])
        return begin + (self.ends[epoch] - begin) * min(max(within / self.steps[epoch], 0.0), 1.0)


def _speed(figure: Figure, evidence: Evidence, theme: Theme) -> bool:
    measured = [(stage, speed) for stage in evidence.stages if (speed := stage.number("images_per_second"))]
    if not measured:
        return False
    axes = figure.subplots()
    top = max(_ends(found, speed)[1] for found, speed in measured)
    for row, (found, speed) in enumerate(measured):
        colour = theme.colour(found.key)
        axes.barh(row, speed, height=0.5, color=colour, alpha=0.85)
        low, high = _ends(found, speed)
        if low < high:
            axes.errorbar(
                speed, row, xerr=[[speed - low], [high - speed]], color=theme.text, capsize=3.5, linewidth=1.3, zorder=4
            )
        axes.text(high + 0.02 * top, row, f"{speed:.0f}", va="center", fontsize=BODY, color=colour)
        axes.text(0, row - 0.31, found.name, va="bottom", fontsize=SMALL, color=theme.text)
    axes.set(
        xlim=(0, 1.13 * top), ylim=(max(len(measured), 3) - 0.5, -0.75), yticks=[], xlabel="images per second, median"
    )
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    return True


CHARTS = (
    Chart("accuracy_speed", "Accuracy against measured speed", _accuracy_and_speed),
    Chart("tokens", "Tokens that each block works on", _tokens),
    Chart("training", "Loss and accuracy while training", _training),
    Chart("speed", "Measured speed, with the 10th to 90th percentile", _speed),
)
