"""Two variants side by side: every metric with interval, ratio and verdict, and every task item by item.

The second variant, B, is judged against the first, A. A ratio is B / A; its 95 % interval comes from resampling the
iterations of both runs (`stats.bootstrap_ratio`) or, if only intervals were recorded, from those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain
from statistics import fmean
from typing import Any

from slim_eval import stats
from slim_eval.analysis.comparability import lengths_differ, obstacles
from slim_eval.analysis.compare.items import give_verdicts, pair
from slim_eval.analysis.compare.noise_floor import noise_floor
from slim_eval.analysis.crossover import MetricCrossover
from slim_eval.analysis.impact import quotient_interval
from slim_eval.analysis.loads import load_of
from slim_eval.metrics import METRICS, THROUGHPUT, WEIGHTS, Basis, Metric
from slim_eval.results.records import NoiseRecord, PairedTask, ServingRecord
from slim_eval.results.store import read_samples
from slim_eval.results.variants import Interval, Variant, ordered_tasks
from slim_eval.utils import short_name

_Iterations = list[list[Mapping[str, Any]]]  # samples of performance, one list per iteration


class MetricVerdict(str, Enum):
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


@dataclass(frozen=True)
class MetricComparison:
    """One metric of two variants, in the units of its column."""

    metric: Metric
    a: float | None
    b: float | None
    a_interval: Interval | None
    b_interval: Interval | None
    verdict: MetricVerdict = MetricVerdict.NOT_COMPARABLE
    reason: str | None = None  # why the verdict could not be reached
    ratio: float | None = None  # B / A; None if it would be meaningless
    interval: Interval | None = None  # 95 %, of the ratio; widened by the noise floor if one is known
    floor: float | None = None  # a relative change
    floor_interval: Interval | None = None  # 95 %, of the floor; None if not known

    @property
    def gain(self) -> float | None:
        """The ratio turned so that above 1 is better: a speed-up; None if neither direction is better."""
        if not self.ratio or self.metric.better is None:
            return None
        return 1 / self.ratio if self.metric.better == "lower" else self.ratio


@dataclass(frozen=True)
class VariantComparison:
    """Two variants: every metric and task that either of them has."""

    a: Variant
    b: Variant
    metrics: tuple[MetricComparison, ...]
    tasks: tuple[PairedTask, ...]
    noise: NoiseRecord | None = None  # the floor that widened the intervals
    load: str | None = None  # that both speeds are of, in words, if several were measured
    #: Whether it compares speed at a further load, and nothing else: the first pair of the two has the rest.
    is_further_load: bool = False
    crossovers: tuple[MetricCrossover, ...] = ()  # between their loads; of the first pair

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called."""
        a, b = (f"{short_name(variant.model)} {variant.precision}" for variant in (self.a, self.b))
        names = (a, b) if a != b else (str(self.a.directory), str(self.b.directory))
        if self.a.level is None and self.b.level is None:
            return names
        a_load, b_load = load_of(self.a), load_of(self.b)
        return f"{names[0]} at {a_load or 'no load'}", f"{names[1]} at {b_load or 'no load'}"


def compare(a: Variant, b: Variant, margin_pp: float) -> VariantComparison:
    """Compare variant B with variant A; as `compare_all`."""
    return compare_all([(a, b)], margin_pp)[0]


def compare_all(pairs: Sequence[tuple[Variant, Variant]], margin_pp: float) -> list[VariantComparison]:
    """Compare pairs of variants that are shown together: p-values of all their tasks are corrected for each other.

    The second of a pair is judged. A drop of `margin_pp` percentage points still counts as equivalent.

    Raises:
        ResultFileError: A file of samples or a noise floor cannot be read.
    """
    floors = [noise_floor(a) or noise_floor(b) for a, b in pairs]
    groups = []
    for (a, b), noise in zip(pairs, floors, strict=True):
        tasks = pair(a, b, ordered_tasks(set(a.accuracy) | set(b.accuracy)))
        for index, task in enumerate(tasks):
            entry = noise.tasks.get(task.task) if noise is not None else None
            if entry is not None and entry.floor and task.interval_pp is not None:
                ends = (task.interval_pp[0] - entry.floor, task.interval_pp[1] + entry.floor)
                tasks[index] = task.model_copy(update={"interval_pp": ends})
        groups.append(tasks)
    found = []
    for (a, b), noise, tasks in zip(pairs, floors, give_verdicts(groups, margin_pp), strict=True):
        samples = _iterations(a), _iterations(b)
        metrics = (_compared(metric, a, b, samples, noise) for metric in METRICS.values() if metric.compared)
        present = tuple(made for made in metrics if made is not None)
        found.append(VariantComparison(a, b, present, tuple(tasks), noise))
    return found


