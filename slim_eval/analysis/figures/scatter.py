"""Figures of two metrics at once: points with intervals, names, and the Pareto frontier of each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D

from slim_eval.analysis.caveats import EMULATED, INVALID
from slim_eval.analysis.comparability import LENGTH_TOLERANCE, comparable_groups
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.bars import lm_eval_metric
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.labels import FAR, NEAR, Box, Label, place
from slim_eval.analysis.figures.layout import broken, caption, heading, open_page, size_of
from slim_eval.analysis.figures.rowchart import by_name
from slim_eval.analysis.pareto.dominance import non_dominated
from slim_eval.analysis.study import Study
from slim_eval.metrics import (
    ACCURACY_MEAN,
    AMORTISED,
    DISK,
    ENERGIES,
    SIZES,
    THROUGHPUT,
    TPOT,
    Metric,
)
from slim_eval.results.variants import Estimate, Variant
from slim_eval.utils import wrapped_name

#: Of two ways to say how fast a variant answers, the first that is widely measured is shown.
LATENCIES = (TPOT, AMORTISED)
FEW_POINTS = 24
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_LOG_FROM = 25.0  # greatest over least value, from which an axis is logarithmic
_GAP_POINTS = 6.0  # between a point and its label
_LEFT, _BETWEEN, _BOTTOM = 0.62, 0.7, 0.55  # inches
_LENGTH_REASON = "it generated a different number of tokens from most"


@dataclass(frozen=True)
class Point:
    """A variant with its two numbers in the units shown.

    Attributes:
        variant: The variant.
        x: The horizontal number.
        y: The vertical one.
        reasons: Why it must not be compared with the others; it is then hollow and on no frontier.
        setting: Label of the setting in which it was measured.
        frontier: No other point of its setting dominates it.
    """

    variant: Variant
    x: Estimate
    y: Estimate
    reasons: tuple[str, ...] = ()
    setting: str = ""
    frontier: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes with points; `steps` draws the frontiers."""

    title: str
    x: Metric
    y: Metric
    labels: tuple[str, str]
    points: Sequence[Point]
    steps: bool = False

    @property
    def settings(self) -> list[str]:
        """The settings that have a frontier."""
        return list(dict.fromkeys(point.setting for point in self.points if point.frontier))


def panel_of(x: Metric, y: Metric, study: Study, title: str = "", *, steps: bool = False) -> Panel:
    """The points of the variants that have both metrics."""
    shown = [v for v in by_name(study.variants) if v.number(x) is not None and v.number(y) is not None]
    length = usual_length(shown)
    reasons = [_reasons(study, variant, (x, y), length) for variant in shown]
    compared = [index for index, why in enumerate(reasons) if not why]
    labels = dict(zip(compared, comparable_groups([shown[i] for i in compared], (x, y)).labels, strict=True))
    frontier: set[int] = set()
    for label in dict.fromkeys(labels.values()):
        members = [index for index in compared if labels[index] == label]
        values = [[v for v in (shown[i].number(x), shown[i].number(y)) if v is not None] for i in members]
        on = non_dominated(values, [x.maximise, y.maximise])
        frontier |= {index for index, best in zip(members, on, strict=True) if best}
    points = []
    for index, variant in enumerate(shown):
        across, up = variant.estimate(x), variant.estimate(y)
        assert across is not None
        assert up is not None
        points.append(
            Point(variant, across.scaled(x.scale), up.scaled(y.scale), reasons[index], labels.get(index, ""),
                  index in frontier)
        )  # fmt: skip
    return Panel(title, x, y, (_axis_label(x, study), _axis_label(y, study)), points, steps)


def usual_length(variants: Sequence[Variant]) -> float | None:
    """The output tokens per request that the most variants share, within 1 %; None if none are known."""
    lengths = [length for variant in variants if (length := variant.tokens_per_request)]
    return max(lengths, key=lambda length: sum(_same(length, other) for other in lengths), default=None)


def _same(length: float, other: float) -> bool:
    return abs(length - other) <= LENGTH_TOLERANCE * other


def _reasons(study: Study, variant: Variant, metrics: Sequence[Metric], length: float | None) -> tuple[str, ...]:
    """Why a variant is not compared with the others of its setting; another setting is a group of its own instead."""
    marks = {kind for metric in metrics for kind in study.marks(variant, metric)}
    own = variant.tokens_per_request
    other_work = any(metric.per_length for metric in metrics) and own and length and not _same(own, length)
    found = (
        "its quantized kernels are emulated in 16 bit" if EMULATED in marks else None,
        "its energy was marked invalid when it was measured" if INVALID in marks else None,
        _LENGTH_REASON if other_work else None,
    )
    return tuple(reason for reason in found if reason)


