"""Colours and type of the charts: safe for colour-blind readers, for light and for dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl


@dataclass(frozen=True)
class Theme:
    """The colours of one background.

    Attributes:
        background: behind the chart; "none" lets the page show through.
        surface: the colour that is seen there, for what must stand out from lines behind it.
        text, muted, grid: of words, of what stands back, of lines to read along.
        stages: one colour per state of the model, by its key in result.json. Shape of the marker and order tell
            the states apart as well, so that no colour has to.
    """

    background: str
    surface: str
    text: str
    muted: str
    grid: str
    stages: Mapping[str, str]

    def colour(self, key: str) -> str:
        """The colour of a state of the model."""
        return self.stages.get(key, self.muted)


# Okabe and Ito's palette, lightened for dark pages.
LIGHT = Theme(
    background="#ffffff",
    surface="#ffffff",
    text="#1c2430",
    muted="#5d6878",
    grid="#e4e8ee",
    stages={"unmerged": "#4a5565", "merged_official_place": "#b4588d", "merged": "#d55e00", "retrained": "#0072b2"},
)
PAGE_LIGHT = Theme("none", LIGHT.surface, LIGHT.text, LIGHT.muted, LIGHT.grid, LIGHT.stages)
PAGE_DARK = Theme(
    background="none",
    surface="#171c24",
    text="#e8ecf2",
    muted="#9aa6b6",
    grid="#303947",
    stages={"unmerged": "#b8c2cf", "merged_official_place": "#e39cc6", "merged": "#f59a54", "retrained": "#5cb8f0"},
)

MARKERS = {"unmerged": "o", "merged_official_place": "v", "merged": "s", "retrained": "D"}

# Type sizes in points; the page's own type stands in where the chart is part of a page.
TITLE, BODY, SMALL = 11.0, 10.0, 9.0


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """matplotlib's settings for one chart, whatever the reader's own are; put back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "figure.facecolor": theme.background,
                "savefig.facecolor": theme.background,
                "axes.facecolor": "none",
                "axes.edgecolor": theme.grid,
                "axes.labelcolor": theme.muted,
                "axes.labelsize": SMALL,
                "axes.titlesize": TITLE,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.axisbelow": True,
                "axes.grid": True,
                "grid.color": theme.grid,
                "grid.linewidth": 0.8,
                "xtick.color": theme.grid,
                "ytick.color": theme.grid,
                "xtick.labelcolor": theme.muted,
                "ytick.labelcolor": theme.muted,
                "xtick.labelsize": SMALL,
                "ytick.labelsize": SMALL,
                "ytick.major.size": 0,
                "xtick.major.size": 3,
                "text.parse_math": False,  # a dollar sign in a name is a dollar sign
                "text.color": theme.text,
                "font.size": BODY,
                "font.family": "DejaVu Sans",
                "lines.linewidth": 2.0,
                "lines.solid_capstyle": "round",
                "svg.fonttype": "none",
                "svg.hashsalt": "rmeeto",
            }
        )
        yield
