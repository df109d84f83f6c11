"""Variants as flat rows, without pandas: what the tables, the plots and the terminal are all made from.

One row a configuration. Keys are those of the records (units in the name); energy's keys that performance has too get
the prefix ``energy_``; a task's keys get its name as prefix. What was not measured is None.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slim_eval.results.records import AccuracyRecord, EnergyMetrics, Intervals, Metadata, PerformanceMetrics
from slim_eval.results.variants import Variant
from slim_eval.utils import short_name

Row = dict[str, Any]

STANDARD_TASKS = ("mmlu", "gsm8k", "hellaswag")
IDENTITY = (
    "model", "name", "precision", "engine", "engine_version", "dtype", "kernels", "hardware", "quantization_scheme",
    "directory", "revision", "timestamp", "num_parameters", "num_parameters_b", "model_size_gb",
)  # fmt: skip
# What a task's columns are called after its name; the first is the headline accuracy, a share from 0 to 1.
TASK_SUFFIXES = (
    "", "_metric", "_stderr", "_num_items", "_num_fewshot", "_limit", "_apply_chat_template", "_version", "_items_hash",
    "_ci95_low", "_ci95_high",
)  # fmt: skip
_METADATA = tuple(key for key in IDENTITY if key in Metadata.model_fields)
_NESTED = {"intervals", "concurrency_by_context", "throttle_reasons"}
_PERFORMANCE = tuple(key for key in PerformanceMetrics.model_fields if key not in _NESTED)
_ENERGY = {
    key: f"energy_{key}" if key in _PERFORMANCE else key for key in EnergyMetrics.model_fields if key not in _NESTED
}
#: Metrics with an interval; each has the columns ``{metric}_ci95_low`` and ``{metric}_ci95_high``.
INTERVAL_METRICS = (
    "ttft_s", "tpot_s", "e2e_latency_s", "mean_latency_s", "tokens_per_second", "energy_joules",
    "joules_per_output_token", "avg_power_watts",
)  # fmt: skip
_INTERVALS = tuple(f"{key}_ci95_{end}" for key in INTERVAL_METRICS for end in ("low", "high"))
_SETTINGS = ("max_new_tokens", "load", "tokens_per_request")
_ENERGY_SETTINGS = ("energy_engine", "energy_kernels", "energy_hardware", "energy_max_new_tokens")
METRIC_COLUMNS = (*_PERFORMANCE, *_SETTINGS, *_ENERGY.values(), *_ENERGY_SETTINGS, *_INTERVALS)


def rows_of(variants: Sequence[Variant], tasks: Sequence[str] | None = None) -> list[Row]:
    """One flat row a variant; every row has the same keys in the same order.

    Args:
        variants: Variants as `results.find_results` reads them.
        tasks: Tasks to take in; all that were measured by default.

    Returns:
        Rows in the order of the variants. ``name`` is the model's short name, made unique where two models share it.
    """
    shown = ordered_tasks(task for variant in variants for task in variant.accuracy) if tasks is None else tasks
    names = _labels(variants)
    return [_row(variant, name, shown) for variant, name in zip(variants, names, strict=True)]


def by_model(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each model, so that baselines are looked for among few."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row)
    return found


def tasks_of(keys: Iterable[str]) -> tuple[str, ...]:
    """The tasks that a row or table has, from its keys."""
    known = list(keys)
    suffix = "_items_hash"
    return tuple(key.removesuffix(suffix) for key in known if key.endswith(suffix))


def ordered_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """The standard tasks first, in their usual order, then the others by name."""
    found = set(tasks)
    return (*(task for task in STANDARD_TASKS if task in found), *sorted(found.difference(STANDARD_TASKS)))


def _row(variant: Variant, name: str, tasks: Sequence[str]) -> Row:
    row: Row = dict.fromkeys((*IDENTITY, *METRIC_COLUMNS))
    for record in reversed(variant.records):  # the first record that knows a thing has the last word
        row.update({key: value for key in _METADATA if (value := getattr(record, key)) is not None})
        if (where := _hardware(record)) is not None:
            row["hardware"] = where
    row.update(model=variant.model, name=name, precision=variant.precision, directory=str(variant.directory))
    if variant.performance is not None:
        row.update(variant.performance.model_dump(include=set(_PERFORMANCE)))
        # Speed was measured by this record's engine, whatever measured the rest.
        row.update(engine=variant.performance.engine, kernels=variant.performance.kernels)
        row.update(hardware=_hardware(variant.performance))
        row.update(max_new_tokens=_setting(variant.performance, "max_new_tokens"), tokens_per_request=_tokens(variant))
        row.update(load=_setting(variant.performance, "load"))
    if variant.energy is not None:
        row.update({_ENERGY[key]: value for key, value in variant.energy.model_dump(include=set(_ENERGY)).items()})
        row.update(energy_engine=variant.energy.engine, energy_kernels=variant.energy.kernels)
        row.update(energy_hardware=_hardware(variant.energy))
        row.update(energy_max_new_tokens=_setting(variant.energy, "max_new_tokens"))
    for measured in (variant.performance, variant.energy):
        row.update(_ends(measured.intervals) if measured is not None else {})
    for task in tasks:
        row.update(_task_columns(task, variant.accuracy.get(task)))
    return row


def _ends(intervals: Intervals) -> Row:
    """The ends of the headline metrics' intervals, a column each."""
    return {
        f"{key}_ci95_{end}": value
        for key in INTERVAL_METRICS
        if key in intervals
        for end, value in zip(("low", "high"), intervals[key], strict=True)
    }


