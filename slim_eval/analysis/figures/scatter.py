"""Points of two metrics, with intervals, frontiers and labels that cover nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slim_eval.analysis.figures import labels, style
from slim_eval.analysis.figures.frame import Page, open_page
from slim_eval.analysis.figures.lettering import broken, size_of

FEW_POINTS = 24
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_LOG_FROM = 25.0  # greatest over least value, from which an axis is logarithmic
_GAP_POINTS = 6.0
_LEFT, _BETWEEN, _BOTTOM = 0.62, 0.7, 0.55  # inches


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: With the unit.
        lower: Less is better.
    """

    label: str
    lower: bool


@dataclass(frozen=True)
class Point:
    """One configuration.

    Attributes:
        name: Its model.
        precision: Its precision.
        x: In the unit of the axis.
        y: In the unit of the axis.
        x_interval: 95 %; None where not known.
        y_interval: 95 %; None where not known.
        group: Index of the setting it was measured in, among those of its panel.
        hollow: It must not be compared with the others.
        frontier: No other point of its group beats it.
    """

    name: str
    precision: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    group: int = 0
    hollow: bool = False
    frontier: bool = False

    @property
    def gid(self) -> str:
        """What its artists are called."""
        return f"{self.name}|{self.precision}"


@dataclass(frozen=True)
class ScatterPanel:
    """Axes with points.

    Attributes:
        title: What is shown; may be empty where the figure's title says it.
        x: The horizontal axis.
        y: The vertical one.
        points: In the order of the configurations.
        steps: Draw the frontier of each group.
        groups: What the groups of settings are called, where there are several.
    """

    title: str
    x: Axis
    y: Axis
    points: Sequence[Point]
    steps: bool = False
    groups: Sequence[str] = ()


def scatter_chart(title: str, panels: Sequence[ScatterPanel], notes: Sequence[str]) -> Figure:
    """Draw panels of points, up to three beside each other where there are few.

    Returns:
        A figure with one axes a panel; the marker of a point and its whiskers have the ``gid`` ``{name}|{precision}``
        (and ``|x``, ``|y``), a frontier ``frontier|{group}``, a label ``label|{name}|{precision}``.
    """
    many = max(len(panel.points) for panel in panels) > FEW_POINTS
    columns = 1 if many else min(3, len(panels))  # many points need room, below each other
    width, height = (6.6, 5.4 if many else 4.2) if columns == 1 else (3.6, 3.3)
    titles = [broken(panel.title, style.PANEL_SIZE, width, bold=True) if panel.title else [] for panel in panels]
    head = 0.26 + 0.16 * max(map(len, titles))
    step = head + height + _BOTTOM
    lines = math.ceil(len(panels) / columns)
    precisions = [point.precision for panel in panels for point in panel.points]
    page = open_page(
        title, _handles(panels, precisions), _notes(panels, notes),
        _LEFT + columns * width + (columns - 1) * _BETWEEN + 0.15, lines * step,
    )  # fmt: skip
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        axes = page.axes(_LEFT + column * (width + _BETWEEN), row * step + head, width, height)
        _draw(axes, panel, style.colours(precisions), style.markers(precisions))
        _dress(axes, panel, titles[index])
        _label(axes, panel, page)
    return page.figure


def _handles(panels: Sequence[ScatterPanel], precisions: Sequence[str]) -> list[Artist]:
    colours, markers = style.colours(precisions), style.markers(precisions)
    handles: list[Artist] = [
        Line2D([], [], linestyle="none", marker=markers[name], color=colours[name], markersize=6.5, label=name)
        for name in colours
    ]
    if any(point.hollow for panel in panels for point in panel.points):
        handles.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markersize=6.5,
                              markeredgecolor=style.MUTED, label="not comparable (see below)"))  # fmt: skip
    for group, name in _drawn_groups(panels):
        handles.append(Line2D([], [], color=style.MUTED, linewidth=1.3, linestyle=_dash(group),
                              label=f"Pareto frontier: {name}" if name else "Pareto frontier"))  # fmt: skip
    return handles


def _drawn_groups(panels: Sequence[ScatterPanel]) -> list[tuple[int, str]]:
    found = {
        point.group: panel.groups[point.group] if len(panel.groups) > 1 else ""
        for panel in panels if panel.steps for point in panel.points if point.frontier
    }  # fmt: skip
    return sorted(found.items())


