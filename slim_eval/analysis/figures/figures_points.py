"""Figures of two or more metrics at once: their points, which of them may be compared, and which none beats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from matplotlib.figure import Figure

from slim_eval.analysis.figures.measures import (
    DISK,
    ENERGIES,
    LATENCIES,
    MEMORIES,
    THROUGHPUT,
    TPOT,
    WEIGHTS,
    accuracies,
    mean_accuracy,
)
from slim_eval.analysis.figures.plotdata import Configuration, Measure, PlotData, groups_of, measured, preferred
from slim_eval.analysis.figures.radar import Polygon, Radar, radar_chart
from slim_eval.analysis.figures.scatter import Axis, Point, ScatterPanel, scatter_chart, with_frontier
from slim_eval.analysis.pareto.dominance import non_dominated
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN
from slim_eval.analysis.rules import LENGTH_TOLERANCE, Doubt

#: Ways to say one thing, in the order in which they are preferred.
Choice = Callable[[PlotData], Sequence[Measure]]
_Setting = tuple[tuple[str, Hashable], ...]
# Doubts about a measurement itself; those about its setting put it into a group of its own.
_INVALID = {
    Doubt.EMULATED: "its quantized kernels are emulated in 16 bit",
    Doubt.INVALID_ENERGY: "its energy was marked invalid when it was measured",
    Doubt.LENGTH: "it generated another number of tokens than most",
}


def sizes(data: PlotData) -> Sequence[Measure]:
    """Size on disk."""
    return (DISK,)


def memories(data: PlotData) -> Sequence[Measure]:
    """Weights as loaded, or on disk: what an engine reserves says nothing of a model."""
    return MEMORIES


def latencies(data: PlotData) -> Sequence[Measure]:
    """Time per token, or amortised latency."""
    return LATENCIES


def energies(data: PlotData) -> Sequence[Measure]:
    """Energy of a token, or of a request."""
    return ENERGIES


def tpots(data: PlotData) -> Sequence[Measure]:
    """Time per token."""
    return (TPOT,)


def throughputs(data: PlotData) -> Sequence[Measure]:
    """Output tokens a second."""
    return (THROUGHPUT,)


def mean_accuracies(data: PlotData) -> Sequence[Measure]:
    """Mean over the tasks."""
    return (mean_accuracy(data),)


def draw_points(x: Choice, y: Choice, title: str, data: PlotData, *, steps: bool = False) -> Figure | None:
    """One panel of points; None where no configuration has both metrics.

    Args:
        x: What goes along the horizontal axis; of several ways to say it the first that is widely measured.
        y: Along the vertical one.
        title: Of the figure.
        data: What to draw.
        steps: Draw the Pareto frontier of each setting.
    """
    across, up = preferred(x(data), data.configurations), preferred(y(data), data.configurations)
    if across is None or up is None:
        return None
    panel, left_out = _panel("", across, up, data, steps)
    if not panel.points:
        return None
    return scatter_chart(title, [panel], _point_notes([panel], (across, up), data, left_out))


def draw_points_by_task(x: Choice, title: str, data: PlotData) -> Figure | None:
    """One panel a task: its accuracy over a metric."""
    across = preferred(x(data), data.configurations)
    if across is None:
        return None
    made = [
        (up, *_panel(up.title, across, up, data, steps=False)) for up in measured(accuracies(data), data.configurations)
    ]
    shown = [(up, panel, left_out) for up, panel, left_out in made if panel.points]
    if not shown:
        return None
    left_out = list(dict.fromkeys(name for _, _, names in shown for name in names))
    panels = [panel for _, panel, _ in shown]
    return scatter_chart(title, panels, _point_notes(panels, (across, *(up for up, _, _ in shown)), data, left_out))


def _panel(title: str, x: Measure, y: Measure, data: PlotData, steps: bool) -> tuple[ScatterPanel, list[str]]:
    """Points of two metrics, and the configurations that lack one of them."""
    present = [c for c in data.configurations if None not in (x.value(c.row), y.value(c.row))]
    names = [_label(c) for c in data.configurations if c not in present]
    settings = [_setting(c, (x, y)) for c in present]
    order = list(dict.fromkeys(settings))
    length = usual_length(present)
    points = [
        _point(c, x, y, order.index(setting), bool(_reasons(c, (x, y), length)))
        for c, setting in zip(present, settings, strict=True)
    ]
    for group in range(len(order)):
        members = [i for i, point in enumerate(points) if point.group == group and not point.hollow]
        if members:
            values = [(points[i].x, points[i].y) for i in members]
            on = non_dominated(values, [not x.lower, not y.lower])
            for i, point in zip(members, with_frontier([points[i] for i in members], list(on)), strict=True):
                points[i] = point
    labels = [_setting_label(setting, order) for setting in order]
    return ScatterPanel(title, _axis(x), _axis(y), points, steps, labels), names


def _point(c: Configuration, x: Measure, y: Measure, group: int, hollow: bool) -> Point:
    across, up = x.value(c.row), y.value(c.row)
    assert across is not None
    assert up is not None
    return Point(
        c.row["name"], c.row["precision"], across, up, x.interval(c.row), y.interval(c.row), group, hollow
    )  # fmt: skip


def _axis(measure: Measure) -> Axis:
    return Axis(f"{measure.title}, {measure.unit}", measure.lower)


def _label(configuration: Configuration) -> str:
    return f"{configuration.row['name']} {configuration.row['precision']}"


def usual_length(found: Sequence[Configuration]) -> float | None:
    """The output tokens a request that the most configurations share, within 1 %; None where none are known."""
    lengths = [c.row["tokens_per_request"] for c in found if c.row.get("tokens_per_request")]
    return max(lengths, key=lambda length: sum(_same(length, other) for other in lengths), default=None)


def _same(length: float, other: float) -> bool:
    return abs(length - other) <= LENGTH_TOLERANCE * other


def _reasons(configuration: Configuration, measures: Sequence[Measure], length: float | None) -> set[Doubt]:
    """Why a configuration is not compared with the others of its setting."""
    concern = frozenset[Doubt]().union(*(measure.doubts for measure in measures))
    found = set(configuration.doubts & concern & {Doubt.EMULATED, Doubt.INVALID_ENERGY})
    own = configuration.row.get("tokens_per_request")
    if Doubt.LENGTH in concern and own and length and not _same(own, length):
        found.add(Doubt.LENGTH)
    return found


def _setting(configuration: Configuration, measures: Sequence[Measure]) -> _Setting:
    """What must be the same in two configurations before one is said to beat the other."""
    keys = dict.fromkeys(key for measure in measures for key in measure.settings)
    return tuple((key, _plain(configuration.row.get(key))) for key in keys)


def _plain(value: Any) -> Hashable:
    """A setting without what makes no difference: lm-eval's filter ``none``, how NVML was read."""
    if not isinstance(value, str):
        return value  # type: ignore[no-any-return]
    return "nvml" if value.startswith("nvml") else value.removesuffix(",none")


