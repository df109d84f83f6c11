"""What every figure has around its panels: the title and the legend above, the notes below. All sizes in inches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.lettering import broken, size_of

MARGIN = 0.12
_TITLE_LINE, _LEGEND_LINE, _NOTE_LINE = 0.21, 0.18, 0.155
_HANDLE = 0.36  # of a legend's entry: its sign and the gaps beside it
_LEAST_WIDTH = 5.6


@dataclass(frozen=True)
class Page:
    """A figure with its frame drawn; panels are put into the room between.

    Attributes:
        figure: The figure.
        top: Where that room begins, from the upper edge.
    """

    figure: Figure
    top: float

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """New axes, their place given from the upper left corner of the room."""
        whole, tall = self.figure.get_size_inches()
        y = tall - self.top - top - height
        return self.figure.add_axes((left / whole, y / tall, width / whole, height / tall))


def open_page(title: str, handles: Sequence[Artist], notes: Sequence[str], width: float, height: float) -> Page:
    """A figure with title, legend and notes around room for panels.

    Args:
        title: What is shown and what is better.
        handles: Entries of the legend.
        notes: Each begins a new line below the panels.
        width: Of the room; the figure is as wide, or wider for the sake of its title.
        height: Of the room.
    """
    width = max(width, _LEAST_WIDTH)
    inner = width - 2 * MARGIN
    titles = broken(title, style.TITLE_SIZE, inner, bold=True)
    lines = [line for note in notes for line in broken(note, style.SMALL_SIZE, inner)]
    columns, rows = _legend_grid(handles, inner)
    legend_top = MARGIN + _TITLE_LINE * len(titles) + 0.03
    top = legend_top + _LEGEND_LINE * rows + 0.02
    tall = top + height + 0.12 + _NOTE_LINE * len(lines)
    figure = Figure(figsize=(width, tall), dpi=style.DPI, facecolor="white")
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


def _legend_grid(handles: Sequence[Artist], width: float) -> tuple[int, int]:
    """Columns and rows of the legend."""
    if not handles:
        return 1, 0
    widths = [size_of(str(handle.get_label()), style.LABEL_SIZE)[0] + _HANDLE for handle in handles]
    if sum(widths) <= width:
        return len(handles), 1
    columns = max(1, min(len(handles), int(width / max(widths))))
    return columns, math.ceil(len(handles) / columns)
