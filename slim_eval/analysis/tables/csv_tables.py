"""The tables as CSV and pandas: one tidy table of everything, and the ones that readers want first.

Missing numbers are None or NaN, and empty fields in CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import pandas as pd

from slim_eval import stats
from slim_eval.analysis.comparability import SETTINGS, comparable_groups, confounding
from slim_eval.analysis.impact import Impact, impact_columns
from slim_eval.analysis.pareto.frontier import Frontier
from slim_eval.analysis.study import Study
from slim_eval.metrics import ACCURACY_MEAN, METRICS, Metric
from slim_eval.results.records import AccuracyRecord, EnergyMetrics, PerformanceMetrics, ServingLevel
from slim_eval.results.variants import Variant, config_value, tasks_of

_IDENTITY = (
    "model", "name", "precision", "engine", "engine_version", "dtype", "kernels", "hardware", "quantization_scheme",
    "directory", "revision", "timestamp", "num_parameters", "num_parameters_b", "model_size_gb",
)  # fmt: skip
_NESTED = {"intervals", "concurrency_by_context", "throttle_reasons", "host"}
#: Fields of a record -> columns. What both records have is performance's, except that energy had its validity first.
_VALIDITY = ("valid", "invalid_reasons")
_PERFORMANCE = {
    key: f"performance_{key}" if key in _VALIDITY else key
    for key in PerformanceMetrics.model_fields if key not in _NESTED
}  # fmt: skip
_ENERGY = {
    key: f"energy_{key}" if key in _PERFORMANCE.values() else key
    for key in EnergyMetrics.model_fields if key not in _NESTED
}  # fmt: skip
#: Of `HostUse`, the other work while speed and energy were measured.
_HOST = ("other_share", "stolen_share", "throttled_share")
#: Metrics with the columns ``{metric}_ci95_low`` and ``{metric}_ci95_high``.
_INTERVALS = (
    "ttft_s", "tpot_s", "e2e_latency_s", "mean_latency_s", "tokens_per_second", "energy_joules",
    "joules_per_output_token", "avg_power_watts",
)  # fmt: skip
_RESULT_COLUMNS = (
    "name", "model", "precision", "engine", "dtype", "hardware", "quantization_scheme", "num_parameters_b",
    "model_size_gb", "weights_gb", "kv_cache_gb", "kv_cache_tokens", "max_concurrency", "mean_peak_mem_mb",
    "batch_size", "num_runs", "tokens_per_request", "mean_latency_s", "median_latency_s", "p95_latency_s",
    "p99_latency_s", "std_latency_s", "ttft_s", "tpot_s", "e2e_latency_s", "tokens_per_second", "load_time_s",
    "energy_joules", "energy_joules_net", "energy_kwh", "joules_per_output_token", "energy_per_query_j",
    "avg_power_watts", "duration_seconds", "energy_source", "valid", "performance_valid",
)  # fmt: skip
#: Counts of prompts and answers, shown if one is not 0.
_ALTERED = ("truncated_requests", "prompts_without_turns", "unfinished_thoughts")
_TASK_COLUMNS = ("", "_stderr", "_metric", "_num_items", "_num_fewshot")
_COUNTS = (
    "kv_cache_tokens", "batch_size", "num_runs", "num_items", "_num_fewshot", "num_parameters",
    "_truncated_requests", "_prompts_without_turns", "_unfinished_thoughts",
    "num_left_out", "num_clusters", "lost", "gained", "items_needed",
)  # fmt: skip
_PAIRED_COLUMNS = (
    "name", "model", "precision", "task", "metric", "num_items", "num_clusters", "baseline_accuracy", "accuracy",
    "drop_pp", "drop_pp_ci95_low", "drop_pp_ci95_high", "loss", "loss_ci95_low", "loss_ci95_high", "ratio",
    "ratio_ci95_low", "ratio_ci95_high", "higher_is_better", "lost", "gained", "flips", "p_value", "p_value_holm",
    "answer_kl", "margin_pp", "verdict", "items_needed", "num_left_out", "unpaired", "assumed",
    "interval_from", "no_interval", "refused", "directory",
)  # fmt: skip
#: What `summary_statistics` describes; further measured metrics of plugins and the tasks come after it.
_HEADLINES = (
    "ttft_s", "tpot_s", "mean_latency_s", "tokens_per_second", "mean_peak_mem_mb", "weights_gb", "model_size_gb",
    "joules_per_output_token", "energy_per_query_j", "energy_kwh", "avg_power_watts",
)  # fmt: skip
_KEY_UNITS = {"_s": "s", "_mb": "MiB", "_gb": "GiB", "_query_j": "J", "_kwh": "kWh", "_watts": "W"}
_STATISTICS = (
    "metric", "unit", "group", "precision", "n", "mean", "std", "min", "median", "max", "num_invalid", "confounded",
)  # fmt: skip
_FRONTIER_HEAD = ("objectives", "name", "model", "precision", "group")
_FRONTIER_TAIL = (
    "on_frontier", "hypervolume_lost", "p_non_dominated", "state", "certain", "rivals", "no_interval", "confounded",
    "excluded",
)  # fmt: skip
_OWN = frozenset({*_IDENTITY, *_PERFORMANCE, *_ENERGY, *ServingLevel.model_fields, ACCURACY_MEAN.key})
_ALL = "all"
_ITEMS_HASH = next(setting for setting in SETTINGS if setting.name == "items_hash")

_Read = Callable[[Variant], Any]
#: Columns of `_IDENTITY` that a variant has itself; the others are in its records.
_OF_A_VARIANT = frozenset({"model", "name", "precision", "engine", "kernels", "hardware"})


def _end_of_accuracy(position: int) -> Callable[[AccuracyRecord], Any]:
    return lambda record: record.intervals.get("accuracy", (None, None))[position]


#: Ending of a task's column -> how it is read from the record of the task.
_OF_A_TASK: dict[str, Callable[[AccuracyRecord], Any]] = {
    "": attrgetter("accuracy"),
    **{
        f"_{key}": attrgetter(key) for key in (
            "metric", "higher_is_better", "stderr", "num_items", "num_fewshot", "limit", "apply_chat_template",
            *_ALTERED,
        )
    },
    "_version": lambda record: record.task_versions.get(record.task),
    "_items_hash": _ITEMS_HASH.read,
    "_ci95_low": _end_of_accuracy(0),
    "_ci95_high": _end_of_accuracy(1),
}  # fmt: skip


def columns_of(variant: Variant, tasks: Sequence[str]) -> dict[str, Any]:
    """One flat row of a labelled variant, see `readers`."""
    return {column: read(variant) for column, read in readers(tasks).items()}


def readers(tasks: Sequence[str]) -> dict[str, _Read]:
    """Each column of the tidy table, in its order, with the function that reads it from a labelled variant.

    Columns are the keys of the records (units in the name); energy's keys that performance has too get the prefix
    ``energy_``; a task's keys get its name as prefix. What was not measured is None.
    """
    found: dict[str, _Read] = {
        key: attrgetter(key) if key in _OF_A_VARIANT else partial(Variant.fact, key=key) for key in _IDENTITY
    }
    found["directory"] = lambda variant: str(variant.directory)
    found |= {column: _of("performance", key) for key, column in _PERFORMANCE.items()}
    found |= {key: _config_of("performance", key) for key in ("max_new_tokens", "load")}
    found["tokens_per_request"] = attrgetter("tokens_per_request")
    found |= {column: _of("energy", key) for key, column in _ENERGY.items()}
    found |= {f"energy_{key}": _of("energy", key) for key in ("engine", "kernels", "hardware")}
    for prefix, benchmark in (("", "performance"), ("energy_", "energy")):
        found |= {f"{prefix}host_{key}": _of(benchmark, "host", key) for key in _HOST}
    found["energy_max_new_tokens"] = _config_of("energy", "max_new_tokens")
    for key in _INTERVALS:
        found |= {f"{key}_ci95_{side}": _end_of(key, position) for position, side in enumerate(("low", "high"))}
    found |= {metric.key: partial(Variant.number, metric=metric) for metric in plugin_metrics()}
    for task in tasks:
        found |= {f"{task}{suffix}": _of_task(task, read) for suffix, read in _OF_A_TASK.items()}
    return found


def _of(benchmark: str, *path: str) -> _Read:
    """A field of a benchmark's record, or of a part of it; None without the record or the part."""

    def read(variant: Variant) -> Any:
        value = getattr(variant, benchmark)
        for key in path:
            value = getattr(value, key, None)
        return value

    return read


