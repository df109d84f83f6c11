"""The tables as CSV and pandas: one tidy table of everything, and the ones that readers want first.

Missing numbers are None or NaN, and empty fields in CSV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from slim_eval import stats
from slim_eval.analysis.comparability import SETTINGS, comparable_groups, confounding
from slim_eval.analysis.impact import Impact, impact_columns
from slim_eval.analysis.pareto.frontier import Frontier
from slim_eval.analysis.study import Study
from slim_eval.metrics import ACCURACY_MEAN, METRICS, Metric
from slim_eval.results.records import EnergyMetrics, PerformanceMetrics, ServingLevel
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
_ALTERED = ("truncated_requests", "prompts_without_turns")  # counts of prompts, shown if one is not 0
_TASK_COLUMNS = ("", "_stderr", "_metric", "_num_items", "_num_fewshot")
_COUNTS = (
    "kv_cache_tokens", "batch_size", "num_runs", "num_items", "_num_fewshot", "num_parameters",
    "_truncated_requests", "_prompts_without_turns",
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


def columns_of(variant: Variant, tasks: Sequence[str]) -> dict[str, Any]:
    """One flat row of a labelled variant; every row of the same tasks has the same keys in the same order.

    Keys are those of the records (units in the name); energy's keys that performance has too get the prefix
    ``energy_``; a task's keys get its name as prefix. What was not measured is None.
    """
    performance, energy = variant.performance, variant.energy
    row: dict[str, Any] = {key: variant.fact(key) for key in _IDENTITY}
    row |= {"model": variant.model, "name": variant.name, "precision": variant.precision, "engine": variant.engine}
    row |= {"kernels": variant.kernels, "hardware": variant.hardware, "directory": str(variant.directory)}
    row |= {column: getattr(performance, key, None) for key, column in _PERFORMANCE.items()}
    row |= {key: performance and config_value(performance, key) for key in ("max_new_tokens", "load")}
    row["tokens_per_request"] = variant.tokens_per_request
    row |= {column: getattr(energy, key, None) for key, column in _ENERGY.items()}
    row |= {f"energy_{key}": energy and getattr(energy, key) for key in ("engine", "kernels", "hardware")}
    for prefix, observed in (("", performance), ("energy_", energy)):
        host = observed and observed.host
        row |= {f"{prefix}host_{key}": host and getattr(host, key) for key in _HOST}
    row["energy_max_new_tokens"] = energy and config_value(energy, "max_new_tokens")
    for key in _INTERVALS:
        row[f"{key}_ci95_low"], row[f"{key}_ci95_high"] = variant.interval(key) or (None, None)
    row |= {metric.key: variant.number(metric) for metric in plugin_metrics()}
    for task in tasks:
        record = variant.accuracy.get(task)
        row[task] = record and record.accuracy
        for key in (
            "metric",
            "higher_is_better",
            "stderr",
            "num_items",
            "num_fewshot",
            "limit",
            "apply_chat_template",
            *_ALTERED,
        ):
            row[f"{task}_{key}"] = record and getattr(record, key)
        row[f"{task}_version"] = record and record.task_versions.get(task)
        row[f"{task}_items_hash"] = record and _ITEMS_HASH.read(record)
        ends = record.intervals.get("accuracy", (None, None)) if record else (None, None)
        row[f"{task}_ci95_low"], row[f"{task}_ci95_high"] = ends
    return row


def plugin_metrics() -> list[Metric]:
    """Metrics that no field of slim-eval's own records has."""
    return [METRICS[key] for key in METRICS if key not in _OWN]


def tidy_table(variants: Sequence[Variant]) -> pd.DataFrame:
    """Everything that was measured: one row per variant, with all tasks."""
    tasks = tasks_of(variants)
    return pd.DataFrame([columns_of(variant, tasks) for variant in variants])


def results_table(study: Study) -> pd.DataFrame:
    """The numbers that a reader wants first, under the same names and units as in the tidy table."""
    plugins = [metric.key for metric in plugin_metrics() if study.is_measured(metric)]
    columns = [*_RESULT_COLUMNS, *plugins]
    for task in study.tasks:
        records = [record for variant in study.variants if (record := variant.accuracy.get(task)) is not None]
        altered = [key for key in _ALTERED if any(getattr(record, key) for record in records)]
        columns += [f"{task}{suffix}" for suffix in (*_TASK_COLUMNS, *(f"_{key}" for key in altered))]
    frame = pd.DataFrame([columns_of(variant, study.tasks) for variant in study.variants])
    return _whole_counts(frame.reindex(columns=columns))


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
        for group, members in comparable_groups(measured, [metric]).members(measured).items():
            parts: dict[str, list[Variant]] = {}
            for variant in members:
                parts.setdefault(variant.precision, []).append(variant)
            for precision, chosen in (parts | ({_ALL: members} if len(parts) > 1 else {})).items():
                valid = [variant for variant in chosen if variant.counts(metric)]
                values = [value for variant in valid if (value := variant.number(metric)) is not None]
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
