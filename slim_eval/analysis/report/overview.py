"""The comparison table: one row a configuration, its columns in groups that a reader can hide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from slim_eval.analysis.compare.metrics import BY_KEY, Metric
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN, Objective, directions, with_accuracy_mean
from slim_eval.analysis.report.marks import ALL, NOISE, Mark, Marker
from slim_eval.analysis.report.numbers import PERCENT, Value, counted, finite, measured, words
from slim_eval.results.rows import Row

MEAN_LABEL = "mean accuracy"
BY_POINTS = "by the point values alone: no interval is known"
_ORDER = {"on the frontier": 0, "cannot tell": 1}
_SPEED = ("ttft_s", "tpot_s", "tokens_per_second", "e2e_latency_s", "mean_latency_s", "mbu")
_MEMORY = ("model_size_gb", "weights_gb", "mean_peak_mem_mb", "kv_cache_tokens", "max_concurrency")
_ENERGY = ("joules_per_output_token", "energy_per_query_j", "energy_joules", "avg_power_watts")
_SETUP = {"engine": "engine", "kernels": "kernels", "dtype": "dtype", "hardware": "hardware"}
_COUNTS = {"batch_size": "batch size", "num_runs": "requests", "tokens_per_request": "output tokens a request"}


@dataclass(frozen=True)
class Column:
    """A column: its header, its group, and how the field of a row is made."""

    header: str
    group: str
    field: Callable[[Row], Value]
    numeric: bool = True


@dataclass(frozen=True)
class Group:
    """Columns that are hidden and shown together; `first` and `last` are their places, from 1."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Table:
    """The comparison table.

    Attributes:
        columns: Those in which anything was measured.
        groups: Over them.
        rows: Fields, one row a configuration, in the order of the rows given.
        absent: Columns that no configuration has.
        marks: Those that occur.
    """

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    rows: tuple[tuple[Value, ...], ...]
    absent: tuple[str, ...]
    marks: tuple[Mark, ...]


def comparison_table(
    rows: Sequence[Row],
    tasks: Sequence[str],
    marker: Marker,
    standing: Sequence[Row] = (),
    objectives: Sequence[Objective] = (),
) -> Table:
    """The table of all configurations.

    Args:
        rows: From `rows.rows_of`.
        tasks: Tasks to show.
        marker: Of the same rows.
        standing: From `objectives.frontier` over the same rows; empty where no frontier was worked out.
        objectives: Of that frontier: what is in doubt about one of them is in doubt about where a row stands.
    """
    frontier = _frontier_columns(standing, rows, marker, objectives)
    candidates = _columns(rows, tasks, marker, tuple(frontier))
    made = [[column.field(row) for row in rows] for column in candidates]
    kept = [n for n, values in enumerate(made) if not all(value.absent for value in values)]
    columns = tuple(candidates[n] for n in kept)
    fields = tuple(zip(*(made[n] for n in kept), strict=True))
    occurring = {mark.kind for line in fields for value in line for mark in value.marks}
    return Table(
        columns,
        tuple(_groups(columns)),
        fields,
        tuple(column.header for n, column in enumerate(candidates) if n not in kept and column.numeric),
        tuple(mark for mark in ALL if mark.kind in occurring),
    )


def task_scales(rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, tuple[str, float]]:
    """For each task its label and scale: shares in %, scores of any other kind as they are."""
    better = directions(rows)
    scales = {}
    for task in tasks:
        values = [value for row in rows if (value := finite(row.get(task))) is not None]
        share = better.get(task, True) and all(0 <= value <= 1 for value in values)
        scales[task] = (f"{task}, %", PERCENT) if share else (task, 1.0)
    return scales


def _columns(rows: Sequence[Row], tasks: Sequence[str], marker: Marker, frontier: Sequence[Column]) -> list[Column]:
    metric_columns = [
        Column(BY_KEY[key].label, group, _metric_field(BY_KEY[key], marker))
        for group, keys in (("speed", _SPEED), ("memory", _MEMORY), ("energy", _ENERGY))
        for key in keys
    ]
    return [
        Column("model", "", lambda row: words(row["name"]), numeric=False),
        Column("precision", "", lambda row: words(row["precision"]), numeric=False),
        *frontier,
        *metric_columns,
        *_task_columns(rows, tasks, marker),
        *(Column(label, "settings", _words_field(key), numeric=False) for key, label in _SETUP.items()),
        *(Column(label, "settings", _count_field(key)) for key, label in _COUNTS.items()),
    ]


def _metric_field(metric: Metric, marker: Marker) -> Callable[[Row], Value]:
    return lambda row: measured(row, metric.key, metric.scale, marker.of_metric(row, metric))


def _words_field(key: str) -> Callable[[Row], Value]:
    return lambda row: words(row[key])


def _count_field(key: str) -> Callable[[Row], Value]:
    return lambda row: counted(row[key])


def _task_columns(rows: Sequence[Row], tasks: Sequence[str], marker: Marker) -> Iterable[Column]:
    for task, (label, scale) in task_scales(rows, tasks).items():
        yield Column(label, "accuracy", _task_field(task, scale, marker))
    if len(tasks) > 1:
        means = {row["directory"]: row for row in with_accuracy_mean(rows, tasks)}
        yield Column(
            f"{MEAN_LABEL}, %", "accuracy", lambda row: measured(means[row["directory"]], ACCURACY_MEAN, PERCENT)
        )


def _task_field(task: str, scale: float, marker: Marker) -> Callable[[Row], Value]:
    return lambda row: measured(row, task, scale, marker.of_task(row, task))


def _frontier_columns(
    standing: Sequence[Row], rows: Sequence[Row], marker: Marker, objectives: Sequence[Objective]
) -> Iterable[Column]:
    if len(standing) != len(rows) or not standing:
        return
    by_directory: Mapping[str, Row] = {row["directory"]: found for row, found in zip(rows, standing, strict=True)}
    metrics = [BY_KEY[objective.key] for objective in objectives if objective.key in BY_KEY]

    def field(row: Row) -> Value:
        found = by_directory[row["directory"]]
        if found["state"] is None:
            return Value("not compared", title=str(found["excluded"] or ""), absent=True)
        probability = found["p_non_dominated"]
        title = BY_POINTS if probability is None else f"probability of not being dominated: {probability:.2f}"
        doubts = dict.fromkeys(mark for metric in metrics for mark in marker.of_metric(row, metric) if mark != NOISE)
        return Value(found["state"], title=title, sort=_ORDER.get(found["state"], 2), marks=tuple(doubts))

    yield Column("all objectives", "Pareto", field, numeric=False)


def _groups(columns: Sequence[Column]) -> Iterable[Group]:
    first = 1
    for place, column in enumerate(columns, start=1):
        following = columns[place].group if place < len(columns) else None
        if following != column.group:
            yield Group(column.group, first, place)
            first = place + 1
