"""What every figure has around its panels: title and legend above, notes below. All sizes are in inches.

Places are computed from the sizes of the texts, before anything is drawn. Matplotlib's constrained layout lays out
every text twice to find them, which made a figure 1.5 times as slow: see docs/decisions/014-drawing.md.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure
from matplotlib.text import Text

from slim_eval.analysis.caveats import MARKS, NOISE, Kind
from slim_eval.analysis.figures import style
from slim_eval.metrics import Metric

MARGIN = 0.12
NOT_MEASURED = "not measured"
NOT_COMPARABLE = "not comparable"
SUMMARY_SIGN = "*"  # the number replaces another one that was not recorded
_TITLE_LINE, _LEGEND_LINE, _NOTE_LINE = 0.21, 0.18, 0.155
_HANDLE = 0.36  # of a legend's entry: its sign and the gaps beside it
_MIN_WIDTH = 5.6


@dataclass(frozen=True)
class Page:
    """A figure with title, legend and notes; panels go into the space between.

    Attributes:
        figure: The figure.
        top: Distance of that space from the upper edge.
    """

    figure: MplFigure
    top: float

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """New axes, their place given from the upper left corner of the space."""
        whole, tall = self.figure.get_size_inches()
        y = tall - self.top - top - height
        return self.figure.add_axes((left / whole, y / tall, width / whole, height / tall))


def open_page(title: str, handles: Sequence[Artist], notes: Sequence[str], width: float, height: float) -> Page:
    """A figure with title, legend and notes around space for panels.

    Args:
        title: What is shown and what is better.
        handles: Entries of the legend.
        notes: Each begins a new line below the panels.
        width: Of the space; the figure is at least as wide.
        height: Of the space.
    """
    width = max(width, _MIN_WIDTH)
    inner = width - 2 * MARGIN
    titles = broken(title, style.TITLE_SIZE, inner, bold=True)
    lines = [line for note in notes for line in broken(note, style.SMALL_SIZE, inner)]
    entries = [size_of(str(handle.get_label()), style.LABEL_SIZE)[0] + _HANDLE for handle in handles]
    columns = len(handles) if sum(entries) <= inner else max(1, int(inner / max(entries)))
    legend_top = MARGIN + _TITLE_LINE * len(titles) + 0.03
    top = legend_top + _LEGEND_LINE * (math.ceil(len(handles) / columns) if handles else 0) + 0.02
    tall = top + height + 0.12 + _NOTE_LINE * len(lines)
    figure = MplFigure(figsize=(width, tall), dpi=style.DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left = MARGIN / width
    figure.text(
        left, 1 - MARGIN / tall, "\n".join(titles), va="top", fontsize=style.TITLE_SIZE, fontweight="bold",
        color=style.TEXT, linespacing=1.1,
    )  # fmt: skip
    if handles:
        figure.legend(
            handles=list(handles), loc="upper left", bbox_to_anchor=(left, 1 - legend_top / tall), ncols=columns,
            frameon=False, fontsize=style.LABEL_SIZE, borderpad=0, borderaxespad=0, handlelength=1.3,
            columnspacing=1.4, labelspacing=0.35, labelcolor=style.TEXT,
        )  # fmt: skip
    for index, line in enumerate(reversed(lines)):
        y = (0.1 + index * _NOTE_LINE) / tall
        figure.text(left, y, line, fontsize=style.SMALL_SIZE, color=style.MUTED, va="bottom")
    return Page(figure, top)


def caption(axes: Axes, title: Sequence[str], hint: str) -> None:
    """The title of a panel above its axes, and a hint below the title."""
    height = axes.bbox.height / style.DPI
    for text, points, size, colour, weight in (
        ("\n".join(title), 15, style.PANEL_SIZE, style.TEXT, "bold"),
        (hint, 4, style.SMALL_SIZE, style.MUTED, "normal"),
    ):
        if text:
            axes.text(
                0, 1 + points / 72 / height, text, transform=axes.transAxes, fontsize=size, color=colour,
                fontweight=weight, linespacing=1.05,
            )  # fmt: skip


def size_of(text: str, points: float, *, bold: bool = False) -> tuple[float, float]:
    """Width and height in inches of a text of one or more lines, in the font of the figures.

    Args:
        text: What will be drawn.
        points: Size of the font.
        bold: Whether it will be bold.
    """
    canvas = _canvas()
    shown = Text(0, 0, text, fontsize=points, fontweight="bold" if bold else "normal")
    shown.set_figure(canvas.figure)
    box = shown.get_window_extent(canvas.get_renderer())  # type: ignore[no-untyped-call]
    return box.width / canvas.figure.dpi, box.height / canvas.figure.dpi


def broken(text: str, points: float, width: float, *, bold: bool = False) -> list[str]:
    """A text in lines that are at most about `width` inches long; a longer word is cut in two."""
    whole = size_of(text, points, bold=bold)[0]
    if whole <= width:
        return [text]
    # The mean width of a character fits most lines; wider ones are broken again.
    characters = max(8, int(len(text) * width / whole))
    while True:
        lines = textwrap.wrap(text, characters)
        if characters <= 8 or max(size_of(line, points, bold=bold)[0] for line in lines) <= width:
            return lines
        characters -= 1


def heading(metric: Metric) -> str:
    """A metric as the title of a panel or an axis: ``Time per output token (TPOT)``."""
    title = metric.title[:1].upper() + metric.title[1:] if metric.benchmark != metric.key else metric.title
    return f"{title} ({metric.label})" if metric.label.isupper() and metric.label != title else title


def hint_of(metric: Metric) -> str:
    """Which direction is better, in words; empty if neither is."""
    return f"{metric.better} is better" if metric.better else ""


def doubtful(marks: Iterable[Kind]) -> frozenset[Kind]:
    """The marks that forbid a comparison; a difference within the noise floor was compared."""
    return frozenset(marks) - {NOISE}


def notes_on(marks: Iterable[Kind]) -> list[str]:
    """One line per kind of caveat, for the notes below a figure."""
    found = set(marks)
    return [f"{kind.sign} {kind.meaning}" for kind in MARKS if kind in found]


@cache
def _canvas() -> FigureCanvasAgg:
    return FigureCanvasAgg(MplFigure(dpi=style.DPI))