def _config_of(benchmark: str, key: str) -> _Read:
    def read(variant: Variant) -> Any:
        record = getattr(variant, benchmark)
        return None if record is None else config_value(record, key)

    return read


def _end_of(key: str, position: int) -> _Read:
    return lambda variant: (variant.interval(key) or (None, None))[position]


def _of_task(task: str, read: Callable[[AccuracyRecord], Any]) -> _Read:
    def read_from(variant: Variant) -> Any:
        record = variant.accuracy.get(task)
        return None if record is None else read(record)

    return read_from


def plugin_metrics() -> list[Metric]:
    """Metrics that no field of slim-eval's own records has."""
    return [METRICS[key] for key in METRICS if key not in _OWN]


def tidy_table(variants: Sequence[Variant]) -> pd.DataFrame:
    """Everything that was measured: one row per variant, with all tasks."""
    known = readers(tasks_of(variants))
    return pd.DataFrame({column: list(map(read, variants)) for column, read in known.items()})


def results_table(study: Study) -> pd.DataFrame:
    """The numbers that a reader wants first, under the same names and units as in the tidy table."""
    plugins = [metric.key for metric in plugin_metrics() if study.is_measured(metric)]
    columns = [*_RESULT_COLUMNS, *plugins]
    for task in study.tasks:
        records = [record for variant in study.variants if (record := variant.accuracy.get(task)) is not None]
        altered = [key for key in _ALTERED if any(getattr(record, key) for record in records)]
        columns += [f"{task}{suffix}" for suffix in (*_TASK_COLUMNS, *(f"_{key}" for key in altered))]
    known = readers(study.tasks)
    return _whole_counts(pd.DataFrame({column: list(map(known[column], study.variants)) for column in columns}))


