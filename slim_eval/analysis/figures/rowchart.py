"""Panels over the same rows: one row a configuration, one group a model, one panel a metric.

Rows, not columns, so that long model names and the values beside the marks stay readable from 3 to 60 configurations;
the figure grows downwards. What a panel draws in a row is its own matter: bars, boxes, intervals, coloured variants.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.frame import MARGIN, Page, open_page
from slim_eval.analysis.figures.lettering import broken, size_of
from slim_eval.analysis.figures.marks import hatched, notes_on
from slim_eval.analysis.rules import Doubt

Groups = Sequence[tuple[str, Sequence[str]]]
_FEW_ROWS = 24
_GAP, _RIGHT = 0.3, 0.2  # inches: between panels, beside the last


@dataclass(frozen=True)
class Rows:
    """Where the rows stand, in rows from the top; the same in all panels of a figure.

    Attributes:
        keys: Model and precision of each row.
        places: Middle of each row.
        groups: Middle of each model's rows.
        edges: Between two models.
        height: Of all rows with the room between models.
        colours: Of each precision.
    """

    keys: Sequence[tuple[str, str]]
    places: Sequence[float]
    groups: Sequence[float]
    edges: Sequence[float]
    height: float
    colours: Mapping[str, str]

    @property
    def gids(self) -> list[str]:
        """Names of the rows, for what is drawn in them."""
        return [f"{name}|{precision}" for name, precision in self.keys]

    @property
    def row_colours(self) -> list[str]:
        """The colour of each row's precision."""
        return [self.colours[precision] for _, precision in self.keys]


@dataclass(frozen=True, kw_only=True)
class RowPanel(ABC):
    """One metric of all configurations, in the order of the chart's groups.

    Attributes:
        title: What is shown.
        hint: What is better, or what the number cannot say.
        axis: Label of the axis, with the unit.
    """

    title: str
    hint: str
    axis: str
    hatches: ClassVar[bool] = False  # whether doubts are shown as hatching, which the legend then explains

    @abstractmethod
    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw all rows into axes that are `width` inches wide, and set the limits of the x axis."""

    def doubts(self) -> frozenset[Doubt]:
        """The doubts that are marked in it."""
        return frozenset()

    def foot(self, width: float) -> float:
        """Inches below a panel of a width that belong to its axis."""
        return 0.52


@dataclass(frozen=True)
class RowChart:
    """A figure of rows.

    Attributes:
        title: What is shown and what is better.
        groups: Models with their precisions.
        panels: In reading order.
        notes: Lines below, beside those on doubts.
        handles: Entries of the legend, beside the precisions.
        panel_width: In inches; None takes what fits the number of panels.
        precisions: Whether the legend names them.
    """

    title: str
    groups: Groups
    panels: Sequence[RowPanel]
    notes: Sequence[str] = ()
    handles: Sequence[Artist] = field(default_factory=tuple)
    panel_width: float | None = None
    precisions: bool = True


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches."""

    columns: int
    left: float
    width: float
    height: float
    titles: Sequence[Sequence[str]]
    foot: float

    @property
    def head(self) -> float:
        return 0.34 + 0.14 * max(map(len, self.titles))

    def place(self, index: int) -> tuple[float, float, float, float]:
        row, column = divmod(index, self.columns)
        top = row * (self.head + self.height + self.foot) + self.head
        return self.left + column * (self.width + _GAP), top, self.width, self.height

    def room(self, panels: int) -> tuple[float, float]:
        lines = math.ceil(panels / self.columns)
        width = self.left + self.columns * self.width + (self.columns - 1) * _GAP + _RIGHT
        return width, lines * (self.head + self.height + self.foot)


def row_chart(chart: RowChart) -> Figure:
    """Draw a chart.

    Returns:
        A figure with one axes a panel, in order; what is drawn in a row has the ``gid`` ``{name}|{precision}``, or one
        that begins so.
    """
    rows = place_rows(chart.groups)
    layout = _lay_out(chart, rows)
    page = open_page(chart.title, _handles(chart, rows), _notes(chart), *layout.room(len(chart.panels)))
    for index, panel in enumerate(chart.panels):
        axes = page.axes(*layout.place(index))
        axes.set_ylim(rows.height + 0.15, -0.15)
        panel.draw(axes, rows, layout.width)
        _dress(axes, panel, layout.titles[index], rows)
        if index % layout.columns == 0:
            _label_rows(axes, chart.groups, rows, page)
    return page.figure


def place_rows(groups: Groups) -> Rows:
    """The places of the rows of some models."""
    places, middles, edges, top = [], [], [], 0.0
    for name, precisions in groups:
        # A name of several lines beside a single row needs more room than the row.
        height = max(len(precisions), 0.75 * len(style.wrapped_name(name).splitlines()))
        first = top + (height - len(precisions)) / 2 + 0.5
        places += [first + index for index in range(len(precisions))]
        middles.append(top + height / 2)
        top += height + 0.5
        edges.append(top - 0.25)
    keys = [(name, precision) for name, precisions in groups for precision in precisions]
    return Rows(keys, places, middles, edges[:-1], top - 0.5, style.colours(precision for _, precision in keys))