def _task_columns(task: str, record: AccuracyRecord | None) -> Row:
    if record is None:
        return {f"{task}{suffix}": None for suffix in TASK_SUFFIXES}
    values = (
        record.accuracy, record.metric, record.stderr, record.num_items, record.num_fewshot, record.limit,
        record.apply_chat_template, record.task_versions.get(task), _digest(record.task_hashes),
        *record.intervals.get("accuracy", (None, None)),
    )  # fmt: skip
    return {f"{task}{suffix}": value for suffix, value in zip(TASK_SUFFIXES, values, strict=True)}


def _digest(hashes: Mapping[str, str]) -> str | None:
    """One short hash over the items of all subtasks; None where they are not known."""
    if not hashes:
        return None
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]


def _tokens(variant: Variant) -> float | None:
    """Output tokens a request; worked out for records that do not say: amortised latency x throughput."""
    record = variant.performance
    if record is None:
        return None
    if record.output_tokens is not None:
        return record.output_tokens
    if record.mean_latency_s is None or record.tokens_per_second is None:
        return None
    return record.mean_latency_s * record.tokens_per_second


def _setting(record: Metadata, key: str) -> Any:
    """A setting of the run, from its benchmark's own config or from the whole run's."""
    config = record.config or {}
    parts = (config, config.get("performance"), config.get("energy"))
    return next((part[key] for part in parts if isinstance(part, Mapping) and part.get(key) is not None), None)


def _hardware(record: Metadata) -> str | None:
    """GPU and CPU names as one text: ``2 x NVIDIA A100, AMD EPYC 7763``. None where not recorded."""
    environment = record.environment or {}
    gpus = Counter(_gpu_name(gpu) for gpu in environment.get("gpus") or ())
    names = [f"{count} x {name}" if count > 1 else name for name, count in sorted(gpus.items())]
    if environment.get("cpu"):
        names.append(str(environment["cpu"]))
    return ", ".join(names) or None


def _gpu_name(gpu: Any) -> str:
    return str(gpu.get("name")) if isinstance(gpu, Mapping) else str(gpu)


def _labels(variants: Sequence[Variant]) -> list[str]:
    """A short label for the model of each variant, so that (label, precision) names one variant only."""
    models = {variant.model for variant in variants}
    shared = Counter(short_name(model).casefold() for model in models)
    labels = [
        variant.model if shared[short_name(variant.model).casefold()] > 1 else short_name(variant.model)
        for variant in variants
    ]
    repeated = Counter((label, variant.precision) for label, variant in zip(labels, variants, strict=True))
    for label in {label for (label, _), count in repeated.items() if count > 1}:
        mine = [index for index, other in enumerate(labels) if other == label]
        for index, place in zip(mine, _places([variants[index] for index in mine]), strict=True):
            labels[index] = f"{label} ({place})"
    return labels


def _places(variants: Sequence[Variant]) -> list[str]:
    """Where each of several runs of one model stands: the folder names in which they differ, ``run1`` and ``run2``."""
    parents = [variant.directory.parent for variant in variants]
    keys = {(parent, variant.precision) for parent, variant in zip(parents, variants, strict=True)}
    folders = parents if len(keys) == len(variants) else [variant.directory for variant in variants]
    common = Path(os.path.commonpath([str(folder) for folder in folders]))
    relative = [folder.relative_to(common).parts for folder in folders]
    while all(len(parts) > 1 for parts in relative) and len({parts[-1] for parts in relative}) == 1:
        relative = [parts[:-1] for parts in relative]
    return ["/".join(parts) or "." for parts in relative]
