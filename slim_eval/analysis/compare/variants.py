"""Two variants beside each other: every metric with interval, ratio and verdict, and every task item by item.

The first variant, A, is the one that the second, B, is held against. A ratio is B / A; its 95 % interval comes from
resampling the iterations of both runs (`stats.bootstrap_ratio`), or, where only intervals were recorded, from those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from slim_eval import stats
from slim_eval.analysis.compare import floor as noise
from slim_eval.analysis.compare.items import judged, pair
from slim_eval.analysis.compare.metrics import METRICS, Kind, Metric
from slim_eval.analysis.rules import ends, energy_obstacles, lengths_differ, quotient_interval, speed_obstacles
from slim_eval.results.records import NoiseRecord, PairedTask
from slim_eval.results.rows import Row, ordered_tasks, rows_of
from slim_eval.results.store import Variant, read_samples
from slim_eval.utils import short_name

Ends = tuple[float, float]


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
        ratio: B / A; None where it would mean nothing.
        interval: 95 % interval of the ratio, widened by the noise floor where one is known.
        floor: That floor, a relative change.
        reason: Why the verdict is no verdict.
    """

    metric: Metric
    a: float | None
    b: float | None
    a_interval: Ends | None = None
    b_interval: Ends | None = None
    ratio: float | None = None
    interval: Ends | None = None
    floor: float | None = None
    verdict: Verdict = Verdict.NOT_MEASURED
    reason: str | None = None

    @property
    def gain(self) -> float | None:
        """The ratio turned so that above 1 is better: a speed-up; None where neither way is better."""
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
        pairs: What is compared with, e.g. the 16-bit variant, and what is judged.
        margin_pp: Drop in percentage points that still counts as equivalent.

    Raises:
        ResultFileError: A file of samples or a noise floor cannot be read.
    """
    floors = [noise.of_variants(a, b) for a, b in pairs]
    tasks = [
        [noise.widened_task(task, floor) for task in pair(a, b, ordered_tasks(set(a.accuracy) | set(b.accuracy)))]
        for (a, b), floor in zip(pairs, floors, strict=True)
    ]
    return [
        _compared(a, b, found, floor)
        for (a, b), found, floor in zip(pairs, judged(tasks, margin_pp), floors, strict=True)
    ]


def _compared(a: Variant, b: Variant, paired: Sequence[PairedTask], floor: NoiseRecord | None) -> VariantComparison:
    rows = rows_of([a, b], [task.task for task in paired])
    sides = _Sides(rows[0], rows[1], _iterations(a), _iterations(b), floor)
    return VariantComparison(
        a,
        b,
        tuple(made for metric in METRICS if (made := sides.compare(metric)).verdict is not Verdict.NOT_MEASURED),
        tuple(TaskComparison(rows[0][task.task], rows[1][task.task], task) for task in paired),
    )


def _iterations(variant: Variant) -> list[list[Mapping[str, Any]]]:
    """Samples of performance, a list an iteration; empty where none were kept."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in read_samples(variant.directory, "performance") if variant.performance is not None else ():
        found.setdefault(str(row.get("iteration")), []).append(row)
    return list(found.values())