def _setting_label(setting: _Setting, others: Sequence[_Setting]) -> str:
    """A setting in words: only what differs between the settings."""
    found = [
        f"{key.replace('_', ' ')} {value if value is not None else 'not known'}"
        for index, (key, value) in enumerate(setting)
        if len({other[index][1] for other in others}) > 1
    ]
    return ", ".join(found)


def _point_notes(
    panels: Sequence[ScatterPanel], measures: Sequence[Measure], data: PlotData, left_out: Sequence[str]
) -> list[str]:
    notes = []
    if any(point.x_interval or point.y_interval for panel in panels for point in panel.points):
        notes.append("Bars through points: 95 % interval.")
    if ACCURACY_MEAN in {measure.column for measure in measures}:
        notes.append(f"Mean accuracy: of {data.configurations[0].row[ACCURACY_MEAN + '_tasks']}.")
    length = usual_length(data.configurations)
    reasons = Counter(reason for c in data.configurations for reason in _reasons(c, measures, length))
    if any(point.hollow for panel in panels for point in panel.points):
        words = " or ".join(text for doubt, text in _INVALID.items() if reasons[doubt])
        notes.append(f"Hollow: not comparable with the others, and on no frontier: {words}.")
    if left_out:
        names = ", ".join(left_out[:6]) + (f" and {len(left_out) - 6} more" if len(left_out) > 6 else "")
        notes.append(f"Not measured in both metrics: {names}.")
    return notes


def draw_radar(title: str, data: PlotData) -> Figure | None:
    """Small multiples, one a model; each spoke relative to the best precision of that model."""
    found = [
        (name, measure)
        for name, choice in _SPOKES
        if (measure := preferred(choice(data), data.configurations)) is not None
    ]
    if len(found) < 3:
        return None
    shown = data.configurations
    radars = []
    gaps: set[str] = set()
    for name, precisions in groups_of(shown):
        mine = [c for c in shown if c.row["name"] == name]
        shares = [relative(measure, mine) for _, measure in found]
        gaps |= {"not measured" for column in shares if None in column}
        radars.append(
            Radar(name, [Polygon(p, [column[i] for column in shares]) for i, p in enumerate(precisions)])
        )  # fmt: skip
    notes = [
        "Outer ring: the best precision of the model on that axis; half way in: half as good. "
        + "; ".join(f"{name}: {measure.title}, {measure.better}" for name, measure in found) + ".",
        *(["An axis without a marker: not measured, or not comparable with the model's fp16."] if gaps else []),
    ]  # fmt: skip
    return radar_chart(title, [name for name, _ in found], radars, notes)


_SPOKES: tuple[tuple[str, Choice], ...] = (
    ("accuracy", mean_accuracies),
    ("latency", latencies),
    ("throughput", throughputs),
    ("energy", energies),
    ("size", lambda data: (DISK, WEIGHTS)),
)


def relative(measure: Measure, found: Sequence[Configuration]) -> list[float | None]:
    """Each value relative to the best one: 1 for the best, 0.5 for one that is half as good.

    A value that is in doubt is a gap, as a missing one is.
    """
    values = [None if c.doubts & measure.doubts else measure.value(c.row) for c in found]
    known = [value for value in values if value]
    if not known:
        return [None] * len(values)
    best = min(known) if measure.lower else max(known)
    return [None if not value else best / value if measure.lower else value / best for value in values]
