"""A measured variant: the records of one model under one scheme, and its numbers by metric.

All code that analyses, compares or draws results reads numbers through `Variant.estimate` and facts through its
properties, never from a file or a dictionary.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

from slim_eval.metrics import ACCURACY_MEAN, J_PER_REQUEST, METRICS, Basis, Change, Metric, task_metric
from slim_eval.results.records import (
    RECORD_CLASSES,
    AccuracyRecord,
    EnergyRecord,
    ErrorRecord,
    ObservedMetrics,
    PerformanceRecord,
    Record,
    ServingLevel,
    ServingRecord,
)
from slim_eval.results.task_sizes import FULL_SIZES
from slim_eval.schemes import DEFAULT_BASELINE, INEXACT_KERNELS
from slim_eval.utils import short_name

Interval = tuple[float, float]

STANDARD_TASKS = ("mmlu", "gsm8k", "hellaswag")
_Z95 = NormalDist().inv_cdf(0.975)
_MOST_FAILED = 0.05  # of the requests of a load: the others were served without what the failed ones ask for


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, in the unit of its metric's key; the interval is None if unknown."""

    value: float
    interval: Interval | None = None

    def scaled(self, factor: float) -> Estimate:
        """The estimate multiplied by a factor, for another unit."""
        ends = None if self.interval is None else (self.interval[0] * factor, self.interval[1] * factor)
        return Estimate(self.value * factor, ends)


@dataclass(frozen=True)
class Evidence:
    """What an accuracy rests on if no outcomes of single items are at hand."""

    items: float  # independent items that are as informative: from the standard error if that is known
    num_items: int | None  # as recorded, or of the full task; None if only the standard error is known
    source: str  # in words, after "interval from": ``the standard error``
    assumed: bool = False  # whether the number of items is the task's full size, because none was recorded


def evidence_of(record: AccuracyRecord) -> Evidence | None:
    """What an accuracy rests on: its standard error, else its number of items, else the full size of its task.

    The full size (`task_sizes.FULL_SIZES`) is assumed only if the record has neither a number of items nor a limit.
    None for a metric that is not a share of right answers, and if nothing is known.
    """
    share = record.accuracy
    if share is None or not 0 <= share <= 1 or not task_metric(record.task, record.metric).is_share:
        return None
    from slim_eval.stats import effective_items  # with numpy, which a table of complete records does without

    error = max((e for e in (record.stderr, record.clustered_stderr) if e is not None), default=None)
    count = record.num_items
    assumed = not count and record.limit is None
    if assumed:
        count = FULL_SIZES.get(record.task)
    by_error, by_count = effective_items(share, error, None), effective_items(share, None, count)
    if by_error is not None:
        return Evidence(by_error, record.num_items, "the standard error")
    if by_count is None:
        return None
    source = f"the task's full size, {count:,} items" if assumed else f"{count:,} items"
    return Evidence(by_count, count, source, assumed)