def _axis_label(metric: Metric, study: Study) -> str:
    label = heading(metric)
    if metric is ACCURACY_MEAN:
        counts = {len(variant.mean_tasks) for variant in study.variants if variant.number(metric) is not None}
        if len(counts) == 1:
            label += f" of {(count := counts.pop())} task{'s' if count > 1 else ''}"
    unit = metric.unit or metric.label
    return f"{label}, {unit} ({lm_eval_metric(metric, study)})" if metric.key in study.tasks else f"{label}, {unit}"


def _draw_points(
    x: Sequence[Metric], y: Sequence[Metric], title: str, study: Study, *, steps: bool = False
) -> MplFigure | None:
    """One panel; of several metrics for an axis, the first that is widely measured."""
    across, up = study.first_measured(x), study.first_measured(y)
    if across is None or up is None:
        return None
    panel = panel_of(across, up, study, steps=steps)
    return draw_panels(title, [panel], study) if panel.points else None


def _draw_by_task(x: Sequence[Metric], title: str, study: Study) -> MplFigure | None:
    """One panel per task: its accuracy over a metric."""
    across = study.first_measured(x)
    if across is None:
        return None
    panels = [panel_of(across, task, study, task.title) for task in study.task_metrics]
    shown = [panel for panel in panels if panel.points]
    return draw_panels(title, shown, study) if shown else None


def draw_panels(title: str, panels: Sequence[Panel], study: Study) -> MplFigure:
    """Draw panels of points, up to three beside each other if there are few points.

    Returns:
        A figure with one axes per panel. The ``gid`` of a point is ``{name}|{precision}``, that of its label
        ``label|{name}|{precision}``, that of a frontier ``frontier|{setting}``.
    """
    many = max(len(panel.points) for panel in panels) > FEW_POINTS
    columns = 1 if many else min(3, len(panels))  # many points need space, below each other
    width, height = (6.6, 5.4 if many else 4.2) if columns == 1 else (3.6, 3.3)
    titles = [broken(panel.title, style.PANEL_SIZE, width, bold=True) if panel.title else [] for panel in panels]
    head = 0.26 + 0.16 * max(map(len, titles))
    step = head + height + _BOTTOM
    precisions = {point.variant.precision for panel in panels for point in panel.points}
    names = _setting_names(panels)
    page = open_page(
        title, _handles(panels, names), _notes(panels, study),
        _LEFT + columns * width + (columns - 1) * _BETWEEN + 0.15, math.ceil(len(panels) / columns) * step,
    )  # fmt: skip
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        axes = page.axes(_LEFT + column * (width + _BETWEEN), row * step + head, width, height)
        _draw(axes, panel, style.colours(precisions), style.markers(precisions), list(names))
        _dress(axes, panel, titles[index])
        _label(axes, panel)
    return page.figure


def _setting_names(panels: Sequence[Panel]) -> dict[str, str]:
    """Settings that have a frontier -> what differs between them."""
    settings = dict.fromkeys(setting for panel in panels if panel.steps for setting in panel.settings)
    parts = {setting: setting.split(", ") for setting in settings}
    shared = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    return {setting: ", ".join(part for part in found if part not in shared) for setting, found in parts.items()}


def _handles(panels: Sequence[Panel], names: dict[str, str]) -> list[Artist]:
    precisions = {point.variant.precision for panel in panels for point in panel.points}
    colours, markers = style.colours(precisions), style.markers(precisions)
    handles: list[Artist] = [
        Line2D([], [], linestyle="none", marker=markers[name], color=colours[name], markersize=6.5, label=name)
        for name in colours
    ]
    if any(point.reasons for panel in panels for point in panel.points):
        handles.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markersize=6.5,
                              markeredgecolor=style.MUTED, label="not comparable (see below)"))  # fmt: skip
    for index, name in enumerate(names.values()):
        label = f"Pareto frontier: {name}" if len(names) > 1 else "Pareto frontier"
        handles.append(
            Line2D([], [], color=style.MUTED, linewidth=1.3, linestyle=_DASHES[index % len(_DASHES)], label=label)
        )
    return handles


