"""Panels over the same rows: one row per variant, one group of rows per model, one panel per metric.

Rows, not columns, so that long model names and the numbers beside the bars stay readable from 3 to 60 variants; the
figure grows downwards. What a panel draws in a row is its own matter: bars, boxes, intervals, coloured cells.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from slim_eval.analysis.caveats import Kind
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.layout import MARGIN, broken, caption, doubtful, notes_on, open_page, size_of
from slim_eval.results.variants import Variant
from slim_eval.utils import wrapped_name

HATCH = "////"
_FEW_ROWS = 24
_GAP, _RIGHT = 0.3, 0.2  # inches: between panels, beside the last
_PAD = 0.045  # inches between a bar and the number beside it


@dataclass(frozen=True)
class Rows:
    """Where the rows are, in rows from the top; the same in all panels of a figure.

    Attributes:
        variants: One per row.
        places: Middle of each row.
        groups: Model -> middle of its rows.
        edges: Between two models.
        height: Of all rows with the space between models.
        colours: Of each scheme.
    """

    variants: Sequence[Variant]
    places: Sequence[float]
    groups: Mapping[str, float]
    edges: Sequence[float]
    height: float
    colours: Mapping[str, str]

    @property
    def gids(self) -> list[str]:
        """``{name}|{precision}`` per row, the ``gid`` of what is drawn in it."""
        return [f"{variant.name}|{variant.precision}" for variant in self.variants]

    @property
    def row_colours(self) -> list[str]:
        """The colour of each row's scheme."""
        return [self.colours[variant.precision] for variant in self.variants]


@dataclass(frozen=True, kw_only=True)
class RowPanel(ABC):
    """One metric of all variants, in the order of the rows.

    Attributes:
        title: What is shown.
        hint: What is better, or what the number does not show.
        axis: Label of the axis, with the unit.
    """

    title: str
    hint: str
    axis: str
    hatches: ClassVar[bool] = False  # whether marks are shown as hatching, which the legend then explains

    @abstractmethod
    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw all rows into axes that are `width` inches wide, and set the limits of the x axis."""

    def marks(self) -> frozenset[Kind]:
        """The kinds of caveat that are marked in it."""
        return frozenset()

    def foot(self, width: float) -> float:
        """Inches below a panel of a width that belong to its axis."""
        return 0.52


@dataclass(frozen=True)
class RowChart:
    """A figure of rows.

    Attributes:
        title: What is shown and what is better.
        variants: One per row; those of one model must be neighbours, see `by_name`.
        panels: In reading order.
        notes: Lines below, after those on caveats.
        handles: Entries of the legend, after the schemes.
        panel_width: In inches; None chooses it by the number of panels.
        cells: Rows touch each other and say by their numbers, not their colours, which scheme they are.
    """

    title: str
    variants: Sequence[Variant]
    panels: Sequence[RowPanel]
    notes: Sequence[str] = ()
    handles: Sequence[Artist] = ()
    panel_width: float | None = None
    cells: bool = False

    def draw(self) -> MplFigure:
        """Draw it: one axes per panel, in order."""
        rows = _place(self.variants, 0.0 if self.cells else 0.5)
        few, count = len(rows.places) <= _FEW_ROWS, len(self.panels)
        lines = math.ceil(count / (4 if few else 6))  # a tall figure does not grow still taller
        columns = math.ceil(count / lines)
        width = self.panel_width or {1: 4.6, 2: 3.3}.get(columns, 2.65)
        titles = [broken(panel.title, style.PANEL_SIZE, width + _GAP / 2, bold=True) for panel in self.panels]
        indent = 0.13 + max(size_of(name, style.SMALL_SIZE)[0] for name in rows.colours)
        names = {name: wrapped_name(name) for name in rows.groups}
        left = MARGIN + max(size_of(name, style.LABEL_SIZE)[0] for name in names.values()) + indent + 0.08
        head = 0.34 + 0.14 * max(map(len, titles))
        height = (0.25 if few else 0.19) * (rows.height + (0 if self.cells else 0.3)) * self._stretch(rows)
        step = head + height + max(panel.foot(width) for panel in self.panels)
        page = open_page(
            self.title, self._handles(rows), [*notes_on(self._marks()), *self.notes],
            left + columns * width + (columns - 1) * _GAP + _RIGHT, lines * step,
        )  # fmt: skip
        for index, panel in enumerate(self.panels):
            line, column = divmod(index, columns)
            axes = page.axes(left + column * (width + _GAP), line * step + head, width, height)
            slack = 0 if self.cells else 0.15
            axes.set_ylim(rows.height + slack, -slack)
            # Without labels, seaborn lays out all ticks to see whether the axes need any: half of its time.
            axes.set(xlabel=" ", ylabel=" ")
            panel.draw(axes, rows, width)
            self._dress(axes, panel, titles[index], rows)
            if column == 0:
                _label_rows(axes, rows, names, indent)
        return page.figure

    def _dress(self, axes: Axes, panel: RowPanel, title: Sequence[str], rows: Rows) -> None:
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)
        axes.spines["left"].set_color(style.MUTED)
        axes.set_yticks([])
        axes.set_ylabel("")
        axes.set_xlabel(panel.axis, fontsize=style.LABEL_SIZE, color=style.TEXT)
        axes.tick_params(axis="x", bottom=False, labelsize=style.SMALL_SIZE, colors=style.MUTED)
        axes.set_axisbelow(True)
        colour, linewidth = ("white", 5.0) if self.cells else (style.GRID, 0.7)
        for edge in rows.edges:
            axes.axhline(edge, color=colour, linewidth=linewidth, zorder=1)
        caption(axes, title, panel.hint)

    def _stretch(self, rows: Rows) -> float:
        """How much taller cells must be for the longest name; other rows get more space from `_place`."""
        if not self.cells:
            return 1.0
        counts = {name: sum(variant.name == name for variant in rows.variants) for name in rows.groups}
        return max(1.0, *(0.75 * len(wrapped_name(n).splitlines()) / count for n, count in counts.items()))

    def _marks(self) -> frozenset[Kind]:
        return frozenset[Kind]().union(*(panel.marks() for panel in self.panels))

    def _handles(self, rows: Rows) -> list[Artist]:
        handles: list[Artist] = []
        if not self.cells:
            handles += [Patch(facecolor=colour, label=precision) for precision, colour in rows.colours.items()]
        if any(panel.hatches and doubtful(panel.marks()) for panel in self.panels):
            handles.append(
                Patch(facecolor="#b0b0b0", edgecolor="white", hatch=HATCH, label="not comparable with the baseline")
            )
        return [*handles, *self.handles]


def by_name(variants: Sequence[Variant]) -> list[Variant]:
    """The variants with those of one model together, otherwise in their order."""
    places = {name: place for place, name in enumerate(dict.fromkeys(variant.name for variant in variants))}
    return sorted(variants, key=lambda variant: places[variant.name])


def beside(axes: Axes, x: float, y: float, text: str, *, muted: bool = False, halo: bool = False) -> None:
    """A text to the right of a point; with a halo if a line may run under it. `scale` must have been called."""
    axes.text(
        x + _PAD * _data_per_inch(axes), y, text, va="center", ha="left", fontsize=style.SMALL_SIZE,
        color=style.MUTED if muted else style.TEXT, zorder=4, bbox=style.HALO if halo else None,
    )  # fmt: skip


def at_right(axes: Axes, y: float, text: str, *, muted: bool = False) -> None:
    """A text in the column of numbers at the right edge of a panel."""
    axes.text(
        axes.get_xlim()[1], y, text, va="center", ha="right", fontsize=style.SMALL_SIZE,
        color=style.MUTED if muted else style.TEXT, zorder=4,
    )  # fmt: skip


def widest(texts: Sequence[str]) -> float:
    """Width in inches of the longest of some texts beside bars."""
    return size_of(max(texts, key=len, default=""), style.SMALL_SIZE)[0] if any(texts) else 0.0


def scale(axes: Axes, low: float, high: float, room_left: float, room_right: float, width: float) -> None:
    """Set the x axis to a range of data with space for texts on both sides, and ticks within the range only.

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