@dataclass(frozen=True)
class Variant:
    """One model under one scheme, as measured: the records of one folder."""

    directory: Path
    model: str  # hub id or path, as the user gave it
    precision: str  # name of the scheme
    # Record name (``performance``, ``energy``, a task, another benchmark's) -> record, in the order of the benchmarks.
    measured: Mapping[str, Record] = field(default_factory=dict)
    errors: Mapping[str, ErrorRecord] = field(default_factory=dict)  # stage -> why it failed
    name: str = ""  # short label of the model; `labelled` makes it unique among several variants
    derived: Mapping[str, Estimate] = field(default_factory=dict)  # by metric key: from several records or variants
    mean_tasks: tuple[str, ...] = ()  # those of the mean accuracy in `derived`
    level: ServingLevel | None = None  # the load that its speed is of, if it was measured under several

    @classmethod
    def of(cls, directory: Path, records: Sequence[Record | ErrorRecord]) -> Variant:
        """The variant of the given records (at least one)."""
        classes = [*RECORD_CLASSES.values()]
        measured = [record for record in records if not isinstance(record, ErrorRecord)]
        measured.sort(key=lambda r: (classes.index(type(r)) if type(r) in classes else len(classes), r.name))
        errors = {record.stage: record for record in records if isinstance(record, ErrorRecord)}
        first = measured[0] if measured else records[0]
        return cls(directory, first.model, first.precision, {record.name: record for record in measured}, errors)

    @cached_property
    def performance(self) -> PerformanceRecord | None:
        """The record of the performance benchmark; None if it was not measured."""
        return next((record for record in self.records if isinstance(record, PerformanceRecord)), None)

    @cached_property
    def energy(self) -> EnergyRecord | None:
        """The record of the energy benchmark; None if it was not measured."""
        return next((record for record in self.records if isinstance(record, EnergyRecord)), None)

    @cached_property
    def serving(self) -> ServingRecord | None:
        """The record of a server under several loads; None if it was not measured."""
        return next((record for record in self.records if isinstance(record, ServingRecord)), None)

    def at(self, level: ServingLevel) -> Variant:
        """The same variant with the numbers of one level of its serving record in the place of its speed."""
        assert self.serving is not None, "only a variant with levels can be read at one"
        here: dict[str, Record] = {PerformanceRecord.name: self.serving.at(level)}
        if (energy := self.serving.energy_at(level)) is not None:
            here[EnergyRecord.name] = energy
        others = {name: record for name, record in self.measured.items() if name not in here}
        return replace(self, measured={**here, **others}, level=level)

    @cached_property
    def accuracy(self) -> Mapping[str, AccuracyRecord]:
        """Task -> its record; in place of a group for which lm-eval computes no metric, its members."""
        records = [record for record in self.records if isinstance(record, AccuracyRecord)]
        members = {record.task: record.members() for record in records}
        found: dict[str, AccuracyRecord] = {member.task: member for parts in members.values() for member in parts}
        return found | {record.task: record for record in records if not members[record.task]}

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """All records with measurements, in the order of the benchmarks."""
        return tuple(self.measured.values())

    @cached_property
    def base_model(self) -> str:
        """The model that this one was made from; the model itself if no record names another."""
        return next((r.base_model for r in self.records if r.base_model), self.model)

    @cached_property
    def baseline(self) -> str:
        """Name of the scheme that this variant is compared with."""
        return next((r.baseline for r in self.records if r.baseline), DEFAULT_BASELINE)

    @cached_property
    def is_baseline(self) -> bool:
        """Whether it is its model's baseline: of the baseline's scheme, and not made from another model."""
        is_own = self.base_model == self.model and not any(record.is_prequantized for record in self.records)
        return self.precision == self.baseline and is_own

    @cached_property
    def shown_precision(self) -> str:
        """The name of its scheme as shown, with a group size that is not the scheme's own: ``int4 g64``."""
        size = self.fact("group_size")
        return self.precision if size is None else f"{self.precision} g{size}"

    @property
    def label(self) -> str:
        """Its name in a sentence: ``Llama-3.2-3B int8``."""
        return f"{self.name or short_name(self.model)} {self.shown_precision}"

    @cached_property
    def engine(self) -> str | None:
        """The engine that served it, by the performance record; without one, the first that a record names."""
        return self._speed_fact(lambda record: record.engine)

    @cached_property
    def kernels(self) -> str | None:
        """``native`` or ``emulated``, by the performance record; without one, the first known; None if not recorded."""
        return self._speed_fact(lambda record: record.kernels)

    @cached_property
    def hardware(self) -> str | None:
        """GPU and CPU names as one text, by the performance record; without one, the first known."""
        return self._speed_fact(lambda record: record.hardware)

    def _speed_fact(self, read: Callable[[Record], str | None]) -> str | None:
        if self.performance is not None:
            return read(self.performance)
        return next((found for record in self.records if (found := read(record)) is not None), None)

    @property
    def loads_as_stored(self) -> bool:
        """Whether weights are loaded as they are stored: not unpacked by emulation, nor widened to float32."""
        return self.kernels != "emulated" and self._speed_fact(lambda record: record.dtype) != "float32"

    @property
    def is_emulated(self) -> bool:
        """Whether any of its speed or energy was measured on kernels that emulate quantized arithmetic."""
        return any(r is not None and r.kernels == "emulated" for r in (self.performance, self.energy))

    @cached_property
    def invalid(self) -> Mapping[str, tuple[str, ...]]:
        """Records that are marked invalid, or whose requests failed too often, by name, with the reasons."""
        found = {
            name: record.invalid_reasons for name, record in self.measured.items()
            if isinstance(record, ObservedMetrics) and record.valid is False
        }  # fmt: skip
        if (share := self.failed_share) is not None and share > _MOST_FAILED:
            words = f"{100 * share:.0f} % of the requests failed, and the numbers are of the others alone"
            found[PerformanceRecord.name] = (*found.get(PerformanceRecord.name, ()), words)
        return found

    @property
    def failed_share(self) -> float | None:
        """Share of the requests that failed while speed was measured; None if no number of failures is known."""
        record = self.performance
        if record is None or record.num_errors is None or not (total := record.num_errors + (record.num_runs or 0)):
            return None
        return record.num_errors / total

    @property
    def tokens_per_request(self) -> float | None:
        """Output tokens per request; amortised latency x throughput if not recorded."""
        record = self.performance
        if record is None:
            return None
        if record.output_tokens is None and record.mean_latency_s is not None and record.tokens_per_second is not None:
            return record.mean_latency_s * record.tokens_per_second
        return record.output_tokens

    def fact(self, key: str) -> Any:
        """The first known value of a field of `records.Metadata` in its records; None if there is none."""
        return next((v for record in self.records if (v := getattr(record, key, None)) is not None), None)

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What was worked out from this variant, which never changes; tables and figures ask for it many times."""
        return {}

    def estimate(self, metric: Metric | str) -> Estimate | None:
        """A number with its interval; None if it was not measured.

        That of an accuracy whose record has none: ±1.96 standard errors, else the binomial one of `evidence_of`.
        """
        key, memo = metric if isinstance(metric, str) else metric.key, self.memo
        if key not in memo:
            memo[key] = self.derived[key] if key in self.derived else self._measured(key)
        found: Estimate | None = memo[key]
        return found

    def _measured(self, key: str) -> Estimate | None:
        row, value, ends = METRICS.get(key), None, None
        if row is None:
            task = self.accuracy.get(key)
            if task is not None and task.accuracy is not None:
                value, ends = task.accuracy, task.intervals.get("accuracy")
                if ends is None and task.stderr:
                    ends = (value - _Z95 * task.stderr, value + _Z95 * task.stderr)
                elif ends is None and (evidence := evidence_of(task)) is not None:
                    from slim_eval.stats import score_interval

                    found = score_interval(value, evidence.items)
                    ends = (found.low, found.high)
        elif row.compute is not None:
            value = row.compute(self)
        elif row.benchmark is None:
            value = self.fact(key)
        else:
            record = self.level if row.benchmark == ServingRecord.name else self.measured.get(row.benchmark)
            value, ends = getattr(record, key, None), getattr(record, "intervals", {}).get(key)
            if row is J_PER_REQUEST and ends is None and value is not None and self.energy is not None:
                # The energy of the window over its requests, whose number is certain.
                whole, window = self.energy.energy_joules, self.energy.intervals.get("energy_joules")
                ends = None if window is None or not whole else (window[0] * value / whole, window[1] * value / whole)
        if value is None or isinstance(value, bool) or not math.isfinite(value):
            return None
        return Estimate(float(value), ends)

    @cached_property
    def assumed_tasks(self) -> tuple[str, ...]:
        """Tasks whose interval takes the number of items from the full size of the task."""
        return tuple(
            task for task, record in self.accuracy.items()
            if "accuracy" not in record.intervals and (found := evidence_of(record)) is not None and found.assumed
        )  # fmt: skip

    def number(self, metric: Metric | str) -> float | None:
        """A number in the unit of the metric's key; None if it was not measured."""
        found = self.estimate(metric)
        return None if found is None else found.value

    def interval(self, metric: Metric | str) -> Interval | None:
        """The 95 % interval of a number; None if it has none."""
        found = self.estimate(metric)
        return None if found is None else found.interval

    def counts(self, metric: Metric) -> bool:
        """Whether a number of the metric may be used; see `flaw`."""
        return self.flaw(metric) is None

    def flaw(self, metric: Metric) -> str | None:
        """Why a number of the metric may not be used, after the name of the measurement; None if it may.

        One of an invalid record may not, and neither may an accuracy measured on an inexact kernel.
        """
        if self._is_invalid(metric):
            why = self.reasons(metric)
            return "is marked invalid" + (f" ({', '.join(why)})" if why else "")
        return "used inexact kernels" if self.used_inexact_kernels(metric) else None

    def _is_invalid(self, metric: Metric) -> bool:
        # The size of the weights does not depend on how the window went: it counts.
        if not self.invalid or metric.basis in (Basis.LOADED, Basis.FILES):
            return False
        return self._record_name(metric) in self.invalid

    def _record_name(self, metric: Metric) -> str:
        """Name of the record that decides whether a number is valid: of a level, that of its speed."""
        return PerformanceRecord.name if metric.benchmark == ServingRecord.name else metric.benchmark or ""

    def reasons(self, metric: Metric) -> tuple[str, ...]:
        """Why the record of a metric is invalid; empty if it is not, or if it gives no reason."""
        return self.invalid.get(self._record_name(metric), ()) if self._is_invalid(metric) else ()

    def used_inexact_kernels(self, metric: Metric) -> bool:
        """Whether a task was measured on a kernel whose products are not those of the scheme."""
        task = self.accuracy.get(metric.benchmark or "") if metric.basis is Basis.TASK else None
        return task is not None and task.kernels == INEXACT_KERNELS

    @property
    def is_inexact(self) -> bool:
        """Whether any of its accuracies was measured on such a kernel."""
        return any(record.kernels == INEXACT_KERNELS for record in self.accuracy.values())


