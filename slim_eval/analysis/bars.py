"""Grouped horizontal bars: one group a model, one bar a configuration, one panel a metric.

Horizontal, so that long model names and the values beside the bars stay readable from 3 to 60 configurations; the
figure grows downwards. A configuration without a value keeps its place, which says "not measured".
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from slim_eval.analysis import style
from slim_eval.comparison.rules import Doubt
from slim_eval.utils import number

NOT_MEASURED = "not measured"
_FEW_BARS = 24
_MARKS = {Doubt.LENGTH: "†", Doubt.SPEED_SETUP: "‡", Doubt.ENERGY_SETUP: "‡", Doubt.INVALID_ENERGY: "§",
          Doubt.EMULATED: "¶"}  # fmt: skip
_DOUBT_NOTES = {
    Doubt.LENGTH: "† different output length than fp16: not comparable",
    Doubt.SPEED_SETUP: "‡ other engine, hardware, batch size or prompt than fp16: not comparable",
    Doubt.ENERGY_SETUP: "‡ other engine, hardware, batch size or energy source than fp16: not comparable",
    Doubt.INVALID_ENERGY: "§ marked invalid when it was measured",
    Doubt.EMULATED: "¶ quantized kernels emulated in 16 bit: says nothing about a deployment",
}


@dataclass(frozen=True)
class Bar:
    """One configuration in one panel.

    Attributes:
        value: In the panel's unit; None where it was not measured.
        error: Half of its 95 % interval, in the same unit; None where not known.
        doubts: Why it must not be compared with its 16-bit bar.
    """

    value: float | None
    error: float | None = None
    doubts: frozenset[Doubt] = frozenset()


@dataclass(frozen=True)
class BarPanel:
    """One metric of all configurations; its bars are in the order of the chart's groups.

    Attributes:
        title: What is shown.
        hint: What is better, or what the number cannot say.
        axis: Label of the axis, with the unit.
        limit: Upper end of the scale, for shares; None takes it from the data.
    """

    title: str
    hint: str
    axis: str
    bars: Sequence[Bar]
    limit: float | None = None


@dataclass(frozen=True)
class BarChart:
    """A figure: groups of (name, precisions) and the panels over them."""

    title: str
    groups: Sequence[tuple[str, Sequence[str]]]
    panels: Sequence[BarPanel]
    notes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class _Rows:
    """Where the bars stand, in bar heights from the top; the same in all panels."""

    bars: list[float]
    groups: list[float]
    edges: list[float]
    height: float


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches."""

    columns: int
    rows: int
    left: float
    panel_width: float
    panel_height: float
    notes: list[str]

    gap, right, head, panel_head, panel_foot, line = 0.3, 0.2, 0.56, 0.48, 0.5, 0.155

    @property
    def width(self) -> float:
        return self.left + self.columns * self.panel_width + (self.columns - 1) * self.gap + self.right

    @property
    def foot(self) -> float:
        return 0.12 + self.line * len(self.notes)

    @property
    def height(self) -> float:
        return self.head + self.rows * (self.panel_head + self.panel_height + self.panel_foot) + self.foot

    def box(self, index: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel as shares of the figure."""
        row, column = divmod(index, self.columns)
        x = self.left + column * (self.panel_width + self.gap)
        top = self.head + row * (self.panel_head + self.panel_height + self.panel_foot) + self.panel_head
        y = self.height - top - self.panel_height
        return x / self.width, y / self.height, self.panel_width / self.width, self.panel_height / self.height


def grouped_bars(chart: BarChart) -> Figure:
    """Draw a chart.

    Returns:
        A figure with one axes a panel, in order; each bar's ``gid`` is ``{name}|{precision}``.
    """
    rows = _place(chart.groups)
    layout = _lay_out(chart, rows)
    figure = Figure(figsize=(layout.width, layout.height), dpi=style.DPI, facecolor="white")
    FigureCanvasAgg(figure)
    colours = style.colours(precision for _, precisions in chart.groups for precision in precisions)
    for index, panel in enumerate(chart.panels):
        axes = figure.add_axes(layout.box(index))
        _draw_panel(axes, panel, chart.groups, rows, colours)
        if index % layout.columns == 0:
            _label_rows(axes, chart.groups, rows)
    _draw_frame(figure, chart, layout, colours)
    return figure


def _place(groups: Sequence[tuple[str, Sequence[str]]]) -> _Rows:
    bars, middles, edges, top = [], [], [], 0.0
    for name, precisions in groups:
        # A name of several lines beside a single bar needs more room than the bar.
        height = max(len(precisions), 0.75 * len(style.wrapped_name(name).splitlines()))
        first = top + (height - len(precisions)) / 2 + 0.5
        bars += [first + index for index in range(len(precisions))]
        middles.append(top + height / 2)
        top += height + 0.5
        edges.append(top - 0.25)
    return _Rows(bars, middles, edges[:-1], top - 0.5)


def _lay_out(chart: BarChart, rows: _Rows) -> _Layout:
    few = len(rows.bars) <= _FEW_BARS
    lines = math.ceil(len(chart.panels) / (4 if few else 6))  # a tall figure does not grow still taller
    columns = math.ceil(len(chart.panels) / lines)
    bar = 0.25 if few else 0.19
    longest = max(len(line) for name, _ in chart.groups for line in style.wrapped_name(name).splitlines())
    precision = max(len(precision) for _, precisions in chart.groups for precision in precisions)
    left = 0.35 + 0.082 * longest + 0.068 * precision
    width = {1: 4.6, 2: 3.3}.get(columns, 2.65)
    height = bar * (rows.height + 0.3)
    total = left + columns * width + 0.3 * (columns - 1)
    notes = [line for note in _notes(chart) for line in textwrap.wrap(note, int(total / 0.068))]
    return _Layout(columns, lines, left, width, height, notes)


def _notes(chart: BarChart) -> list[str]:
    found = {doubt for panel in chart.panels for bar in panel.bars if bar.value is not None for doubt in bar.doubts}
    return [*(note for doubt, note in _DOUBT_NOTES.items() if doubt in found), *chart.notes]


def _draw_panel(
    axes: Axes, panel: BarPanel, groups: Sequence[tuple[str, Sequence[str]]], rows: _Rows, colours: Mapping[str, str]
) -> None:
    ends = [bar.value + (bar.error or 0) for bar in panel.bars if bar.value is not None]
    # Room for the value beside the longest bar; a scale of shares ends at its limit, with the room beyond it.
    longest = max(panel.limit or 0.0, *ends) or 1.0
    axes.set_xlim(0, longest * 1.2)
    axes.set_ylim(rows.height + 0.15, -0.15)
    keys = [(name, precision) for name, precisions in groups for precision in precisions]
    for (name, precision), y, bar in zip(keys, rows.bars, panel.bars, strict=True):
        if bar.value is None:
            _beside(axes, 0, y, NOT_MEASURED, muted=True)
            continue
        _draw_bar(axes, y, bar, colours[precision]).set_gid(f"{name}|{precision}")
    _dress(axes, panel, rows, longest)


def _draw_bar(axes: Axes, y: float, bar: Bar, colour: str) -> Patch:
    value = bar.value or 0.0
    (patch,) = axes.barh(
        [y], [value], height=0.82, color=colour, edgecolor="white", linewidth=0.4,
        hatch="////" if bar.doubts else None, zorder=2,
    )  # fmt: skip
    if bar.error:
        axes.errorbar(
            [value], [y], xerr=[[min(bar.error, value)], [bar.error]], color=style.TEXT, elinewidth=0.8, capsize=2,
            zorder=3,
        )  # fmt: skip
    marks = "".join(dict.fromkeys(_MARKS[doubt] for doubt in Doubt if doubt in bar.doubts))
    _beside(axes, value + (bar.error or 0), y, f"{number(value)} {marks}".rstrip())
    return patch  # type: ignore[no-any-return]


def _beside(axes: Axes, x: float, y: float, text: str, *, muted: bool = False) -> None:
    axes.annotate(
        text, (x, y), xytext=(3, 0), textcoords="offset points", va="center", ha="left", fontsize=style.SMALL_SIZE,
        color=style.MUTED if muted else style.TEXT, style="italic" if muted else "normal", zorder=4,
    )  # fmt: skip


def _dress(axes: Axes, panel: BarPanel, rows: _Rows, longest: float) -> None:
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(style.MUTED)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=5)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= longest * 1.001])
    axes.tick_params(axis="x", length=0, labelsize=style.SMALL_SIZE, colors=style.MUTED)
    axes.grid(axis="x", color=style.GRID, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    for edge in rows.edges:
        axes.axhline(edge, color=style.GRID, linewidth=0.7, zorder=1)
    axes.set_xlabel(panel.axis, fontsize=style.LABEL_SIZE, color=style.TEXT)
    for text, points, size, colour, weight in (
        (panel.title, 15, style.PANEL_SIZE, style.TEXT, "bold"),
        (panel.hint, 4, style.SMALL_SIZE, style.MUTED, "normal"),
    ):
        axes.annotate(
            text, (0, 1), xytext=(0, points), xycoords="axes fraction", textcoords="offset points", fontsize=size,
            color=colour, fontweight=weight,
        )  # fmt: skip


def _label_rows(axes: Axes, groups: Sequence[tuple[str, Sequence[str]]], rows: _Rows) -> None:
    precisions = [precision for _, found in groups for precision in found]
    axes.set_yticks(rows.bars, precisions, fontsize=style.SMALL_SIZE, color=style.MUTED)
    axes.tick_params(axis="y", length=0)
    indent = -(8 + 5.1 * max(map(len, precisions)))  # points: the precisions stand between a name and its bars
    for (name, _), y in zip(groups, rows.groups, strict=True):
        axes.annotate(
            style.wrapped_name(name), (0, y), xycoords=("axes fraction", "data"), xytext=(indent, 0),
            textcoords="offset points", ha="right", va="center", fontsize=style.LABEL_SIZE, color=style.TEXT,
            linespacing=1.05,
        )  # fmt: skip


def _draw_frame(figure: Figure, chart: BarChart, layout: _Layout, colours: Mapping[str, str]) -> None:
    """Title and legend above, notes below."""
    left = 0.12 / layout.width
    figure.text(
        left, 1 - 0.12 / layout.height, chart.title, va="top", fontsize=style.TITLE_SIZE, fontweight="bold",
        color=style.TEXT,
    )  # fmt: skip
    handles = [Patch(facecolor=colour, label=precision) for precision, colour in colours.items()]
    if any(bar.doubts and bar.value is not None for panel in chart.panels for bar in panel.bars):
        handles.append(Patch(facecolor="#b0b0b0", edgecolor="white", hatch="////", label="not comparable with fp16"))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(left, 1 - 0.36 / layout.height), ncols=len(handles),
        frameon=False, fontsize=style.LABEL_SIZE, borderpad=0, borderaxespad=0, handlelength=1.3, columnspacing=1.4,
    )  # fmt: skip
    for index, line in enumerate(reversed(layout.notes)):
        y = (0.1 + index * layout.line) / layout.height
        figure.text(left, y, line, fontsize=style.SMALL_SIZE, color=style.MUTED, va="bottom")