def _data_per_inch(axes: Axes) -> float:
    low, high = axes.get_xlim()
    assert axes.figure is not None
    return (high - low) / (axes.get_position().width * axes.figure.bbox.width / style.DPI)


def _place(variants: Sequence[Variant], gap: float) -> Rows:
    places: list[float] = []
    groups: dict[str, float] = {}
    edges: list[float] = []
    top = 0.0
    for name in dict.fromkeys(variant.name for variant in variants):
        count = sum(variant.name == name for variant in variants)
        # A name of several lines beside a single row needs more space than the row.
        height = max(count, 0.75 * len(wrapped_name(name).splitlines())) if gap else count
        first = top + (height - count) / 2 + 0.5
        places += [first + index for index in range(count)]
        groups[name] = top + height / 2
        top += height + gap
        edges.append(top - gap / 2)
    colours = style.colours(variant.precision for variant in variants)
    return Rows(variants, places, groups, edges[:-1], top - gap, colours)


def _label_rows(axes: Axes, rows: Rows, names: Mapping[str, str], indent: float) -> None:
    precisions = [variant.precision for variant in rows.variants]
    axes.set_yticks(rows.places, precisions, fontsize=style.SMALL_SIZE, color=style.MUTED)
    axes.tick_params(axis="y", left=False)
    for name, y in rows.groups.items():
        axes.annotate(
            names[name], (0, y), xycoords=("axes fraction", "data"), xytext=(-72 * indent, 0),
            textcoords="offset points", ha="right", va="center", fontsize=style.LABEL_SIZE, color=style.TEXT,
            linespacing=1.05,
        )  # fmt: skip