def config_value(record: Record, key: str) -> Any:
    """A setting of the run, from its benchmark's own config or from the whole run's; None if not recorded."""
    config = record.config or {}
    parts = (config, config.get("performance"), config.get("energy"))
    return next((part[key] for part in parts if isinstance(part, Mapping) and part.get(key) is not None), None)


def by_model(variants: Iterable[Variant]) -> dict[str, list[Variant]]:
    """The variants of each base model, so that few are searched for a baseline."""
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        found.setdefault(variant.base_model, []).append(variant)
    return found


def tasks_of(variants: Iterable[Variant]) -> tuple[str, ...]:
    """All accuracy tasks that were measured, in the order in which they are shown."""
    return ordered_tasks(task for variant in variants for task in variant.accuracy)


def ordered_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """Tasks with the standard ones first, in their usual order, then the others by name."""
    found = set(tasks)
    return (*(task for task in STANDARD_TASKS if task in found), *sorted(found.difference(STANDARD_TASKS)))


def labelled(variants: Sequence[Variant]) -> list[Variant]:
    """The variants with short names, so that (name, precision) is unique."""
    models = {variant.model for variant in variants}
    shared = Counter(short_name(model).casefold() for model in models)
    names = [v.model if shared[short_name(v.model).casefold()] > 1 else short_name(v.model) for v in variants]
    repeated = Counter((name, variant.precision) for name, variant in zip(names, variants, strict=True))
    for name in {name for (name, _), count in repeated.items() if count > 1}:
        # Several runs of one model are named after the folders in which they differ, ``run1`` and ``run2``.
        mine = [index for index, other in enumerate(names) if other == name]
        folders = [variants[index].directory.parent for index in mine]
        if len({(folder, variants[index].precision) for folder, index in zip(folders, mine, strict=True)}) < len(mine):
            folders = [variants[index].directory for index in mine]
        common = os.path.commonpath(folders)
        places = [folder.relative_to(common).parts for folder in folders]
        while all(len(parts) > 1 for parts in places) and len({parts[-1] for parts in places}) == 1:
            places = [parts[:-1] for parts in places]
        for index, parts in zip(mine, places, strict=True):
            names[index] = f"{name} ({'/'.join(parts) or '.'})"
    return [replace(variant, name=name) for variant, name in zip(variants, names, strict=True)]