def _notes(panels: Sequence[ScatterPanel], notes: Sequence[str]) -> list[str]:
    many = any(len(panel.points) > FEW_POINTS for panel in panels)
    chosen = ["Named: only the points that no other one beats."] if many else []
    return [*notes, *chosen]


def _dash(group: int) -> Any:
    return _DASHES[group % len(_DASHES)]


def _draw(axes: Axes, panel: ScatterPanel, colours: Mapping[str, str], markers: Mapping[str, str]) -> None:
    if len(panel.points) <= FEW_POINTS and not panel.steps:
        _draw_paths(axes, panel)
    for point in panel.points:
        colour = style.tint(colours[point.precision], 0.35)
        for ends, along in ((point.x_interval, "x"), (point.y_interval, "y")):
            if ends is not None:
                across = along == "x"
                start, end = ((ends[i], point.y) if across else (point.x, ends[i]) for i in (0, 1))
                axes.plot(
                    [start[0], end[0]],
                    [start[1], end[1]],
                    color=colour,
                    linewidth=1.0,
                    zorder=2,
                    gid=f"{point.gid}|{along}",
                )
    for point in panel.points:
        colour = colours[point.precision]
        axes.plot(
            [point.x], [point.y], marker=markers[point.precision], markersize=6.5, linestyle="none", gid=point.gid,
            markerfacecolor="white" if point.hollow else colour, markeredgewidth=1.3 if point.hollow else 0.6,
            markeredgecolor=colour if point.hollow else "white", zorder=4,
        )  # fmt: skip
    for index, along, lower in ((0, "x", panel.x.lower), (1, "y", panel.y.lower)):
        _scale(axes, along, [(p.x, p.y)[index] for p in panel.points], lower)
    if panel.steps:
        for group in {point.group for point in panel.points if point.frontier}:
            xs, ys = frontier_line(panel, group, axes.get_xlim(), axes.get_ylim())
            axes.plot(xs, ys, color=style.MUTED, linewidth=1.3, linestyle=_dash(group), zorder=1,
                      gid=f"frontier|{group}", scalex=False, scaley=False)  # fmt: skip


def _draw_paths(axes: Axes, panel: ScatterPanel) -> None:
    """A thin line through the precisions of each model: which way quantization moves it."""
    for name in dict.fromkeys(point.name for point in panel.points):
        mine = [point for point in panel.points if point.name == name]
        axes.plot(
            [p.x for p in mine], [p.y for p in mine], color="#c4c4c4", linewidth=0.9, zorder=1, gid=f"path|{name}"
        )


def _scale(axes: Axes, along: str, values: Sequence[float], lower: bool) -> None:
    """Logarithmic where values differ much; room for labels on both ends."""
    axis = axes.xaxis if along == "x" else axes.yaxis
    least, greatest = min(values), max(values)
    if least > 0 and greatest / least > _LOG_FROM:
        (axes.set_xscale if along == "x" else axes.set_yscale)("log")
        axis.set_major_formatter("{x:g}")
    axes.margins(x=0.14 if along == "x" else None, y=0.14 if along == "y" else None)
    axes.autoscale_view()
    # Labels are placed for these limits: what is drawn later must not move them.
    axes.autoscale(enable=False, axis=along)  # type: ignore[arg-type]


