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
from typing import Any, TypeVar

from slim_eval.metrics import ACCURACY_MEAN, J_PER_REQUEST, METRICS, Metric, is_loss, task_metric
from slim_eval.results.records import (
    AccuracyRecord,
    EnergyRecord,
    ErrorRecord,
    PerformanceRecord,
    Record,
    record_order,
)
from slim_eval.schemes import DEFAULT_BASELINE
from slim_eval.utils import short_name

RecordT = TypeVar("RecordT", bound=Record)
Interval = tuple[float, float]

STANDARD_TASKS = ("mmlu", "gsm8k", "hellaswag")
_Z95 = NormalDist().inv_cdf(0.975)


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
class Variant:
    """One model under one scheme, as measured: the records of one folder.

    Attributes:
        directory: The folder.
        model: Hub id or path, as the user gave it.
        precision: Name of the scheme.
        measured: Record name (``performance``, ``energy``, a task, another benchmark's) -> record, in file order.
        errors: Stage -> why it failed.
        name: Short label of the model; `labelled` makes it unique among several variants.
        derived: Metric key -> a number that was computed from several records or variants.
        mean_tasks: The tasks of the mean accuracy in `derived`.
    """

    directory: Path
    model: str
    precision: str
    measured: Mapping[str, Record] = field(default_factory=dict)
    errors: Mapping[str, ErrorRecord] = field(default_factory=dict)
    name: str = ""
    derived: Mapping[str, Estimate] = field(default_factory=dict)
    mean_tasks: tuple[str, ...] = ()

    @classmethod
    def of(cls, directory: Path, records: Sequence[Record | ErrorRecord]) -> Variant:
        """The variant of the given records (at least one)."""
        measured = [record for record in records if not isinstance(record, ErrorRecord)]
        return cls(
            directory=directory,
            model=records[0].model,
            precision=records[0].precision,
            measured={record.name: record for record in sorted(measured, key=record_order)},
            errors={record.stage: record for record in records if isinstance(record, ErrorRecord)},
        )

    # Records

    @cached_property
    def performance(self) -> PerformanceRecord | None:
        """The record of the performance benchmark; None if it was not measured."""
        return self._of_kind(PerformanceRecord)

    @cached_property
    def energy(self) -> EnergyRecord | None:
        """The record of the energy benchmark; None if it was not measured."""
        return self._of_kind(EnergyRecord)

    @cached_property
    def accuracy(self) -> Mapping[str, AccuracyRecord]:
        """Task -> its record."""
        return {record.task: record for record in self.measured.values() if isinstance(record, AccuracyRecord)}

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """All records with measurements, in the order of the benchmarks."""
        return tuple(self.measured.values())

    # The role of the baseline

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
        """Whether its model's other variants are compared with it: the baseline's scheme, on unquantized weights.

        A checkpoint that came quantized and was measured as-is is not a baseline, whatever its scheme is called.
        """
        return self.precision == self.baseline and not any(record.is_prequantized for record in self.records)

    # Facts

    @property
    def label(self) -> str:
        """Its name in a sentence: ``Llama-3.2-3B int8``."""
        return f"{self.name or short_name(self.model)} {self.precision}"

    @cached_property
    def engine(self) -> str | None:
        """The engine that served it; from the performance record if there are several."""
        return self._speed_fact(lambda record: record.engine)

    @cached_property
    def kernels(self) -> str | None:
        """``native`` or ``emulated``; None if not recorded."""
        return self._speed_fact(lambda record: record.kernels)

    @cached_property
    def hardware(self) -> str | None:
        """GPU and CPU names as one text; from the performance record if there are several."""
        return self._speed_fact(lambda record: record.hardware)

    @property
    def is_emulated(self) -> bool:
        """Whether any of its speed or energy was measured on kernels that emulate quantized arithmetic."""
        return any(r is not None and r.kernels == "emulated" for r in (self.performance, self.energy))

    @property
    def valid(self) -> bool | None:
        """Whether its energy record is valid; None if not measured or not recorded."""
        return None if self.energy is None else self.energy.valid

    @property
    def invalid_reasons(self) -> tuple[str, ...]:
        """Why its energy record is invalid."""
        return () if self.energy is None else self.energy.invalid_reasons

    @property
    def tokens_per_request(self) -> float | None:
        """Output tokens per request; amortised latency x throughput if not recorded."""
        record = self.performance
        if record is None:
            return None
        if record.output_tokens is not None:
            return record.output_tokens
        if record.mean_latency_s is None or record.tokens_per_second is None:
            return None
        return record.mean_latency_s * record.tokens_per_second

    def _speed_fact(self, read: Callable[[Record], str | None]) -> str | None:
        """A fact of the performance record, whatever measured the rest; without one, the first that is known."""
        if self.performance is not None:
            return read(self.performance)
        return next((found for record in self.records if (found := read(record)) is not None), None)

    def fact(self, key: str) -> Any:
        """The first known value of a field of `records.Metadata` in its records; None if there is none."""
        return next((v for record in self.records if (v := getattr(record, key, None)) is not None), None)

    # Numbers

    def metric(self, key: str) -> Metric:
        """The row of a metric or task by its key; a task's direction comes from this variant's record."""
        found = METRICS.get(key)
        if found is not None:
            return found
        record = self.accuracy.get(key)
        return task_metric(key, None if record is None else record.metric)

    def estimate(self, metric: Metric | str) -> Estimate | None:
        """A number with its interval; None if it was not measured.

        If an accuracy was recorded with only a standard error, its interval is ±1.96 standard errors.
        """
        key = metric if isinstance(metric, str) else metric.key
        if key not in self.memo:
            self.memo[key] = self._estimate(key)
        found: Estimate | None = self.memo[key]
        return found

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What was worked out from this variant, which never changes; tables and figures ask for it many times."""
        return {}

    def _estimate(self, key: str) -> Estimate | None:
        if key in self.derived:
            return self.derived[key]
        row = METRICS.get(key)
        if row is None:
            return self._accuracy(key)
        if row.compute is not None:
            value = row.compute(self)
            return None if value is None or not math.isfinite(value) else Estimate(float(value))
        if row.benchmark is None:
            value = self.fact(key)
            return None if value is None else Estimate(float(value))
        record = self.measured.get(row.benchmark)
        value = getattr(record, key, None)
        if value is None or isinstance(value, bool) or not math.isfinite(value):
            return None
        ends = getattr(record, "intervals", {}).get(key)
        if ends is None and row is J_PER_REQUEST:
            ends = self._request_ends(float(value))
        return Estimate(float(value), ends)

    def number(self, metric: Metric | str) -> float | None:
        """A number in the unit of the metric's key; None if it was not measured."""
        found = self.estimate(metric)
        return None if found is None else found.value

    def interval(self, metric: Metric | str) -> Interval | None:
        """The 95 % interval of a number; None if it has none."""
        found = self.estimate(metric)
        return None if found is None else found.interval

    def counts(self, metric: Metric) -> bool:
        """Whether a number of the metric may be used; energy from an invalid record may not."""
        return not (metric.is_energy and self.valid is False)

    def _accuracy(self, task: str) -> Estimate | None:
        record = self.accuracy.get(task)
        if record is None or record.accuracy is None:
            return None
        ends = record.intervals.get("accuracy")
        if ends is None and record.stderr is not None:
            ends = (record.accuracy - _Z95 * record.stderr, record.accuracy + _Z95 * record.stderr)
        return Estimate(record.accuracy, ends)

    def _request_ends(self, value: float) -> Interval | None:
        """Energy per request is the window's energy over its requests, whose number is certain."""
        whole = None if self.energy is None else self.energy.energy_joules
        ends = None if self.energy is None else self.energy.intervals.get("energy_joules")
        return None if ends is None or not whole else (ends[0] * value / whole, ends[1] * value / whole)

    def _of_kind(self, kind: type[RecordT]) -> RecordT | None:
        return next((record for record in self.measured.values() if isinstance(record, kind)), None)


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