def metric_of(key: str, variants: Iterable[Variant]) -> Metric:
    """The row of a metric or task by its key; a task's direction and unit come from the records of the variants.

    If they were scored by metrics of different units or directions, or name opposite directions for the same one, no
    direction is better.
    """
    if key in METRICS:
        return METRICS[key]
    records: dict[str | None, list[AccuracyRecord]] = {}
    for variant in variants:
        if key in variant.accuracy and variant.accuracy[key].accuracy is not None:
            records.setdefault(variant.accuracy[key].metric, []).append(variant.accuracy[key])
    rows: dict[Metric, None] = {}
    for name, mine in records.items():
        stated = {record.higher_is_better for record in mine} - {None}
        row = task_metric(key, name, next(iter(stated), None), [record.accuracy or 0.0 for record in mine])
        rows[row if len(stated) < 2 else replace(row, better=None)] = None
    if len(rows) < 2:
        return next(iter(rows), task_metric(key))
    units = dict.fromkeys(row.unit for row in rows)
    return replace(next(iter(rows)), unit=" or ".join(units), scale=1.0, decimals=3, better=None, change=Change.AMOUNT)


def with_accuracy_mean(variants: Sequence[Variant], tasks: Sequence[str] | None = None) -> list[Variant]:
    """Variants with their mean accuracy over `tasks`, by default all; those that already have it are unchanged.

    The mean is over the same tasks in every variant: all tasks shown that are shares of correct answers or, if no
    variant has all of them, the largest set that any variant has. A variant without one of them has no mean.

    The mean is ``accuracy_mean`` in `derived`, its tasks `mean_tasks`. It has an interval if each task has one: the
    distances of the tasks' ends from their accuracies are added in quadrature, because tasks share no items (MOVER; Zou
    and Donner 2008, Statistics in Medicine 27:1693).
    """
    if any(variant.mean_tasks for variant in variants):
        return list(variants)
    named = tasks_of(variants) if tasks is None else tasks
    shown = [task for task in named if metric_of(task, variants).is_accuracy]
    sets = [tuple(task for task in shown if variant.number(task) is not None) for variant in variants]
    # Of two sets of one size the one that more variants have, then the first.
    mean_of = max(dict.fromkeys(sets), key=lambda found: (len(found), sets.count(found)), default=())
    found = []
    for variant in variants:
        derived = dict(variant.derived)
        counted = [] if variant.is_inexact else mean_of
        parts = [estimate for task in counted if (estimate := variant.estimate(task)) is not None]
        if parts and len(parts) == len(mean_of):
            mean = sum(part.value for part in parts) / len(parts)
            ends = [(part.value, part.interval) for part in parts if part.interval is not None]
            below, above = (math.hypot(*(value - interval[k] for value, interval in ends)) for k in (0, 1))
            interval = (mean - below / len(parts), mean + above / len(parts))
            derived[ACCURACY_MEAN.key] = Estimate(mean, interval if len(ends) == len(parts) else None)
        found.append(replace(variant, mean_tasks=mean_of, derived=derived))
    return found