def frontier_line(
    panel: ScatterPanel, group: int, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """The edge of what a group's frontier dominates, as a line of steps from one side of the axes to another.

    Args:
        panel: With the points.
        group: Whose frontier.
        x_limits: Of the axes.
        y_limits: Of the axes.

    Returns:
        Places of its corners. Between two points on the frontier it bends where both are beaten: at the worse of their
        values.
    """
    found = sorted((point.x, point.y) for point in panel.points if point.group == group and point.frontier)
    ordered = found if panel.x.lower else found[::-1]  # from the best value of x on
    worst_x, worst_y = x_limits[1 if panel.x.lower else 0], y_limits[1 if panel.y.lower else 0]
    xs, ys = [ordered[0][0]], [worst_y]
    for x, y in ordered:
        xs += [x, x]
        ys += [ys[-1], y]
    return [*xs, worst_x], [*ys, ys[-1]]


def _dress(axes: Axes, panel: ScatterPanel, title: Sequence[str]) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(style.MUTED)
    axes.grid(color=style.GRID, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=style.SMALL_SIZE, colors=style.MUTED)
    for along in ("x", "y"):
        if (axes.get_xscale() if along == "x" else axes.get_yscale()) == "linear":
            axes.locator_params(axis=along, nbins=6)
    axes.set_xlabel(panel.x.label, fontsize=style.LABEL_SIZE, color=style.TEXT)
    axes.set_ylabel(panel.y.label, fontsize=style.LABEL_SIZE, color=style.TEXT)
    hint = f"better: {'left' if panel.x.lower else 'right'} and {'down' if panel.y.lower else 'up'}"
    for text, points, size, colour, weight in (
        ("\n".join(title), 15, style.PANEL_SIZE, style.TEXT, "bold"),
        (hint, 4, style.SMALL_SIZE, style.MUTED, "normal"),
    ):
        axes.annotate(
            text, (0, 1), xytext=(0, points), xycoords="axes fraction", textcoords="offset points", fontsize=size,
            color=colour, fontweight=weight, linespacing=1.05,
        )  # fmt: skip


def _label(axes: Axes, panel: ScatterPanel, page: Page) -> None:
    """Names beside points: all of the frontier, and where there are few, of the others those that have room."""
    scale = page.figure.dpi / 72
    gap = _GAP_POINTS * scale
    chosen = _chosen(panel)
    wishes = []
    for point, text in chosen:
        x, y = axes.transData.transform((point.x, point.y))
        width, height = (size * page.figure.dpi + gap / 2 for size in size_of(text, style.SMALL_SIZE))
        wishes.append(labels.Wish(float(x), float(y), width, height, labels.FAR if point.frontier else labels.NEAR))
    box = axes.bbox
    room = labels.Box(box.x0 + 2, box.y0 + 2, box.x1 - 2, box.y1 - 2)
    for (point, text), wish, found in zip(
        chosen, wishes, labels.place(wishes, _obstacles(axes, panel, gap), room, gap), strict=True
    ):
        if found is not None:
            _write(axes, point, text, wish, found, gap)


def _chosen(panel: ScatterPanel) -> list[tuple[Point, str]]:
    """Points to name and what they are called, those on the frontier first."""
    several = len({point.name for point in panel.points}) > 1
    few = len(panel.points) <= FEW_POINTS
    named = [*(p for p in panel.points if p.frontier), *(p for p in panel.points if few and not p.frontier)]
    texts = [style.wrapped_name(f"{point.name} {point.precision}") if several else point.precision for point in named]
    return list(zip(named, texts, strict=True))


def _obstacles(axes: Axes, panel: ScatterPanel, gap: float) -> list[labels.Box]:
    """The markers, and the frontiers as rows of small boxes."""
    radius = gap * 0.8
    boxes = []
    for x, y in axes.transData.transform([(point.x, point.y) for point in panel.points]):
        boxes.append(labels.Box(x - radius, y - radius, x + radius, y + radius))
    for line in axes.lines:
        if not str(line.get_gid()).startswith("frontier|"):
            continue
        corners = axes.transData.transform(line.get_xydata())
        for (x0, y0), (x1, y1) in pairwise(corners):
            boxes.append(labels.Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)).around(1))
    return boxes


def _write(axes: Axes, point: Point, text: str, wish: labels.Wish, box: labels.Box, gap: float) -> None:
    x, y = axes.transData.inverted().transform(((box.left + box.right) / 2, (box.low + box.high) / 2))
    axes.text(
        x, y, text, ha="center", va="center", fontsize=style.SMALL_SIZE, zorder=5, gid=f"label|{point.gid}",
        color=style.TEXT if point.frontier else style.MUTED, bbox=style.HALO,
    )  # fmt: skip
    if labels.leader(wish, box, gap):
        end = axes.transData.inverted().transform(labels.nearest_point(wish, box))
        axes.plot([point.x, end[0]], [point.y, end[1]], color=style.MUTED, linewidth=0.6, zorder=3,
                  gid=f"leader|{point.gid}")  # fmt: skip


def with_frontier(points: Sequence[Point], found: Sequence[bool]) -> list[Point]:
    """Points with their place on the frontier filled in."""
    return [replace(point, frontier=bool(on)) for point, on in zip(points, found, strict=True)]
