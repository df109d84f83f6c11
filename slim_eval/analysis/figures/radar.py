"""Several metrics of one model at once: one small radar chart per model, one polygon per scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.layout import MARGIN, broken, doubtful, heading, hint_of, open_page
from slim_eval.analysis.figures.rowchart import by_name
from slim_eval.analysis.figures.scatter import LATENCIES
from slim_eval.analysis.study import Study
from slim_eval.metrics import ACCURACY_MEAN, DISK, ENERGIES, THROUGHPUT, WEIGHTS, Metric
from slim_eval.results.variants import Variant

_SPOKES: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("accuracy", (ACCURACY_MEAN,)),
    ("latency", LATENCIES),
    ("throughput", (THROUGHPUT,)),
    ("energy", ENERGIES),
    ("size", (DISK, WEIGHTS)),
)
_RINGS = (0.25, 0.5, 0.75, 1.0)
_WIDTH, _HEIGHT, _HEAD = 2.6, 2.1, 0.4  # inches: of one small chart, and above it for its name
_REACH = 1.25  # half of the axes' height, in radii: the names of the spokes are beyond the outer ring


def _draw_radars(title: str, study: Study) -> MplFigure | None:
    """Small multiples, one per model; each spoke is relative to the best variant of that model.

    A polygon's corners have the ``gid`` ``{name}|{precision}``, its sides ``{name}|{precision}|side``. A side is drawn
    only between two neighbours that are both there.
    """
    found = [(name, m) for name, metrics in _SPOKES if (m := study.first_measured(metrics)) is not None]
    if len(found) < 3:
        return None
    spokes = [name for name, _ in found]
    models: dict[str, list[Variant]] = {}
    for variant in by_name(study.variants):
        models.setdefault(variant.name, []).append(variant)
    shares = {name: [_relative(metric, study, mine) for _, metric in found] for name, mine in models.items()}
    columns = math.ceil(len(models) / math.ceil(len(models) / (4 if len(models) <= 12 else 5)))
    names = {name: broken(name, style.PANEL_SIZE, _WIDTH - 0.1, bold=True) for name in models}
    head = _HEAD + 0.15 * (max(map(len, names.values())) - 1)
    precisions = {variant.precision for variant in study.variants}
    colours, markers = style.colours(precisions), style.markers(precisions)
    handles = [
        Line2D([], [], color=colours[name], marker=markers[name], markersize=5, linewidth=1.4, label=name)
        for name in colours
    ]
    notes = [
        "Outer ring: the best variant of the model on that axis; half way in: half as good. "
        + "; ".join(f"{name}: {heading(metric)}, {hint_of(metric)}" for name, metric in found) + "."
    ]  # fmt: skip
    if any(share is None for spokes_of in shares.values() for column in spokes_of for share in column):
        notes.append("An axis without a marker: not measured, or not comparable with the model's baseline.")
    height = math.ceil(len(models) / columns) * (head + _HEIGHT)
    page = open_page(title, handles, notes, 2 * MARGIN + columns * _WIDTH, height)
    for index, (name, mine) in enumerate(models.items()):
        row, column = divmod(index, columns)
        axes = page.axes(MARGIN + column * _WIDTH, row * (head + _HEIGHT) + head, _WIDTH, _HEIGHT)
        _draw_web(axes, spokes)
        for place, variant in enumerate(mine):
            _draw_polygon(axes, variant, [found[place] for found in shares[name]], colours, markers)
        axes.text(
            0.5, 1.04, "\n".join(names[name]), transform=axes.transAxes, ha="center", va="bottom",
            fontsize=style.PANEL_SIZE, fontweight="bold", color=style.TEXT, linespacing=1.05,
        )  # fmt: skip
    return page.figure


def _relative(metric: Metric, study: Study, variants: Sequence[Variant]) -> list[float | None]:
    """Each value relative to the best one: 1 for the best, 0.5 for one that is half as good.

    A value that must not be compared is a gap, as a missing one is.
    """
    values = [None if doubtful(study.marks(v, metric)) else v.number(metric) for v in variants]
    known = [value for value in values if value]
    if not known:
        return [None] * len(values)
    best = max(known) if metric.maximise else min(known)
    return [None if not value else value / best if metric.maximise else best / value for value in values]


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
    axes: Axes,
    variant: Variant,
    shares: Sequence[float | None],
    colours: Mapping[str, str],
    markers: Mapping[str, str],
) -> None:
    count, colour, gid = len(shares), colours[variant.precision], f"{variant.name}|{variant.precision}"
    places = [None if share is None else corner(index, count, share) for index, share in enumerate(shares)]
    known = [place for place in places if place is not None]
    xs, ys = [x for x, _ in known], [y for _, y in known]
    if len(known) == count:
        axes.fill(xs, ys, color=colour, alpha=0.08, zorder=2)
    for index, start in enumerate(places):
        end = places[(index + 1) % count]
        if start is not None and end is not None:
            axes.plot([start[0], end[0]], [start[1], end[1]], color=colour, linewidth=1.4, zorder=3, gid=f"{gid}|side")
    axes.plot(xs, ys, linestyle="none", color=colour, markersize=4.5, zorder=4, gid=gid,
              marker=markers[variant.precision])  # fmt: skip


add_figure("efficiency_radar", "Efficiency of each precision: further out is better", _draw_radars)
