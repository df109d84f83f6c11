"""What the charts are drawn from: plain columns of numbers, in the units shown, and the words that go with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.compare.metrics import METRICS, Kind, Metric
from slim_eval.analysis.figures.style import colours
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN, directions, with_accuracy_mean
from slim_eval.analysis.report.marks import Mark, Marker
from slim_eval.analysis.report.numbers import PERCENT, finite, interval_of
from slim_eval.analysis.report.overview import MEAN_LABEL, task_scales
from slim_eval.analysis.report.settings import ANY, Settings
from slim_eval.results.rows import Row

#: Points and lines that a chart draws at most; the rest is counted in words.
MAX_POINTS, MAX_DROPS = 600, 60
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "hexagon", "pentagon")
_DEFAULT_X = (
    "tpot_s",
    "tokens_per_second",
    "mean_latency_s",
    "joules_per_output_token",
    "energy_joules",
    "weights_gb",
    "model_size_gb",
)
_DIGITS = 6
#: Column of the output tokens a request, of which a number that grows with them must not differ.
LENGTHS = {"speed": "tokens_per_request", "energy": "energy_output_tokens"}


@dataclass(frozen=True)
class _Axis:
    """A metric that an axis may show: its column, label and scale, and what its numbers depend on."""

    key: str
    label: str
    scale: float
    maximise: bool | None
    settings: str
    metric: Metric | None = None


def chart_data(rows: Sequence[Row], tasks: Sequence[str], marker: Marker, settings: Sequence[Settings]) -> Row:
    """Everything that the scripts draw.

    Returns:
        ``metrics``: the axes to choose from, each with its numbers, the ends of their intervals and the marks of each
        configuration; ``points``: the configurations; ``lengths``: their output tokens a request;
        ``precisions``: their colours and shapes; ``settings``: for each
        kind of measurement, the number of each configuration's setting; ``drops``: the paired drops.
    """
    prepared = with_accuracy_mean(rows, tasks)
    axes = [axis for axis in _axes(prepared, tasks) if any(finite(row.get(axis.key)) is not None for row in prepared)]
    return {
        "metrics": [_axis_data(axis, prepared, marker) for axis in axes],
        "lengths": {kind: [_short(finite(row.get(key))) for row in rows] for kind, key in LENGTHS.items()},
        "points": [{"name": row["name"], "precision": row["precision"]} for row in rows],
        "precisions": _precisions(row["precision"] for row in rows),
        "settings": {
            entry.kind: {
                "members": entry.members,
                "labels": entry.labels,
                "differences": entry.differences,
                "recorded": entry.recorded,
            }
            for entry in settings
        },
        "tasks": [task for task in tasks if finite_any(rows, task)],
        "x": next((key for key in _DEFAULT_X if any(axis.key == key for axis in axes)), None),
        "y": _default_y(axes, tasks),
        "drops": [drop for index, row in enumerate(rows) for drop in _drops(index, row, marker)],
        "max_points": MAX_POINTS,
        "max_drops": MAX_DROPS,
    }


def finite_any(rows: Sequence[Row], key: str) -> bool:
    """Whether any row has a number in a column."""
    return any(finite(row.get(key)) is not None for row in rows)


def _axes(rows: Sequence[Row], tasks: Sequence[str]) -> list[_Axis]:
    better = directions(rows)
    axes = [_Axis(key, label, scale, better.get(key), key) for key, (label, scale) in task_scales(rows, tasks).items()]
    if len(tasks) > 1:
        axes.insert(0, _Axis(ACCURACY_MEAN, f"{MEAN_LABEL}, %", PERCENT, True, "tasks"))
    for metric in METRICS:
        settings = ANY if metric.kind is Kind.SIZE else metric.kind.value
        axes.append(_Axis(metric.key, metric.label, metric.scale, _maximise(metric), settings, metric))
    return axes


def _maximise(metric: Metric) -> bool | None:
    return None if metric.better is None else metric.better == "higher"


def _default_y(axes: Sequence[_Axis], tasks: Sequence[str]) -> str | None:
    wanted = (ACCURACY_MEAN, *tasks, "model_size_gb", *(axis.key for axis in axes))
    return next((key for key in wanted if any(axis.key == key for axis in axes)), None)


def _axis_data(axis: _Axis, rows: Sequence[Row], marker: Marker) -> Row:
    values, lows, highs, marks = [], [], [], []
    for row in rows:
        value = finite(row.get(axis.key))
        ends = None if value is None else interval_of(row, axis.key)
        values.append(_short(value, axis.scale))
        lows.append(None if ends is None else _short(ends[0], axis.scale))
        highs.append(None if ends is None else _short(ends[1], axis.scale))
        marks.append([mark.word for mark in _marks(axis, row, marker)] if value is not None else [])
    return {
        "key": axis.key, "label": axis.label, "maximise": axis.maximise, "settings": axis.settings,
        "per_length": axis.metric is not None and axis.metric.per_length, "values": values,
        "lows": lows if any(low is not None for low in lows) else None,
        "highs": highs if any(high is not None for high in highs) else None,
        "marks": {str(index): found for index, found in enumerate(marks) if found},
    }  # fmt: skip


def _marks(axis: _Axis, row: Row, marker: Marker) -> Sequence[Mark]:
    if axis.metric is not None:
        return marker.of_metric(row, axis.metric)
    return () if axis.key == ACCURACY_MEAN else marker.of_task(row, axis.key)


def _precisions(found: Iterable[str]) -> list[Row]:
    return [
        {"name": name, "colour": colour, "symbol": _SYMBOLS[n % len(_SYMBOLS)]}
        for n, (name, colour) in enumerate(colours(found).items())
    ]


def _drops(index: int, row: Row, marker: Marker) -> Iterable[Mapping[str, Any]]:
    for pair in marker.evidence.paired.get(row["directory"], ()):
        if pair.drop_pp is None:
            continue
        low, high = pair.interval_pp or (None, None)
        yield {
            "point": index, "task": pair.task, "drop": _short(pair.drop_pp), "low": _short(low), "high": _short(high),
            "verdict": pair.verdict, "margin": pair.margin_pp, "items": pair.num_items, "flips": _short(pair.flips),
            "p": _short(pair.p_value_holm), "needed": pair.items_needed,
        }  # fmt: skip


def _short(value: float | None, scale: float = 1.0) -> float | None:
    """Digits that a chart can show; no more, as there may be thousands of points."""
    return None if value is None or not math.isfinite(value) else float(f"{value * scale:.{_DIGITS}g}")
