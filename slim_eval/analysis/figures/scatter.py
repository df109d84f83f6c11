"""Figures of two metrics at once: points with intervals, names, and the Pareto frontier of each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cbook import pts_to_poststep
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D

from slim_eval.analysis.caveats import EMULATED, INVALID
from slim_eval.analysis.comparability import LENGTH_TOLERANCE, comparable_groups
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.bars import lm_eval_metric
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.labels import Floats, Label, place
from slim_eval.analysis.figures.layout import heading, open_page, size_of
from slim_eval.analysis.figures.numbers import Numbers, ends
from slim_eval.analysis.figures.rowchart import by_name
from slim_eval.analysis.pareto.dominance import non_dominated
from slim_eval.analysis.study import Study
from slim_eval.metrics import ACCURACY_MEAN, AMORTISED, DISK, ENERGIES, SIZES, THROUGHPUT, TPOT, Metric
from slim_eval.results.variants import Estimate, Variant
from slim_eval.utils import wrapped_name

#: Of two ways to say how fast a variant answers, the first that is widely measured is shown.
LATENCIES = (TPOT, AMORTISED)
FEW_POINTS = 24
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_LOG_FROM = 25.0  # greatest over least value, from which an axis is logarithmic
_GAP = 6.0 * style.DPI / 72  # pixels between a point and its label


@dataclass(frozen=True)
class Point:
    """A variant with its two numbers in the units shown."""

    variant: Variant
    x: Estimate
    y: Estimate
    reasons: tuple[str, ...]  # why it must not be compared with the others; it is then hollow and on no frontier
    setting: str  # label of the setting in which it was measured
    frontier: bool  # no other point of its setting dominates it

    @property
    def gid(self) -> str:
        """The ``gid`` of its marker."""
        return f"{self.variant.name}|{self.variant.precision}"


@dataclass(frozen=True)
class Panel:
    """Axes with points; the title is empty if there is only one panel."""

    title: str
    x: Metric
    y: Metric
    points: Sequence[Point]


def _panel(title: str, x: Metric, y: Metric, study: Study) -> Panel:
    """The points of the variants that have both metrics."""
    shown = [
        (variant, across.scaled(x.scale), up.scaled(y.scale)) for variant in by_name(study.variants)
        if (across := variant.estimate(x)) is not None and (up := variant.estimate(y)) is not None
    ]  # fmt: skip
    length = usual_length([variant for variant, *_ in shown])
    reasons = []
    for variant, *_ in shown:
        # A variant measured with other settings is not excluded: it forms its own group.
        marks = {kind for metric in (x, y) for kind in study.marks(variant, metric)}
        own = variant.tokens_per_request
        other_work = (x.per_length or y.per_length) and own and length and not _same(own, length)
        possible = (
            "its quantized kernels are emulated in 16 bit" if EMULATED in marks else None,
            "its record was marked invalid when it was measured" if INVALID in marks else None,
            "it generated a different number of tokens from most" if other_work else None,
        )
        reasons.append(tuple(reason for reason in possible if reason))
    compared = [entry for entry, why in zip(shown, reasons, strict=True) if not why]
    groups = comparable_groups([variant for variant, *_ in compared], (x, y)).labels
    settings = {variant.directory: label for (variant, *_), label in zip(compared, groups, strict=True)}
    frontier: set[Path] = set()
    for label in dict.fromkeys(groups):
        members = [entry for entry, group in zip(compared, groups, strict=True) if group == label]
        best = non_dominated([(a.value, b.value) for _, a, b in members], [x.maximise, y.maximise])
        frontier |= {variant.directory for (variant, *_), on in zip(members, best, strict=True) if on}
    points = [
        Point(v, a, b, why, settings.get(v.directory, ""), v.directory in frontier)
        for (v, a, b), why in zip(shown, reasons, strict=True)
    ]
    return Panel(title, x, y, points)


def usual_length(variants: Sequence[Variant]) -> float | None:
    """The output tokens per request that the most variants share, within 1 %; None if none are known."""
    lengths = [length for variant in variants if (length := variant.tokens_per_request)]
    return max(lengths, key=lambda length: sum(_same(length, other) for other in lengths), default=None)


def _same(length: float, other: float) -> bool:
    return abs(length - other) <= LENGTH_TOLERANCE * other


def _draw_points(
    x: Sequence[Metric], y: Sequence[Metric] | None, title: str, study: Study, *, steps: bool = False
) -> MplFigure | None:
    """Panels of points, up to three beside each other if there are few points; None if nothing was measured.

    Of several metrics for an axis, the first that is widely measured is shown; without `y`, there is a panel per
    accuracy task. `steps` draws frontiers.
    """
    across = study.first_measured(x)
    ups: list[tuple[str, Metric]] = []
    if y is None:
        ups = [(task.title, task) for task in study.task_metrics if task.is_accuracy]
    elif (up := study.first_measured(y)) is not None:
        ups = [("", up)]
    panels = [_panel(words, across, metric, study) for words, metric in ups if across is not None]
    panels = [panel for panel in panels if panel.points]
    if not panels:
        return None
    points = [point for panel in panels for point in panel.points]
    looks = style.looks(point.variant.precision for point in points)
    settings = dict.fromkeys(point.setting for point in points if point.frontier and steps)
    dashes = dict(zip(settings, cycle(_DASHES), strict=False))
    handles: list[Artist] = [
        Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=6.5, label=name)
        for name, (colour, marker) in looks.items()
    ]
    if any(point.reasons for point in points):
        handles.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markersize=6.5,
                              markeredgecolor=style.MUTED, label="not comparable (see below)"))  # fmt: skip
    parts = [setting.split(", ") for setting in settings]
    for own, dash in zip(parts, dashes.values(), strict=True):
        apart = ", ".join(part for part in own if not all(part in other for other in parts))
        label = f"Pareto frontier: {apart}" if len(parts) > 1 else "Pareto frontier"
        handles.append(Line2D([], [], color=style.MUTED, linewidth=1.3, linestyle=dash, label=label))
    many = max(len(panel.points) for panel in panels) > FEW_POINTS
    columns = 1 if many else min(3, len(panels))  # many points need space, below each other
    size = (6.6, 5.4 if many else 4.2) if columns == 1 else (3.6, 3.3)
    better = f"better: {'right' if panels[0].x.maximise else 'left'} and "
    captions = [(panel.title, f"{better}{'up' if panel.y.maximise else 'down'}") for panel in panels]
    figure, all_axes = open_page(
        title, handles, _notes(panels, study), captions, columns, size, left=0.62, gap=0.7, right=0.15, head=0.26,
        foot=0.55, numbers=[_numbers(panel, point, study, steps) for panel in panels for point in panel.points],
    )  # fmt: skip
    for axes, panel in zip(all_axes, panels, strict=True):
        axes.set(xlabel=_axis_label(panel.x, study), ylabel=_axis_label(panel.y, study))
        _draw_panel(axes, panel, looks, dashes, paths=not steps)
    return figure


def _numbers(panel: Panel, point: Point, study: Study, steps: bool) -> Numbers:
    row: dict[str, Any] = {"model": point.variant.name, "precision": point.variant.precision}
    for along, metric, number in (("x", panel.x, point.x), ("y", panel.y, point.y)):
        span = {f"{along} {end}": value for end, value in ends(number.interval).items()}
        row |= {f"{along} axis": _axis_label(metric, study), along: number.value, **span}
    on = {"on the frontier": point.frontier, "setting": point.setting or None} if steps else {}
    return {**row, **on, "not comparable": "; ".join(point.reasons) or None}


def _axis_label(metric: Metric, study: Study) -> str:
    label, unit = heading(metric), metric.unit or metric.label
    counts = {len(variant.mean_tasks) for variant in study.variants if variant.number(metric) is not None}
    if metric is ACCURACY_MEAN and len(counts) == 1:
        label += f" of {(count := counts.pop())} task{'s' if count > 1 else ''}"
    return f"{label}, {unit} ({lm_eval_metric(metric, study)})" if metric.key in study.tasks else f"{label}, {unit}"


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
        notes.append(f"Hollow: not comparable with the others and excluded from the frontier: {' or '.join(reasons)}.")
    left_out = list(dict.fromkeys(
        variant.label for panel in panels for variant in by_name(study.variants)
        if variant.directory not in {point.variant.directory for point in panel.points}
    ))  # fmt: skip
    if left_out:
        names = ", ".join(left_out[:6]) + (f" and {len(left_out) - 6} more" if len(left_out) > 6 else "")
        notes.append(f"Missing one or both metrics: {names}.")
    if any(len(panel.points) > FEW_POINTS for panel in panels):
        notes.append("Only non-dominated points are named.")
    return notes


def _draw_panel(
    axes: Axes, panel: Panel, looks: Mapping[str, tuple[str, str]], dashes: Mapping[str, Any], *, paths: bool
) -> None:
    """Draw points with intervals, then frontiers in the `dashes` of their settings (if there are any), then labels.

    If there are few points, `paths` joins the variants of each model: the direction in which quantization moves it.
    The ``gid`` of a point is ``{name}|{precision}``, that of its label ``label|{name}|{precision}``, that of a frontier
    ``frontier|{setting}``.
    """
    axes.grid()
    few = len(panel.points) <= FEW_POINTS
    for name in dict.fromkeys(point.variant.name for point in panel.points if few and paths):
        path = [(p.x.value, p.y.value) for p in panel.points if p.variant.name == name]
        axes.plot(*zip(*path, strict=True), color="#c4c4c4", linewidth=0.9, zorder=1, gid=f"path|{name}")
    for point in panel.points:
        x, y, hollow, (colour, marker) = point.x, point.y, bool(point.reasons), looks[point.variant.precision]
        pale: dict[str, Any] = {"color": style.tint(colour, 0.35), "linewidth": 1.0, "zorder": 2}
        if x.interval is not None:
            axes.plot(x.interval, [y.value] * 2, gid=f"{point.gid}|x", **pale)
        if y.interval is not None:
            axes.plot([x.value] * 2, y.interval, gid=f"{point.gid}|y", **pale)
        axes.plot(
            [x.value], [y.value], marker=marker, markersize=6.5, markerfacecolor="white" if hollow else colour,
            markeredgewidth=1.3 if hollow else 0.6, markeredgecolor=colour if hollow else "white", linestyle="none",
            zorder=4, gid=point.gid,
        )  # fmt: skip
    values = np.array([(point.x.value, point.y.value) for point in panel.points])
    for along, axis, mine in (("x", axes.xaxis, values[:, 0]), ("y", axes.yaxis, values[:, 1])):
        if mine.min() > 0 and mine.max() / mine.min() > _LOG_FROM:
            axes.set(**{f"{along}scale": "log"})
            axis.set_major_formatter("{x:g}")
        else:
            axes.locator_params(axis=along, nbins=6)  # type: ignore[arg-type]
    axes.margins(0.14)  # for labels
    axes.autoscale_view()
    axes.autoscale(enable=False)  # labels are placed for these limits: what is drawn later must not move them
    # Obstacles of labels: the markers, and the frontiers as rows of thin boxes.
    markers = axes.transData.transform(values)
    obstacles = [np.hstack([markers - 0.8 * _GAP, markers + 0.8 * _GAP])]
    worst = axes.get_xlim()[0 if panel.x.maximise else 1], axes.get_ylim()[0 if panel.y.maximise else 1]
    for setting, dash in dashes.items():
        on = [(p.x.value, p.y.value) for p in panel.points if p.setting == setting and p.frontier]
        if on:
            # The edge of what the points dominate: between two of them it bends at the worse of their values.
            xs, ys = zip(*sorted(on, reverse=panel.x.maximise), strict=True)  # from the best value of x on
            edge = pts_to_poststep([xs[0], *xs, worst[0]], [worst[1], *ys, ys[-1]])
            axes.plot(*edge, color=style.MUTED, linewidth=1.3, linestyle=dash, zorder=1, gid=f"frontier|{setting}")
            line = axes.transData.transform(edge.T)
            obstacles.append(np.hstack([np.minimum(line[:-1], line[1:]) - 1, np.maximum(line[:-1], line[1:]) + 1]))
    _label(axes, panel, np.vstack(obstacles))


def _label(axes: Axes, panel: Panel, obstacles: Floats) -> None:
    """Names beside points: all of the frontier, and if there are few points, those of the others that fit."""
    several = len({point.variant.name for point in panel.points}) > 1
    few = len(panel.points) <= FEW_POINTS
    named = [*(p for p in panel.points if p.frontier), *(p for p in panel.points if few and not p.frontier)]
    texts = [wrapped_name(p.variant.label if several else p.variant.precision) for p in named]
    wanted = []
    for point, text in zip(named, texts, strict=True):
        x, y = axes.transData.transform((point.x.value, point.y.value))
        width, height = (size * style.DPI + _GAP / 2 for size in size_of(text, style.SMALL_SIZE))
        wanted.append(Label(x, y, width, height, needed=point.frontier))
    places = place(wanted, obstacles, np.array(axes.bbox.padded(-2).extents), _GAP)
    for point, text, label, box in zip(named, texts, wanted, places, strict=True):
        if box is None:
            continue
        x, y = ((box[:2] + box[2:]) / 2 - (label.x, label.y)) * 72 / style.DPI
        leader = {"arrowstyle": "-", "color": style.MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3,
                  "relpos": (label.nearest(box) - box[:2]) / (box[2:] - box[:2])}  # fmt: skip
        axes.annotate(
            text, (point.x.value, point.y.value), xytext=(x, y), textcoords="offset points", ha="center", va="center",
            zorder=5, gid=f"label|{point.gid}", color=style.TEXT if point.frontier else style.MUTED, bbox=style.HALO,
            arrowprops=leader if len(label.leader(box, _GAP)) else None,
        )  # fmt: skip


add_figure(
    "latency_vs_memory", "Latency vs. memory: down and to the left is better", partial(_draw_points, SIZES, LATENCIES)
)
add_figure(
    "energy_vs_accuracy", "Accuracy of each task vs. energy: up and to the left is better",
    partial(_draw_points, ENERGIES, None),
)  # fmt: skip
add_figure(
    "tpot_vs_throughput", "Time per token vs. throughput: down and to the right is better",
    partial(_draw_points, (THROUGHPUT,), (TPOT,)),
)  # fmt: skip
for _cost, _metrics in (("latency", LATENCIES), ("energy", ENERGIES), ("size", (DISK,))):
    add_figure(
        f"pareto_{_cost}_accuracy", f"Accuracy vs. {_cost}, with frontier: up and to the left is better",
        partial(_draw_points, _metrics, (ACCURACY_MEAN,), steps=True),
    )  # fmt: skip