def impact_rows(study: Study) -> list[dict[str, Any]]:
    """One row per variant that is not a baseline: `impact.impact_columns`, ``within_noise`` and ``directory``."""
    return [
        impact_columns(impact, study.tasks)
        | {"within_noise": " ".join(sorted(study.within_noise(impact.variant))) or None}
        | {"directory": str(impact.variant.directory)}
        for impact in study.impacts
    ]


def quantization_impact(study: Study) -> pd.DataFrame:
    """`impact_rows` as a table, with its columns even without rows."""
    rows, last = impact_rows(study), ("within_noise", "directory")
    nothing = impact_columns(Impact(study.variants[0], None), study.tasks) if study.variants else {}
    columns = dict.fromkeys(key for row in (nothing, *rows) for key in row if key not in last)
    return pd.DataFrame(rows, columns=[*columns, *last])


def paired_accuracy(study: Study) -> pd.DataFrame:
    """One row per task of each variant that was paired: drop on the same items, interval, p, flips, KL, verdict."""
    rows = []
    for variant in study.variants:
        head = {"name": variant.name, "model": variant.model, "precision": variant.precision}
        for pair in study.paired.get(variant.directory, ()):
            row = head | pair.model_dump()
            for key, ends in (
                ("drop_pp", pair.interval_pp),
                ("loss", pair.loss_interval),
                ("ratio", pair.ratio_interval),
            ):
                row[f"{key}_ci95_low"], row[f"{key}_ci95_high"] = ends or (None, None)
            rows += [row | {"directory": str(variant.directory)}] if pair.task in study.tasks else []
    return _whole_counts(pd.DataFrame(rows, columns=list(_PAIRED_COLUMNS)))


def summary_statistics(study: Study) -> pd.DataFrame:
    """Each headline metric described over the models, for each scheme and over all of them.

    Returns:
        ``metric`` and ``unit``; ``group``, the settings that the numbers were measured in: those of different ones are
        never combined; ``precision``, or ``all``; ``n`` variants, ``mean``, ``std`` (n - 1; None below two), ``min``,
        ``median``, ``max``; ``num_invalid``: numbers of invalid records, which are left out; ``confounded``: why the
        numbers are of different work. Without a row if nothing was measured.
    """
    means = [ACCURACY_MEAN] if len(study.tasks) > 1 else []
    plugins = [metric for metric in plugin_metrics() if study.is_measured(metric)]
    rows: list[dict[str, Any]] = []
    for metric in (*map(study.metric, _HEADLINES), *plugins, *study.task_metrics, *means):
        # The unit of the key, in which files have the number, not the one shown.
        unit = next((unit for ending, unit in _KEY_UNITS.items() if metric.key.endswith(ending)), metric.unit)
        if metric.is_share:
            unit = "share"
        measured = [variant for variant in study.variants if variant.number(metric) is not None]
        groups = comparable_groups(measured, [metric])
        numbers = [(variant, variant.number(metric) if variant.counts(metric) else None) for variant in measured]
        for group, members in groups.members(numbers).items():
            parts: dict[str, list[tuple[Variant, float | None]]] = {}
            for variant, value in members:
                parts.setdefault(variant.precision, []).append((variant, value))
            for precision, chosen in (parts | ({_ALL: members} if len(parts) > 1 else {})).items():
                valid = [variant for variant, value in chosen if value is not None]
                values = [value for _, value in chosen if value is not None]
                found = stats.summarize(values)
                rows.append({
                    "metric": metric.key, "unit": unit, "group": group, "precision": precision, "n": found.count,
                    "mean": found.mean, "std": found.std, "min": min(values, default=None), "median": found.median,
                    "max": max(values, default=None), "num_invalid": len(chosen) - len(valid),
                    "confounded": confounding(valid, [metric]),
                })  # fmt: skip
    return pd.DataFrame(rows, columns=list(_STATISTICS))


def pareto_table(frontiers: Sequence[Frontier]) -> pd.DataFrame:
    """All frontiers below each other: one row per variant and set of objectives, see `Frontier.rows`."""
    made = [{"objectives": found.title} | row for found in frontiers for row in found.rows]
    values = dict.fromkeys(key for row in made for key in row if key not in (*_FRONTIER_HEAD, *_FRONTIER_TAIL))
    return pd.DataFrame(made, columns=[*_FRONTIER_HEAD, *values, *_FRONTIER_TAIL]).astype({"rivals": "Int64"})


def to_csv(frame: pd.DataFrame) -> str:
    """CSV with a header and full precision; missing numbers are empty."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _whole_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts as whole numbers even if one is missing, which pandas would show as 500.0."""
    counts = [column for column in frame.columns if str(column).endswith(_COUNTS)]
    return frame.astype(dict.fromkeys(counts, "Int64"))
