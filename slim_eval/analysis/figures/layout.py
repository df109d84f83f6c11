"""What every figure has around its panels: title and legend above, notes below. All sizes are in inches.

Places are computed from the sizes of the texts, before anything is drawn. Matplotlib's constrained layout lays out
every text twice to find them, which made a figure 1.5 times as slow: see docs/decisions/014-drawing.md.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure
from matplotlib.text import Text

from slim_eval.analysis.caveats import NOISE, Kind
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.numbers import DrawnFigure, Numbers
from slim_eval.metrics import Metric

MARGIN = 0.12
NOT_MEASURED = "not measured"
NOT_COMPARABLE = "not comparable"
SUMMARY_SIGN = "*"  # the number replaces another one that was not recorded
_TITLE_LINE, _PANEL_LINE, _LEGEND_LINE, _NOTE_LINE = 0.21, 0.15, 0.18, 0.155
_HANDLE = 0.36  # of a legend's entry: its sign and the gaps beside it
_MIN_WIDTH = 5.6
_CANVAS = FigureCanvasAgg(MplFigure(dpi=style.DPI))  # to measure texts


def open_page(
    title: str, handles: Sequence[Artist], notes: Sequence[str], captions: Sequence[tuple[str, str]], columns: int,
    size: tuple[float, float], *, left: float, gap: float, right: float, head: float, foot: float,
    projection: str | None = None, numbers: Iterable[Numbers],
) -> tuple[MplFigure, list[Axes]]:  # fmt: skip
    """A figure with title, legend and notes around panels of one size, and its axes in reading order.

    Args:
        title: What is shown and what is better.
        handles: Entries of the legend.
        notes: Each begins a new line below the panels.
        captions: Title and hint of each panel.
        columns: Panels beside each other.
        size: Width and height of a panel.
        left: Beside the first column.
        gap: Between columns.
        right: Beside the last column.
        head: Above each panel, besides the lines of its title.
        foot: Below each panel.
        projection: Of the panels; captions of polar ones are centred.
        numbers: What is drawn, one row per mark: the CSV file beside the figure.
    """
    width, height = size
    heads = [broken(text, style.PANEL_SIZE, width + gap / 2, bold=True) if text else [] for text, _ in captions]
    head += _PANEL_LINE * max(map(len, heads))
    lines, used = math.ceil(len(captions) / columns), left + columns * width + (columns - 1) * gap
    whole = max(used + right, _MIN_WIDTH)
    inner = whole - 2 * MARGIN
    titles = broken(title, style.TITLE_SIZE, inner, bold=True)
    below = [line for note in notes for line in broken(note, style.SMALL_SIZE, inner)]
    entries = [size_of(str(handle.get_label()), style.LABEL_SIZE)[0] + _HANDLE for handle in handles] or [inner]
    across = len(entries) if sum(entries) <= inner else max(1, int(inner / max(entries)))
    legend_top = MARGIN + _TITLE_LINE * len(titles) + 0.03
    top = legend_top + _LEGEND_LINE * math.ceil(len(handles) / across) + 0.02
    bottom = 0.12 + _NOTE_LINE * len(below)
    tall = top + lines * (head + height + foot) + bottom
    figure = DrawnFigure(figsize=(whole, tall))
    figure.numbers = list(numbers)
    edge = MARGIN / whole
    figure.text(
        edge, 1 - MARGIN / tall, "\n".join(titles), va="top", fontsize=style.TITLE_SIZE, fontweight="bold",
        linespacing=1.1,
    )  # fmt: skip
    if handles:
        figure.legend(
            handles=list(handles), loc="upper left", bbox_to_anchor=(edge, 1 - legend_top / tall), ncols=across,
            borderpad=0, borderaxespad=0, handlelength=1.3, columnspacing=1.4, labelspacing=0.35,
        )  # fmt: skip
    for index, line in enumerate(reversed(below)):
        figure.text(edge, (0.1 + index * _NOTE_LINE) / tall, line, color=style.MUTED, va="bottom")
    grid = figure.add_gridspec(
        lines, columns, left=left / whole, right=used / whole, top=1 - (top + head) / tall,
        bottom=(bottom + foot) / tall, wspace=gap / width, hspace=(head + foot) / height,
    )  # fmt: skip
    panels = [figure.add_subplot(grid[index], projection=projection) for index in range(len(captions))]
    for axes, words, (_, hint) in zip(panels, heads, captions, strict=True):
        _caption(axes, words, hint, centred=projection == "polar")
    return figure, panels


def _caption(axes: Axes, words: Sequence[str], hint: str, *, centred: bool) -> None:
    """The title of a panel, in lines, and below it the hint; each is left out if it is empty."""
    x, lift, align = (0.5, 23, "center") if centred else (0.0, 15, "left")
    for text, points, size, colour, weight in (
        ("\n".join(words), lift, style.PANEL_SIZE, style.TEXT, "bold"),
        (hint, 4, style.SMALL_SIZE, style.MUTED, "normal"),
    ):
        if text:
            axes.annotate(
                text, (x, 1), xycoords="axes fraction", xytext=(0, points), textcoords="offset points", ha=align,
                fontsize=size, color=colour, fontweight=weight, linespacing=1.05,
            )  # fmt: skip


def size_of(text: str, points: float, *, bold: bool = False) -> tuple[float, float]:
    """Width and height in inches of a text of one or more lines, in the font of the figures."""
    shown = Text(0, 0, text, fontsize=points, fontweight="bold" if bold else "normal")
    shown.set_figure(_CANVAS.figure)
    box = shown.get_window_extent(_CANVAS.get_renderer())  # type: ignore[no-untyped-call]
    return box.width / style.DPI, box.height / style.DPI


def broken(text: str, points: float, width: float, *, bold: bool = False) -> list[str]:
    """A text in lines that are at most about `width` inches long; a longer word is cut in two."""
    whole = size_of(text, points, bold=bold)[0]
    if whole <= width:
        return [text]
    # The mean width of a character fits most lines; wider ones are broken again.
    for characters in range(max(8, int(len(text) * width / whole)), 7, -1):
        lines = textwrap.wrap(text, characters)
        if max(size_of(line, points, bold=bold)[0] for line in lines) <= width:
            break
    return lines


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
