"""Panels over the same rows: one row per variant, one group of rows per model, one panel per metric.

Rows, not columns, so that long model names and the numbers beside the bars stay readable from 3 to 60 variants; the
figure grows downwards. What a panel draws in a row is its own matter: bars, boxes, intervals, coloured cells.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from slim_eval.analysis.caveats import MARKS, Kind
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.layout import MARGIN, open_page, size_of
from slim_eval.analysis.figures.numbers import Numbers
from slim_eval.results.variants import Variant
from slim_eval.utils import wrapped_name

HATCH = "////"
_FEW_ROWS = 24
_GAP, _RIGHT = 0.3, 0.2  # inches: between panels, beside the last
_PAD = 3.2  # points between a bar and the number beside it


@dataclass(frozen=True)
class Row:
    """Where a variant is drawn, in rows from the top; the ``gid`` of what is drawn there; its scheme's look."""

    y: float
    gid: str
    colour: str
    marker: str


@dataclass(frozen=True, kw_only=True)
class RowPanel(ABC):
    """One metric of all variants, in the order of the rows."""

    title: str
    hint: str  # what is better, or what the number does not show
    axis: str  # label of the axis, with the unit
    foot: float = 0.52  # inches below the panel that belong to its axis

    @abstractmethod
    def draw(self, axes: Axes, rows: Sequence[Row], width: float) -> None:
        """Draw all rows into axes that are `width` inches wide, and set the limits of the x axis."""

    @abstractmethod
    def numbers(self, row: int) -> Sequence[Numbers]:
        """What is drawn in a row, besides panel, model, precision and unit: one entry per mark."""

    def marks(self) -> frozenset[Kind]:
        """The kinds of caveat that are marked in it."""
        return frozenset()

    def is_hatched(self) -> bool:
        """Whether doubtful values in it are hatched, which the legend then explains."""
        return False

    def handles(self) -> list[Artist]:
        """Its entries of the legend, after the schemes and the hatch of doubtful values."""
        return []

    def notes(self) -> Sequence[str]:
        """Its notes below the figure, after those on caveats: one per subject, in a fixed order, or an empty text."""
        return ()


