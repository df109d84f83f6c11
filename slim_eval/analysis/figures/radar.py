"""Several metrics of one model at once: one small figure a model, one polygon a precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.frame import MARGIN, open_page
from slim_eval.analysis.figures.lettering import broken

_RINGS = (0.25, 0.5, 0.75, 1.0)
_WIDTH, _HEIGHT, _HEAD = 2.6, 2.1, 0.4  # inches: of one small figure, and above it for its name
_REACH = 1.25  # half of the axes' height, in radii: the names of the spokes stand beyond the outer ring


@dataclass(frozen=True)
class Polygon:
    """One configuration.

    Attributes:
        precision: Its precision.
        shares: One a spoke: 1 for the best value, less for worse ones; None is a gap.
    """

    precision: str
    shares: Sequence[float | None]


@dataclass(frozen=True)
class Radar:
    """One model with its configurations."""

    name: str
    polygons: Sequence[Polygon]


def radar_chart(title: str, spokes: Sequence[str], radars: Sequence[Radar], notes: Sequence[str]) -> Figure:
    """Draw small multiples.

    Args:
        title: What is shown and what is better.
        spokes: What each axis is called, in short.
        radars: One a model.
        notes: Lines below.

    Returns:
        A figure with one axes a model; a polygon's corners have the ``gid`` ``{name}|{precision}``, its sides
        ``{name}|{precision}|side``. A side is drawn only between two neighbours that are both there.
    """
    columns = math.ceil(len(radars) / math.ceil(len(radars) / (4 if len(radars) <= 12 else 5)))
    names = [broken(radar.name, style.PANEL_SIZE, _WIDTH - 0.1, bold=True) for radar in radars]
    head = _HEAD + 0.15 * (max(map(len, names)) - 1)
    rows = math.ceil(len(radars) / columns)
    precisions = [polygon.precision for radar in radars for polygon in radar.polygons]
    colours, markers = style.colours(precisions), style.markers(precisions)
    handles = [
        Line2D([], [], color=colours[name], marker=markers[name], markersize=5, linewidth=1.4, label=name)
        for name in colours
    ]
    page = open_page(title, handles, notes, 2 * MARGIN + columns * _WIDTH, rows * (head + _HEIGHT))
    for index, radar in enumerate(radars):
        row, column = divmod(index, columns)
        axes = page.axes(MARGIN + column * _WIDTH, row * (head + _HEIGHT) + head, _WIDTH, _HEIGHT)
        _draw_web(axes, spokes)
        for polygon in radar.polygons:
            _draw_polygon(axes, radar.name, polygon, colours, markers)
        axes.text(
            0.5, 1.04, "\n".join(names[index]), transform=axes.transAxes, ha="center", va="bottom",
            fontsize=style.PANEL_SIZE, fontweight="bold", color=style.TEXT, linespacing=1.05,
        )  # fmt: skip
    return page.figure


def corner(index: int, count: int, share: float) -> tuple[float, float]:
    """Place of a value on a spoke; the first spoke points up, the others follow clockwise."""
    angle = math.pi / 2 - 2 * math.pi * index / count
    return share * math.cos(angle), share * math.sin(angle)


def _draw_web(axes: Axes, spokes: Sequence[str]) -> None:
    axes.set_axis_off()
    across = _REACH * _WIDTH / _HEIGHT
    axes.set_xlim(-across, across)
    axes.set_ylim(-_REACH, _REACH)
    count = len(spokes)
    for ring in _RINGS:
        xs, ys = zip(*(corner(index % count, count, ring) for index in range(count + 1)), strict=True)
        axes.plot(xs, ys, color=style.GRID if ring < 1 else "#bdbdbd", linewidth=0.7, zorder=1, gid=f"ring|{ring}")
    for index, name in enumerate(spokes):
        x, y = corner(index, count, 1.0)
        axes.plot([0, x], [0, y], color=style.GRID, linewidth=0.7, zorder=1)
        axes.text(
            1.1 * x, 1.1 * y, name, fontsize=style.SMALL_SIZE, color=style.TEXT, linespacing=1.0,
            ha="center" if abs(x) < 0.1 else "left" if x > 0 else "right",
            va="center" if abs(y) < 0.4 else "bottom" if y > 0 else "top",
        )  # fmt: skip


def _draw_polygon(
    axes: Axes, name: str, polygon: Polygon, colours: Mapping[str, str], markers: Mapping[str, str]
) -> None:
    count = len(polygon.shares)
    colour, gid = colours[polygon.precision], f"{name}|{polygon.precision}"
    places = [None if share is None else corner(index, count, share) for index, share in enumerate(polygon.shares)]
    if all(place is not None for place in places):
        axes.fill(*zip(*(place for place in places if place), strict=True), color=colour, alpha=0.08, zorder=2)
    for index, start in enumerate(places):
        end = places[(index + 1) % count]
        if start is not None and end is not None:
            axes.plot([start[0], end[0]], [start[1], end[1]], color=colour, linewidth=1.4, zorder=3, gid=f"{gid}|side")
    known = [place for place in places if place is not None]
    axes.plot(
        [x for x, _ in known], [y for _, y in known], linestyle="none", color=colour, markersize=4.5, zorder=4, gid=gid,
        marker=markers[polygon.precision],
    )  # fmt: skip