def baseline_of(variant: Variant, variants: Iterable[Variant]) -> Variant | None:
    """The baseline of a variant's model, from the same run if there are several; None if there is none."""
    found = [v for v in variants if v.is_baseline and v.precision == variant.baseline and v.model == variant.base_model]
    return min(found, key=lambda other: other.name != variant.name, default=None)


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
        mine = [index for index, other in enumerate(names) if other == name]
        for index, place in zip(mine, _places([variants[index] for index in mine]), strict=True):
            names[index] = f"{name} ({place})"
    return [replace(variant, name=name) for variant, name in zip(variants, names, strict=True)]


def losses(variants: Iterable[Variant], tasks: Iterable[str]) -> set[str]:
    """The tasks for which lower is better, by the headline metric that any of the variants recorded."""
    known = list(variants)
    return {task for task in tasks if any(is_loss(v.accuracy[task].metric) for v in known if task in v.accuracy)}


def metric_of(key: str, variants: Iterable[Variant]) -> Metric:
    """The row of a metric or task by its key; a task's direction comes from the records of the variants."""
    if key in METRICS:
        return METRICS[key]
    found = (variant.accuracy[key].metric for variant in variants if key in variant.accuracy)
    return task_metric(key, next((metric for metric in found if is_loss(metric)), None))


