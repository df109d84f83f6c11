"""Two variants side by side: every metric with interval, ratio and verdict, and every task item by item.

The second variant, B, is judged against the first, A. A ratio is B / A; its 95 % interval comes from resampling the
iterations of both runs (`stats.bootstrap_ratio`) or, if only intervals were recorded, from those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations
from typing import Any

from slim_eval import stats
from slim_eval.analysis.comparability import lengths_differ, obstacles, settings_of
from slim_eval.analysis.compare.items import give_verdicts, pair
from slim_eval.analysis.compare.noise_floor import floor_of, noise_floor, speed_setting, widened, widened_task
from slim_eval.analysis.impact import quotient_interval
from slim_eval.metrics import METRICS, THROUGHPUT, TPOT, WEIGHTS, Basis, Metric
from slim_eval.results.records import FloorEntry, NoiseRecord, PairedTask
from slim_eval.results.store import read_samples
from slim_eval.results.variants import Interval, Variant, ordered_tasks
from slim_eval.utils import environment, short_name


class Verdict(str, Enum):
    """What may be concluded about one metric."""

    BETTER = "better"
    WORSE = "worse"
    HIGHER = "higher"
    LOWER = "lower"
    SAME = "same"
    UNDECIDED = "no difference seen"
    NOISE = "within noise"
    CONFOUNDED = "confounded"
    NOT_COMPARABLE = "not comparable"
    NO_INTERVAL = "no interval"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class MetricComparison:
    """One metric of two variants, in the units of its column.

    Attributes:
        ratio: B / A; None if it would be meaningless.
        interval: 95 % interval of the ratio, widened by the noise floor if one is known.
        floor: That floor, a relative change.
        reason: Why the verdict could not be reached.
    """

    metric: Metric
    a: float | None
    b: float | None
    a_interval: Interval | None = None
    b_interval: Interval | None = None
    ratio: float | None = None
    interval: Interval | None = None
    floor: float | None = None
    verdict: Verdict = Verdict.NOT_MEASURED
    reason: str | None = None

    @property
    def gain(self) -> float | None:
        """The ratio turned so that above 1 is better: a speed-up; None if neither direction is better."""
        if not self.ratio or self.metric.better is None:
            return None
        return 1 / self.ratio if self.metric.better == "lower" else self.ratio


@dataclass(frozen=True)
class TaskComparison:
    """One task of two variants: accuracies as recorded (shares from 0 to 1), and the pairing of their items."""

    a: float | None
    b: float | None
    paired: PairedTask


@dataclass(frozen=True)
class VariantComparison:
    """Two variants, every metric and task."""

    a: Variant
    b: Variant
    metrics: tuple[MetricComparison, ...]
    tasks: tuple[TaskComparison, ...]

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called."""
        a, b = (f"{short_name(variant.model)} {variant.precision}" for variant in (self.a, self.b))
        return (a, b) if a != b else (str(self.a.directory), str(self.b.directory))


def compare(a: Variant, b: Variant, margin_pp: float) -> VariantComparison:
    """Compare variant B with variant A; as `compare_all`."""
    return compare_all([(a, b)], margin_pp)[0]


def compare_all(pairs: Sequence[tuple[Variant, Variant]], margin_pp: float) -> list[VariantComparison]:
    """Compare pairs of variants that are shown together: p-values of all their tasks are corrected for each other.

    Args:
        pairs: The reference, e.g. the 16-bit variant, and the variant that is judged.
        margin_pp: Drop in percentage points that still counts as equivalent.

    Raises:
        ResultFileError: A file of samples or a noise floor cannot be read.
    """
    floors = [noise_floor(a) or noise_floor(b) for a, b in pairs]
    tasks = [
        [widened_task(task, floor) for task in pair(a, b, ordered_tasks(set(a.accuracy) | set(b.accuracy)))]
        for (a, b), floor in zip(pairs, floors, strict=True)
    ]
    return [
        _compared(a, b, found, floor)
        for (a, b), found, floor in zip(pairs, give_verdicts(tasks, margin_pp), floors, strict=True)
    ]