def beside(axes: Axes, x: float, y: float, text: str, *, muted: bool = False, halo: bool = False) -> None:
    """A text to the right of a point; with a halo where a line may run under it."""
    axes.annotate(
        text, (x, y), xytext=(3, 0), textcoords="offset points", va="center", ha="left", fontsize=style.SMALL_SIZE,
        color=style.MUTED if muted else style.TEXT, zorder=4, bbox=style.HALO if halo else None,
    )  # fmt: skip


def at_right(axes: Axes, y: float, text: str, *, muted: bool = False) -> None:
    """A text in the column of numbers at the right edge of a panel."""
    axes.annotate(
        text, (1, y), xycoords=("axes fraction", "data"), va="center", ha="right", fontsize=style.SMALL_SIZE,
        color=style.MUTED if muted else style.TEXT, zorder=4,
    )  # fmt: skip


def widest(texts: Sequence[str]) -> float:
    """Width in inches of the longest of some texts beside marks."""
    return size_of(max(texts, key=len, default=""), style.SMALL_SIZE)[0] if any(texts) else 0.0


def _lay_out(chart: RowChart, rows: Rows) -> _Layout:
    few = len(rows.places) <= _FEW_ROWS
    lines = math.ceil(len(chart.panels) / (4 if few else 6))  # a tall figure does not grow still taller
    columns = math.ceil(len(chart.panels) / lines)
    names = max(size_of(style.wrapped_name(name), style.LABEL_SIZE)[0] for name, _ in chart.groups)
    left = MARGIN + names + _indent(rows) + 0.08
    width = chart.panel_width or {1: 4.6, 2: 3.3}.get(columns, 2.65)
    titles = [broken(panel.title, style.PANEL_SIZE, width + _GAP / 2, bold=True) for panel in chart.panels]
    foot = max(panel.foot(width) for panel in chart.panels)
    return _Layout(columns, left, width, (0.25 if few else 0.19) * (rows.height + 0.3), titles, foot)


def _indent(rows: Rows) -> float:
    """Inches between a panel and the names of the models: there the precisions stand."""
    return 0.13 + max(size_of(precision, style.SMALL_SIZE)[0] for precision in {key[1] for key in rows.keys})


def _handles(chart: RowChart, rows: Rows) -> list[Artist]:
    handles: list[Artist] = []
    if chart.precisions:
        handles += [Patch(facecolor=colour, label=precision) for precision, colour in rows.colours.items()]
    if any(panel.hatches and panel.doubts() for panel in chart.panels):
        handles.append(hatched())
    return [*handles, *chart.handles]


def _notes(chart: RowChart) -> list[str]:
    return [*notes_on(frozenset[Doubt]().union(*(panel.doubts() for panel in chart.panels))), *chart.notes]


def _dress(axes: Axes, panel: RowPanel, title: Sequence[str], rows: Rows) -> None:
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(style.MUTED)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, labelsize=style.SMALL_SIZE, colors=style.MUTED)
    axes.set_axisbelow(True)
    for edge in rows.edges:
        axes.axhline(edge, color=style.GRID, linewidth=0.7, zorder=1)
    axes.set_xlabel(panel.axis, fontsize=style.LABEL_SIZE, color=style.TEXT)
    for text, points, size, colour, weight in (
        ("\n".join(title), 15, style.PANEL_SIZE, style.TEXT, "bold"),
        (panel.hint, 4, style.SMALL_SIZE, style.MUTED, "normal"),
    ):
        axes.annotate(
            text, (0, 1), xytext=(0, points), xycoords="axes fraction", textcoords="offset points", fontsize=size,
            color=colour, fontweight=weight, linespacing=1.05,
        )  # fmt: skip


def scale(axes: Axes, low: float, high: float, room_left: float, room_right: float, width: float) -> None:
    """Set the x axis to a range of data with room for texts on both sides, and ticks within the range only.

    Args:
        axes: A panel.
        low: Least value shown.
        high: Greatest.
        room_left: Inches on the left of it that belong to texts.
        room_right: Inches on the right.
        width: Of the panel, in inches.
    """
    span = (high - low or abs(high) or 1.0) / max(width - room_left - room_right, 0.3 * width)
    axes.set_xlim(low - room_left * span, high + room_right * span)
    slack = (high - low) * 1e-3
    ticks = MaxNLocator(nbins=5 if width < 4 else 6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axes.set_xticks([tick for tick in ticks if low - slack <= tick <= high + slack])
    axes.grid(axis="x", color=style.GRID, linewidth=0.7, zorder=0)


def _label_rows(axes: Axes, groups: Groups, rows: Rows, page: Page) -> None:
    precisions = [precision for _, precision in rows.keys]
    axes.set_yticks(rows.places, precisions, fontsize=style.SMALL_SIZE, color=style.MUTED)
    axes.tick_params(axis="y", length=0)
    indent = -72 * _indent(rows)
    for (name, _), y in zip(groups, rows.groups, strict=True):
        axes.annotate(
            style.wrapped_name(name), (0, y), xycoords=("axes fraction", "data"), xytext=(indent, 0),
            textcoords="offset points", ha="right", va="center", fontsize=style.LABEL_SIZE, color=style.TEXT,
            linespacing=1.05,
        )  # fmt: skip