def with_accuracy_mean(variants: Sequence[Variant], tasks: Sequence[str] | None = None) -> list[Variant]:
    """Variants with their mean accuracy; those that already have it are returned unchanged.

    The mean is over the same tasks in every variant: all tasks shown that are shares of correct answers or, if no
    variant has all of them, the largest set that any variant has. A variant without one of them has no mean.

    Args:
        variants: The variants of an analysis.
        tasks: Tasks to average; those of the variants by default.

    Returns:
        New variants, with ``accuracy_mean`` in `derived` and its tasks in `mean_tasks`. It has an interval if each
        task has one: the distances of the tasks' ends from their accuracies are added in quadrature, because tasks
        share no items (MOVER; Zou and Donner 2008, Statistics in Medicine 27:1693).
    """
    if any(variant.mean_tasks for variant in variants):
        return list(variants)
    named = tasks_of(variants) if tasks is None else tuple(tasks)
    shown = [task for task in named if task not in losses(variants, named)]
    sets = [tuple(task for task in shown if variant.number(task) is not None) for variant in variants]
    # Of two sets of one size the one that more variants have, then the first.
    mean_of = max(dict.fromkeys(sets), key=lambda found: (len(found), sets.count(found)), default=())
    return [
        replace(
            variant,
            mean_tasks=mean_of,
            derived={
                **variant.derived,
                **({} if (mean := _mean(variant, mean_of)) is None else {ACCURACY_MEAN.key: mean}),
            },
        )
        for variant in variants
    ]


def _mean(variant: Variant, tasks: Sequence[str]) -> Estimate | None:
    found = [estimate for task in tasks if (estimate := variant.estimate(task)) is not None]
    if not tasks or len(found) < len(tasks):
        return None
    mean = sum(each.value for each in found) / len(found)
    ends = [(each.value, each.interval) for each in found if each.interval is not None]
    if len(ends) < len(found):
        return Estimate(mean)
    below, above = (math.hypot(*(value - interval[k] for value, interval in ends)) for k in (0, 1))
    return Estimate(mean, (mean - below / len(tasks), mean + above / len(tasks)))


def _places(variants: Sequence[Variant]) -> list[str]:
    """The place of each of several runs of one model: the folder names in which they differ, ``run1`` and ``run2``."""
    parents = [variant.directory.parent for variant in variants]
    keys = {(parent, variant.precision) for parent, variant in zip(parents, variants, strict=True)}
    folders = parents if len(keys) == len(variants) else [variant.directory for variant in variants]
    common = Path(os.path.commonpath([str(folder) for folder in folders]))
    relative = [folder.relative_to(common).parts for folder in folders]
    while all(len(parts) > 1 for parts in relative) and len({parts[-1] for parts in relative}) == 1:
        relative = [parts[:-1] for parts in relative]
    return ["/".join(parts) or "." for parts in relative]