@dataclass(frozen=True)
class _Sides:
    """Both variants, ready to be compared metric by metric."""

    a: Row
    b: Row
    a_iterations: Sequence[Sequence[Mapping[str, Any]]]
    b_iterations: Sequence[Sequence[Mapping[str, Any]]]
    noise: NoiseRecord | None

    def compare(self, metric: Metric) -> MetricComparison:
        before, after = self.a.get(metric.key), self.b.get(metric.key)
        made = MetricComparison(metric, before, after, ends(self.a, metric.key), ends(self.b, metric.key))
        if before is None and after is None:
            return made
        reason = self._obstacle(metric)
        if reason is not None:
            return _with(made, verdict=Verdict.NOT_COMPARABLE, reason=reason)
        if before is None or after is None or not before:
            why = "A is 0" if before == 0 else "measured on one side only"
            return _with(made, verdict=Verdict.NOT_COMPARABLE, reason=why)
        ratio = after / before
        if metric.per_length and lengths_differ(self.b, self.a):
            tokens = " against ".join(f"{row['tokens_per_request']:.1f}" for row in (self.b, self.a))
            return _with(
                made, ratio=ratio, verdict=Verdict.CONFOUNDED, reason=f"{tokens} output tokens a request: other work"
            )
        if metric.exact:
            return _with(made, ratio=ratio, interval=(ratio, ratio), verdict=_judge(metric, (ratio, ratio), None))
        interval = self._interval(metric, ratio, made)
        floor = noise.floor_of(self.noise, metric.key)
        widened = interval if interval is None or floor is None else noise.widened(interval, floor)
        return _with(
            made, ratio=ratio, interval=widened, floor=floor, verdict=_judge(metric, interval, floor),
            reason=None if interval else "a single number a side, without an interval",
        )  # fmt: skip

    def _obstacle(self, metric: Metric) -> str | None:
        if metric.kind is Kind.SIZE:
            emulated = metric.key == "weights_gb" and "emulated" in (self.a["kernels"], self.b["kernels"])
            return "emulated kernels load 16-bit weights" if emulated else None
        find = speed_obstacles if metric.kind is Kind.SPEED else energy_obstacles
        found = find(self.b, self.a)
        if metric.sample is not None and False in (self.a["warmup_stable"], self.b["warmup_stable"]):
            found.append("times still drifted when they were measured")
        if metric.key == "energy_joules" and self.a["energy_num_runs"] != self.b["energy_num_runs"]:
            found.append(f"requests {self.b['energy_num_runs']} against {self.a['energy_num_runs']}")
        return ", ".join(found) or None

    def _interval(self, metric: Metric, ratio: float, made: MetricComparison) -> Ends | None:
        if metric.sample is not None and self.a_iterations and self.b_iterations:
            return self._bootstrapped(metric, ratio)
        if made.a_interval is None or made.b_interval is None:
            return None
        return quotient_interval(ratio, made.b_interval, made.a_interval)

    def _bootstrapped(self, metric: Metric, ratio: float) -> Ends | None:
        before, after = (_clusters(iterations, metric) for iterations in (self.a_iterations, self.b_iterations))
        if not before or not after:
            return None
        if (
            metric.key == "tokens_per_second"
        ):  # tokens an iteration are fixed: its ratio is that of wall times, inverted
            found = stats.bootstrap_ratio(before, after)
            scale = ratio / (_mean(before) / _mean(after)) if found else 1.0
            return None if found is None else (found.low * scale, found.high * scale)
        found = stats.bootstrap_ratio(after, before, metric.statistic)
        return None if found is None else (found.low, found.high)


def _with(made: MetricComparison, **changes: Any) -> MetricComparison:
    return MetricComparison(**{**made.__dict__, **changes})


def _clusters(iterations: Sequence[Sequence[Mapping[str, Any]]], metric: Metric) -> list[list[float]]:
    """The values of a metric, a list an iteration; empty where one is missing. Wall time is one value an iteration."""
    once = metric.sample == "wall_s"
    values = [[row.get(metric.sample or "") for row in (rows[:1] if once else rows)] for rows in iterations]
    if any(not isinstance(value, (int, float)) or not math.isfinite(value) for rows in values for value in rows):
        return []
    return values  # type: ignore[return-value]


def _mean(clusters: Sequence[Sequence[float]]) -> float:
    return math.fsum(value for cluster in clusters for value in cluster) / sum(map(len, clusters))


def _judge(metric: Metric, interval: Ends | None, floor: float | None) -> Verdict:
    """What an interval of B / A says; a difference that the noise floor explains is none."""
    if interval is None:
        return Verdict.NO_INTERVAL
    if metric.exact and interval == (1.0, 1.0):
        return Verdict.SAME
    if interval[0] <= 1 <= interval[1]:
        return Verdict.UNDECIDED
    low, high = interval if floor is None else noise.widened(interval, floor)
    if low <= 1 <= high:
        return Verdict.NOISE
    higher = low > 1
    if metric.better is None:
        return Verdict.HIGHER if higher else Verdict.LOWER
    return Verdict.BETTER if higher == (metric.better == "higher") else Verdict.WORSE