def _iterations(variant: Variant) -> _Iterations:
    if variant.level is not None:
        label = variant.level.label
        rows = [
            row for row in read_samples(variant.directory, "serving")
            if row.get("level") == label and row.get("in_window") is not False and row.get("error") is None
        ]  # fmt: skip
    else:
        rows = read_samples(variant.directory, "performance") if variant.performance is not None else []
    if all(row.get("iteration") is None for row in rows):  # another tool's requests, which had no iterations
        return [list(batch) for batch in stats.batches(rows)]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row.get("iteration")), []).append(row)
    return list(found.values())


def _compared(
    metric: Metric, a: Variant, b: Variant, samples: tuple[_Iterations, _Iterations], noise: NoiseRecord | None
) -> MetricComparison | None:
    """One metric; None if neither side has it."""
    before, after = a.number(metric), b.number(metric)
    if before is None and after is None:
        return None
    if metric.benchmark == ServingRecord.name and None in (a.level, b.level):
        return None  # records of a single load do not have it
    made = MetricComparison(metric, before, after, a.interval(metric), b.interval(metric))
    reason = _obstacle(metric, a, b)
    if reason is not None or not before or after is None:
        return replace(made, reason=reason or ("A is 0" if before == 0 else "measured on one side only"))
    ratio = after / before
    if metric.per_length and lengths_differ(b, a):
        why = f"{b.tokens_per_request:.1f} against {a.tokens_per_request:.1f} output tokens per request: different work"
        return replace(made, ratio=ratio, verdict=MetricVerdict.CONFOUNDED, reason=why)

    floor = None
    if metric.exact:
        interval: Interval | None = (ratio, ratio)
    else:
        interval = _interval(made, ratio, samples)
        entry = noise.metrics.get(metric.key) if noise is not None else None
        if entry is not None:
            floor, made = entry.floor, replace(made, floor_interval=entry.floor_interval)
    if interval is None:
        why = "a single number per side, without an interval"
        return replace(made, ratio=ratio, floor=floor, verdict=MetricVerdict.NO_INTERVAL, reason=why)
    low, high = interval if floor is None else (interval[0] / (1 + floor), interval[1] * (1 + floor))
    if metric.exact and ratio == 1:
        verdict = MetricVerdict.SAME
    elif interval[0] <= 1 <= interval[1]:
        verdict = MetricVerdict.UNDECIDED
    elif low <= 1 <= high:
        verdict = MetricVerdict.NOISE
    elif metric.better is None:
        verdict = MetricVerdict.HIGHER if low > 1 else MetricVerdict.LOWER
    else:
        verdict = MetricVerdict.BETTER if (low > 1) == metric.maximise else MetricVerdict.WORSE
    return replace(made, ratio=ratio, interval=(low, high), floor=floor, verdict=verdict)


def _obstacle(metric: Metric, a: Variant, b: Variant) -> str | None:
    if metric.basis is Basis.FILES:
        return None
    if metric is WEIGHTS:
        if "emulated" in (a.kernels, b.kernels):
            return "emulated kernels load 16-bit weights"
        widened = "weights were loaded in float32: the sizes on disk compare what is stored"
        return ", ".join(obstacles(metric, b, a)) or (None if a.loads_as_stored and b.loads_as_stored else widened)
    if None in (a.number(metric), b.number(metric)) and a.counts(metric) and b.counts(metric):
        return None
    found = obstacles(metric, b, a)
    drifted = any(v.performance is not None and v.performance.warmup_stable is False for v in (a, b))
    if metric.sample is not None and drifted:
        found.append("times still drifted when they were measured")
    return ", ".join(found) or None


def _interval(made: MetricComparison, ratio: float, samples: tuple[_Iterations, _Iterations]) -> Interval | None:
    """The interval of B / A, from the samples of both runs or, if a run kept none, from their own intervals."""
    metric = made.metric

    def of_intervals() -> Interval | None:
        if made.a_interval is None or made.b_interval is None:
            return None
        return quotient_interval(ratio, made.b_interval, made.a_interval)

    if metric.sample is None or not all(samples):
        return of_intervals()
    sides: list[list[list[float]]] = []
    for iterations in samples:
        # Wall time is one value per iteration.
        rows = [rows[:1] for rows in iterations] if metric.sample == "wall_s" else iterations
        made_of = [[row.get(metric.sample) for row in iteration] for iteration in rows]
        if all(value is None for values in made_of for value in values):  # requests under load have no wall time
            return of_intervals()
        if all(row.get("iteration") is None for iteration in iterations for row in iteration):
            # A request of a single token has no time per output token.
            made_of = [known for values in made_of if (known := [value for value in values if value is not None])]
        sides.append(made_of)  # type: ignore[arg-type]
    before, after = sides
    values = chain.from_iterable((*before, *after))
    if not all(sides) or not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        return None
    if metric is THROUGHPUT:  # tokens per iteration are fixed: its ratio is that of wall times, inverted
        found = stats.bootstrap_ratio(before, after)
        scale = ratio / (fmean(chain.from_iterable(before)) / fmean(chain.from_iterable(after))) if found else 1.0
        return None if found is None else (found.low * scale, found.high * scale)
    found = stats.bootstrap_ratio(after, before, metric.statistic)
    return None if found is None else (found.low, found.high)
