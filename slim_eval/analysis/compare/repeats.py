"""The noise floor of each metric from repeated runs of one variant; `noise_floor` applies it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from slim_eval import stats
from slim_eval.analysis.comparability import obstacles, settings_of
from slim_eval.analysis.compare.items import pair
from slim_eval.analysis.compare.noise_floor import speed_setting
from slim_eval.metrics import METRICS, TPOT, Metric
from slim_eval.results.records import FloorEntry, NoiseRecord
from slim_eval.results.store import read_samples
from slim_eval.results.variants import Variant
from slim_eval.utils import environment

_Z95 = 1.959963984540054
_LARGEST_LOG = 700.0  # exp of more overflows

_Rows = Sequence[Mapping[str, Any]]


def noise_record(runs: Sequence[Variant]) -> NoiseRecord:
    """The noise floor from two or more measurements of one variant.

    Relative changes are taken of logarithms. The variation within a run is that of its iterations' means or, for other
    statistics and without samples, follows from the run's own interval. Times that still drifted do not count, nor does
    a run that another one must not be compared with.
    """
    samples = [read_samples(run.directory, "performance") if run.performance is not None else [] for run in runs]
    metrics = {
        metric.key: entry
        for metric in METRICS.values()
        if metric.compared and not metric.exact and (entry := _floor_of(metric, runs, samples)) is not None
    }
    flips: dict[str, float] = {}
    for task in (task for a, b in combinations(runs, 2) for task in pair(a, b)):
        if task.drop_pp is not None and not task.unpaired:
            flips[task.task] = max(flips.get(task.task, 0.0), task.flips or 0.0)
    return NoiseRecord(
        model=runs[0].model,
        precision=runs[0].precision,
        timestamp=environment.now(),
        **{s.name: speed_setting(runs[0], s) for s in settings_of(TPOT) if s.name in NoiseRecord.model_fields},
        iterations=tuple(None if run.performance is None else run.performance.num_iterations for run in runs),
        metrics=metrics,
        tasks={task: _floor_of_task(task, runs) for task in flips},
        flips=flips,
    )


def _drifted(run: Variant) -> bool:
    """Whether the times of a run still drifted when they were measured."""
    return run.performance is not None and run.performance.warmup_stable is False


def _floor_of(metric: Metric, runs: Sequence[Variant], samples: Sequence[_Rows]) -> FloorEntry | None:
    """The floor of one metric; None if fewer than two runs have a value."""
    values = [_run_value(metric, run, rows) for run, rows in zip(runs, samples, strict=True)]
    first = next((run for run, value in zip(runs, values, strict=True) if value is not None), None)
    if first is None:
        return None
    values = [
        value if value is not None and not obstacles(metric, run, first) else None
        for run, value in zip(runs, values, strict=True)
    ]
    found = stats.variation([value for value in values if value is not None])
    if found is None:
        return None
    ends = None if found.interval is None else (_relative(found.interval.low), _relative(found.interval.high))
    return FloorEntry(
        values=tuple(run.number(metric) if value else None for run, value in zip(runs, values, strict=True)),
        floor=_relative(found.floor),
        floor_interval=ends,
        mean=math.exp(found.mean),
        within=None if found.within is None else _relative(found.within),
        between=_relative(found.between),
        between_p_value=found.between_p_value,
    )


def _floor_of_task(task: str, runs: Sequence[Variant]) -> FloorEntry:
    """The floor of a task's score, in percentage points; all runs answer the same items: nothing varies within one."""
    values = tuple(run.number(task) for run in runs)
    found = stats.variation([stats.RunValue(value * 100) for value in values if value is not None])
    if found is None:
        return FloorEntry(values=values, floor=None)
    ends = None if found.interval is None else (found.interval.low, found.interval.high)
    mean = found.mean / 100
    return FloorEntry(values=values, floor=found.floor, floor_interval=ends, mean=mean, between=found.between)


def _run_value(metric: Metric, run: Variant, rows: _Rows) -> stats.RunValue | None:
    """The logarithm of a run's number with its error from within the run; None if it has none that counts."""
    value, ends = run.number(metric), run.interval(metric)
    if value is None or value <= 0 or not run.counts(metric) or (metric.sample is not None and _drifted(run)):
        return None
    if metric.sample is not None and metric.statistic == "mean":
        iterations: dict[Any, list[Any]] = {}
        for row in rows:
            iterations.setdefault(row.get("iteration"), []).append(row.get(metric.sample))
        if iterations and all(isinstance(time, (int, float)) for times in iterations.values() for time in times):
            found = stats.log_mean([fmean(times) for times in iterations.values()])
            if found is not None:  # throughput is tokens over wall time: another value, with the same relative error
                return stats.RunValue(math.log(value), found.error, found.degrees)
    if ends is None or not 0 < ends[0] <= ends[1]:
        return stats.RunValue(math.log(value))
    # The ends account already for how few iterations there were: the error takes no further degrees of freedom.
    return stats.RunValue(math.log(value), math.log(ends[1] / ends[0]) / (2 * _Z95))


def _relative(difference: float) -> float:
    """A difference of logarithms as a relative change."""
    return math.expm1(min(difference, _LARGEST_LOG))