def _notes(panels: Sequence[Panel], study: Study) -> list[str]:
    points = [point for panel in panels for point in panel.points]
    notes = []
    if any(point.x.interval or point.y.interval for point in points):
        notes.append("Bars through points: 95 % interval.")
    if ACCURACY_MEAN in (panels[0].x, panels[0].y):
        tasks = dict.fromkeys(", ".join(point.variant.mean_tasks) for point in points)
        notes.append(f"Mean accuracy: {' or '.join(tasks)}.")
    reasons = dict.fromkeys(reason for point in points for reason in point.reasons)
    if reasons:
        notes.append(f"Hollow: not comparable with the others, and on no frontier: {' or '.join(reasons)}.")
    left_out = list(dict.fromkeys(
        variant.label for panel in panels for variant in by_name(study.variants)
        if variant.directory not in {point.variant.directory for point in panel.points}
    ))  # fmt: skip
    if left_out:
        names = ", ".join(left_out[:6]) + (f" and {len(left_out) - 6} more" if len(left_out) > 6 else "")
        notes.append(f"Not measured in both metrics: {names}.")
    if any(len(panel.points) > FEW_POINTS for panel in panels):
        notes.append("Only non-dominated points are named.")
    return notes


def _draw(axes: Axes, panel: Panel, colours: Any, markers: Any, settings: Sequence[str]) -> None:
    axes.set_xlabel(panel.labels[0], fontsize=style.LABEL_SIZE, color=style.TEXT)
    axes.set_ylabel(panel.labels[1], fontsize=style.LABEL_SIZE, color=style.TEXT)
    if len(panel.points) <= FEW_POINTS and not panel.steps:
        # A thin line through the variants of each model: the direction in which quantization moves it.
        for name in dict.fromkeys(point.variant.name for point in panel.points):
            mine = [point for point in panel.points if point.variant.name == name]
            axes.plot([p.x.value for p in mine], [p.y.value for p in mine], color="#c4c4c4", linewidth=0.9, zorder=1,
                      gid=f"path|{name}")  # fmt: skip
    for point in panel.points:
        colour, gid = (
            style.tint(colours[point.variant.precision], 0.35),
            f"{point.variant.name}|{point.variant.precision}",
        )
        if point.x.interval is not None:
            axes.plot(point.x.interval, [point.y.value] * 2, color=colour, linewidth=1.0, zorder=2, gid=f"{gid}|x")
        if point.y.interval is not None:
            axes.plot([point.x.value] * 2, point.y.interval, color=colour, linewidth=1.0, zorder=2, gid=f"{gid}|y")
    for point in panel.points:
        colour, hollow = colours[point.variant.precision], bool(point.reasons)
        axes.plot(
            [point.x.value], [point.y.value], marker=markers[point.variant.precision], markersize=6.5, zorder=4,
            markerfacecolor="white" if hollow else colour, markeredgewidth=1.3 if hollow else 0.6, linestyle="none",
            markeredgecolor=colour if hollow else "white", gid=f"{point.variant.name}|{point.variant.precision}",
        )  # fmt: skip
    _scale(axes, "x", [point.x.value for point in panel.points])
    _scale(axes, "y", [point.y.value for point in panel.points])
    if panel.steps:
        for setting in panel.settings:
            xs, ys = frontier_line(panel, setting, axes.get_xlim(), axes.get_ylim())
            dash = _DASHES[settings.index(setting) % len(_DASHES)]
            axes.plot(xs, ys, color=style.MUTED, linewidth=1.3, linestyle=dash, zorder=1, gid=f"frontier|{setting}")


def _scale(axes: Axes, along: str, values: Sequence[float]) -> None:
    """Logarithmic if values differ much; space for labels on both ends."""
    least, greatest = min(values), max(values)
    if least > 0 and greatest / least > _LOG_FROM:
        axes.set(**{f"{along}scale": "log"})
        (axes.xaxis if along == "x" else axes.yaxis).set_major_formatter("{x:g}")
    axes.margins(x=0.14 if along == "x" else None, y=0.14 if along == "y" else None)
    axes.autoscale_view()
    # Labels are placed for these limits: what is drawn later must not move them.
    axes.autoscale(enable=False, axis=along)  # type: ignore[arg-type]