def draw_rows(
    title: str, variants: Sequence[Variant], panels: Sequence[RowPanel], notes: Sequence[str] = (),
    *, panel_width: float | None = None, cells: bool = False,
) -> MplFigure | None:  # fmt: skip
    """A figure of rows, one axes per panel, in order; None without panels.

    Args:
        title: What is shown and what is better.
        variants: One per row; those of one model must be neighbours, see `by_name`.
        panels: In reading order.
        notes: Lines below, after those of the panels.
        panel_width: In inches; None chooses it by the number of panels.
        cells: Rows touch each other and say by their numbers, not their colours, which scheme they are.
    """
    if not panels:
        return None
    precisions = [variant.precision for variant in variants]
    looks = style.looks(precisions)
    names = {variant.name: wrapped_name(variant.name) for variant in variants}
    counts = Counter(variant.name for variant in variants)
    # A name of several lines beside a single row needs more space than the row; then all cells are taller.
    needed = {name: 0.75 * len(text.splitlines()) for name, text in names.items()}
    stretch = max(1.0, *(needed[name] / count for name, count in counts.items())) if cells else 1.0
    between, slack = (0.0, 0.0) if cells else (0.5, 0.15)
    places: list[float] = []
    middles, edges, top = {}, [], 0.0
    for name, count in counts.items():
        tall = count if cells else max(count, needed[name])
        places += [top + (tall - count) / 2 + 0.5 + index for index in range(count)]
        middles[name] = top + tall / 2
        edges.append(top + tall + between / 2)
        top += tall + between
    rows = [Row(y, f"{v.name}|{v.precision}", *looks[v.precision]) for y, v in zip(places, variants, strict=True)]
    few = len(rows) <= _FEW_ROWS
    columns = math.ceil(len(panels) / math.ceil(len(panels) / (4 if few else 6)))  # a tall figure grows to the right
    width = panel_width or {1: 4.6, 2: 3.3}.get(columns, 2.65)
    height = (0.25 if few else 0.19) * (top - between + 2 * slack) * stretch
    indent = 0.13 + max(size_of(name, style.SMALL_SIZE)[0] for name in looks)
    left = MARGIN + max(size_of(text, style.LABEL_SIZE)[0] for text in names.values()) + indent + 0.08
    marks = frozenset[Kind]().union(*(panel.marks() for panel in panels))
    handles: list[Artist] = [] if cells else [Patch(facecolor=look[0], label=name) for name, look in looks.items()]
    if any(panel.is_hatched() for panel in panels):
        label = "not comparable with the baseline"
        handles.append(Patch(facecolor="#b0b0b0", edgecolor="white", hatch=HATCH, label=label))
    handles += {str(handle.get_label()): handle for panel in panels for handle in panel.handles()}.values()
    lines = [f"{kind.sign} {kind.meaning}" for kind in MARKS if kind in marks]
    # By subject, whichever panel has a note on it.
    by_subject = zip_longest(*(panel.notes() for panel in panels), fillvalue="")
    lines += dict.fromkeys(note for subject in (*by_subject, notes) for note in subject if note)
    numbers = [
        {"panel": panel.title, "model": variant.name, "precision": variant.precision, **entry, "unit": panel.axis}
        for panel in panels for place, variant in enumerate(variants) for entry in panel.numbers(place)
    ]  # fmt: skip
    figure, found = open_page(
        title, handles, lines, [(panel.title, panel.hint) for panel in panels], columns, (width, height), left=left,
        gap=_GAP, right=_RIGHT, head=0.34, foot=max(panel.foot for panel in panels), numbers=numbers,
    )  # fmt: skip
    for index, (axes, panel) in enumerate(zip(found, panels, strict=True)):
        # Without labels, seaborn lays out all ticks to see whether the axes need any: half of its time.
        axes.set(xlabel=" ", ylabel=" ", ylim=(top - between + slack, -slack))
        panel.draw(axes, rows, width)
        axes.set(xlabel=panel.axis, ylabel="", yticks=[])
        axes.spines["bottom"].set_visible(False)
        for edge in edges[:-1]:
            colour, linewidth = ("white", 5.0) if cells else (style.GRID, 0.7)
            axes.axhline(edge, color=colour, linewidth=linewidth, zorder=1)
        if index % columns == 0:
            axes.set_yticks(places, precisions)
            for name, y in middles.items():
                axes.annotate(
                    names[name], (0, y), xycoords=("axes fraction", "data"), xytext=(-72 * indent, 0),
                    textcoords="offset points", ha="right", va="center", fontsize=style.LABEL_SIZE, linespacing=1.05,
                )  # fmt: skip
    return figure


def by_name(variants: Sequence[Variant]) -> list[Variant]:
    """The variants with those of one model together, otherwise in their order."""
    places = {name: place for place, name in enumerate(dict.fromkeys(variant.name for variant in variants))}
    return sorted(variants, key=lambda variant: places[variant.name])


def beside(axes: Axes, x: float | None, y: float, text: str, *, muted: bool = False, halo: bool = False) -> None:
    """A text to the right of a point, or, without `x`, at the right edge; with a halo if a line may run under it."""
    axes.annotate(
        text, (1.0 if x is None else x, y), xycoords=("axes fraction" if x is None else "data", "data"),
        xytext=(0 if x is None else _PAD, 0), textcoords="offset points", ha="right" if x is None else "left",
        va="center", color=style.MUTED if muted else style.TEXT, zorder=4, bbox=style.HALO if halo else None,
    )  # fmt: skip


def scale(axes: Axes, low: float, high: float, width: float, texts: Sequence[str], left: float = 0.0) -> None:
    """Set the x axis to a range of data with space for texts on the right, and ticks within the range only.

    The panel is `width` inches wide; with `left` inches before the range, texts are in a column of their own.
    """
    right = size_of(max(texts, key=len), style.SMALL_SIZE)[0] + (0.15 if left else 0.1)
    span = (high - low or abs(high) or 1.0) / max(width - left - right, 0.3 * width)
    axes.set_xlim(low - left * span, high + right * span)
    slack = (high - low) * 1e-3
    ticks = MaxNLocator(nbins=5 if width < 4 else 6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axes.set_xticks([tick for tick in ticks if low - slack <= tick <= high + slack])
    axes.grid(axis="x")