def _compared(a: Variant, b: Variant, paired: Sequence[PairedTask], floor: NoiseRecord | None) -> VariantComparison:
    sides = _Sides(a, b, _iterations(a), _iterations(b), floor)
    shown = [metric for metric in METRICS.values() if metric.compared]
    return VariantComparison(
        a,
        b,
        tuple(made for metric in shown if (made := sides.compare(metric)).verdict is not Verdict.NOT_MEASURED),
        tuple(TaskComparison(a.number(task.task), b.number(task.task), task) for task in paired),
    )


def _iterations(variant: Variant) -> list[list[Mapping[str, Any]]]:
    """Samples of performance, one list per iteration; empty if none were kept."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in read_samples(variant.directory, "performance") if variant.performance is not None else ():
        found.setdefault(str(row.get("iteration")), []).append(row)
    return list(found.values())


@dataclass(frozen=True)
class _Sides:
    """Both variants, ready to be compared metric by metric."""

    a: Variant
    b: Variant
    a_iterations: Sequence[Sequence[Mapping[str, Any]]]
    b_iterations: Sequence[Sequence[Mapping[str, Any]]]
    noise: NoiseRecord | None

    def compare(self, metric: Metric) -> MetricComparison:
        before, after = self.a.number(metric), self.b.number(metric)
        made = MetricComparison(metric, before, after, self.a.interval(metric), self.b.interval(metric))
        if before is None and after is None:
            return made
        reason = self._obstacle(metric)
        if reason is None and (before is None or after is None or not before):
            reason = "A is 0" if before == 0 else "measured on one side only"
        if reason is not None or before is None or after is None:
            return replace(made, verdict=Verdict.NOT_COMPARABLE, reason=reason)
        ratio = after / before
        if metric.per_length and lengths_differ(self.b, self.a):
            tokens = " against ".join(f"{variant.tokens_per_request:.1f}" for variant in (self.b, self.a))
            why = f"{tokens} output tokens per request: different work"
            return replace(made, ratio=ratio, verdict=Verdict.CONFOUNDED, reason=why)
        if metric.exact:
            return replace(made, ratio=ratio, interval=(ratio, ratio), verdict=_judge(metric, (ratio, ratio), None))
        interval = self._interval(metric, ratio, made)
        floor = floor_of(self.noise, metric.key)
        return replace(
            made,
            ratio=ratio,
            interval=interval if interval is None or floor is None else widened(interval, floor),
            floor=floor,
            verdict=_judge(metric, interval, floor),
            reason=None if interval else "a single number per side, without an interval",
        )

    def _obstacle(self, metric: Metric) -> str | None:
        if metric.basis is Basis.FILES:
            return None
        if metric is WEIGHTS:
            emulated = "emulated" in (self.a.kernels, self.b.kernels)
            return "emulated kernels load 16-bit weights" if emulated else None
        one_sided = self.a.number(metric) is None or self.b.number(metric) is None
        if one_sided and self.a.counts(metric) and self.b.counts(metric):
            return None
        found = obstacles(metric, self.b, self.a)
        drifted = any(v.performance is not None and v.performance.warmup_stable is False for v in (self.a, self.b))
        if metric.sample is not None and drifted:
            found.append("times still drifted when they were measured")
        return ", ".join(found) or None

    def _interval(self, metric: Metric, ratio: float, made: MetricComparison) -> Interval | None:
        if metric.sample is not None and self.a_iterations and self.b_iterations:
            return self._bootstrapped(metric, ratio)
        if made.a_interval is None or made.b_interval is None:
            return None
        return quotient_interval(ratio, made.b_interval, made.a_interval)

    def _bootstrapped(self, metric: Metric, ratio: float) -> Interval | None:
        before, after = (_clusters(iterations, metric) for iterations in (self.a_iterations, self.b_iterations))
        if not before or not after:
            return None
        if metric is THROUGHPUT:  # tokens per iteration are fixed: its ratio is that of wall times, inverted
            found = stats.bootstrap_ratio(before, after)
            scale = ratio / (_mean(before) / _mean(after)) if found else 1.0
            return None if found is None else (found.low * scale, found.high * scale)
        found = stats.bootstrap_ratio(after, before, metric.statistic)
        return None if found is None else (found.low, found.high)


def _clusters(iterations: Sequence[Sequence[Mapping[str, Any]]], metric: Metric) -> list[list[float]]:
    """The values of a metric, one list per iteration; empty if one is missing. Wall time is one value per iteration."""
    once = metric.sample == "wall_s"
    values = [[row.get(metric.sample or "") for row in (rows[:1] if once else rows)] for rows in iterations]
    if any(not isinstance(value, (int, float)) or not math.isfinite(value) for rows in values for value in rows):
        return []
    return values  # type: ignore[return-value]


def _mean(clusters: Sequence[Sequence[float]]) -> float:
    return math.fsum(value for cluster in clusters for value in cluster) / sum(map(len, clusters))


def _judge(metric: Metric, interval: Interval | None, floor: float | None) -> Verdict:
    """The verdict for an interval of B / A; differences within the noise floor do not count."""
    if interval is None:
        return Verdict.NO_INTERVAL
    if metric.exact and interval == (1.0, 1.0):
        return Verdict.SAME
    if interval[0] <= 1 <= interval[1]:
        return Verdict.UNDECIDED
    low, high = interval if floor is None else widened(interval, floor)
    if low <= 1 <= high:
        return Verdict.NOISE
    higher = low > 1
    if metric.better is None:
        return Verdict.HIGHER if higher else Verdict.LOWER
    return Verdict.BETTER if higher == (metric.better == "higher") else Verdict.WORSE


def floor_from(values: Sequence[float | None], ratios: Sequence[tuple[float, Interval | None]]) -> float | None:
    """The floor of a metric.

    Args:
        values: One a run.
        ratios: Of pairs of runs, each with its interval if there is one.

    Returns:
        A relative change, up or down; None below two runs.
    """
    predicted = stats.repeat_bound([value for value in values if value is not None])
    ends = [end for ratio, interval in ratios for end in (interval or (ratio, ratio))]
    seen = max((max(end, 1 / end) - 1 for end in ends if end > 0), default=None)
    return max((floor for floor in (predicted, seen) if floor is not None), default=None)


def noise_record(runs: Sequence[Variant], margin_pp: float) -> NoiseRecord:
    """The noise floor from two or more measurements of one variant.

    Args:
        runs: The same variant, measured again and again.
        margin_pp: As in `compare`; changes no floor.
    """
    pairs: list[VariantComparison] = [compare(a, b, margin_pp) for a, b in combinations(runs, 2)]
    ratios: dict[str, list[tuple[float, Interval | None]]] = {}
    for made in (metric for each in pairs for metric in each.metrics):
        if made.ratio is not None and not made.metric.exact:
            ratios.setdefault(made.metric.key, []).append((made.ratio, made.interval))
    paired: dict[str, list[PairedTask]] = {}
    for task in (task.paired for each in pairs for task in each.tasks):
        if task.drop_pp is not None:
            paired.setdefault(task.task, []).append(task)
    return NoiseRecord(
        model=runs[0].model,
        precision=runs[0].precision,
        timestamp=environment.now(),
        **{s.name: speed_setting(runs[0], s) for s in settings_of(TPOT) if s.name in NoiseRecord.model_fields},
        metrics={
            key: FloorEntry(values=_values(runs, key), floor=floor_from(_values(runs, key), found))
            for key, found in ratios.items()
        },
        tasks={task: FloorEntry(values=_values(runs, task), floor=_points(_values(runs, task))) for task in paired},
        flips={task: max(p.flips or 0.0 for p in found) for task, found in paired.items()},
    )


def _values(runs: Sequence[Variant], key: str) -> tuple[float | None, ...]:
    return tuple(run.number(key) for run in runs)


def _points(accuracies: Sequence[float | None]) -> float | None:
    """The floor of a drop in percentage points."""
    spread = stats.repeat_spread([value for value in accuracies if value is not None])
    return None if spread is None else spread * 100