def frontier_line(
    panel: Panel, setting: str, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """The edge of what a setting's frontier dominates, as a line of steps from one side of the axes to another.

    Args:
        panel: With the points.
        setting: Whose frontier.
        x_limits: Of the axes.
        y_limits: Of the axes.

    Returns:
        Places of its corners. Between two points on the frontier it bends at the worse of their values.
    """
    found = sorted((p.x.value, p.y.value) for p in panel.points if p.setting == setting and p.frontier)
    ordered = found[::-1] if panel.x.maximise else found  # from the best value of x on
    worst_x, worst_y = x_limits[0 if panel.x.maximise else 1], y_limits[0 if panel.y.maximise else 1]
    xs, ys = [ordered[0][0]], [worst_y]
    for x, y in ordered:
        xs += [x, x]
        ys += [ys[-1], y]
    return [*xs, worst_x], [*ys, ys[-1]]


def _dress(axes: Axes, panel: Panel, title: Sequence[str]) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(style.MUTED)
    axes.grid(color=style.GRID, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", bottom=False, left=False, labelsize=style.SMALL_SIZE, colors=style.MUTED)
    for along, kind in (("x", axes.get_xscale()), ("y", axes.get_yscale())):
        if kind == "linear":
            axes.locator_params(axis=along, nbins=6)  # type: ignore[arg-type]
    better = f"better: {'right' if panel.x.maximise else 'left'} and {'up' if panel.y.maximise else 'down'}"
    caption(axes, title, better)


def _label(axes: Axes, panel: Panel) -> None:
    """Names beside points: all of the frontier, and if there are few points, those of the others that fit."""
    several = len({point.variant.name for point in panel.points}) > 1
    few = len(panel.points) <= FEW_POINTS
    named = [*(p for p in panel.points if p.frontier), *(p for p in panel.points if few and not p.frontier)]
    texts = [wrapped_name(p.variant.label if several else p.variant.precision) for p in named]
    gap = _GAP_POINTS * style.DPI / 72
    wanted = []
    for point, text in zip(named, texts, strict=True):
        x, y = axes.transData.transform((point.x.value, point.y.value))
        width, height = (size * style.DPI + gap / 2 for size in size_of(text, style.SMALL_SIZE))
        wanted.append(Label(float(x), float(y), width, height, FAR if point.frontier else NEAR))
    room = Box(axes.bbox.x0 + 2, axes.bbox.y0 + 2, axes.bbox.x1 - 2, axes.bbox.y1 - 2)
    places = place(wanted, _obstacles(axes, panel, gap), room, gap)
    inverse = axes.transData.inverted()
    for point, text, label, box in zip(named, texts, wanted, places, strict=True):
        if box is None:
            continue
        gid = f"{point.variant.name}|{point.variant.precision}"
        x, y = inverse.transform(((box.left + box.right) / 2, (box.low + box.high) / 2))
        axes.text(
            x, y, text, ha="center", va="center", fontsize=style.SMALL_SIZE, zorder=5, gid=f"label|{gid}",
            color=style.TEXT if point.frontier else style.MUTED, bbox=style.HALO,
        )  # fmt: skip
        if label.leader(box, gap):
            end = inverse.transform(label.nearest(box))
            axes.plot([point.x.value, end[0]], [point.y.value, end[1]], color=style.MUTED, linewidth=0.6, zorder=3,
                      gid=f"leader|{gid}")  # fmt: skip


def _obstacles(axes: Axes, panel: Panel, gap: float) -> list[Box]:
    """The markers, and the frontiers as rows of thin boxes."""
    radius = gap * 0.8
    boxes = [
        Box(x - radius, y - radius, x + radius, y + radius)
        for x, y in axes.transData.transform([(point.x.value, point.y.value) for point in panel.points])
    ]
    for line in axes.lines:
        if str(line.get_gid()).startswith("frontier|"):
            for (x0, y0), (x1, y1) in pairwise(axes.transData.transform(line.get_xydata())):
                boxes.append(Box(min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    return boxes


def _pareto(name: str, cost: str, x: Sequence[Metric]) -> None:
    title = f"Accuracy over {cost}, with frontier: up and to the left is better"
    add_figure(name, title, partial(_draw_points, x, (ACCURACY_MEAN,), steps=True))


add_figure(
    "latency_vs_memory", "Latency over memory: down and to the left is better", partial(_draw_points, SIZES, LATENCIES)
)
add_figure(
    "energy_vs_accuracy",
    "Accuracy of each task over energy: up and to the left is better",
    partial(_draw_by_task, ENERGIES),
)
add_figure(
    "tpot_vs_throughput", "Time per token over throughput: down and to the right is better",
    partial(_draw_points, (THROUGHPUT,), (TPOT,)),
)  # fmt: skip
_pareto("pareto_latency_accuracy", "latency", LATENCIES)
_pareto("pareto_energy_accuracy", "energy", ENERGIES)
_pareto("pareto_size_accuracy", "size", (DISK,))
