"""The tables, as pure functions from table to table. Missing numbers are NaN or None, and empty fields in CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from slim_eval import stats
from slim_eval.analysis.groups import comparable_groups, confounding
from slim_eval.analysis.pareto.frontiers import with_means
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN, directions
from slim_eval.analysis.rules import BASELINE, baseline_of, comparison, no_comparison
from slim_eval.results.rows import Row, by_model, tasks_of

_RESULT_COLUMNS = (
    "name", "model", "precision", "engine", "dtype", "hardware", "quantization_scheme", "num_parameters_b",
    "model_size_gb", "weights_gb", "kv_cache_gb", "kv_cache_tokens", "max_concurrency", "mean_peak_mem_mb",
    "batch_size", "num_runs", "tokens_per_request", "mean_latency_s", "median_latency_s", "p95_latency_s",
    "p99_latency_s", "std_latency_s", "ttft_s", "tpot_s", "e2e_latency_s", "tokens_per_second", "load_time_s",
    "energy_joules", "energy_joules_net", "energy_kwh", "joules_per_output_token", "energy_per_query_j",
    "avg_power_watts", "duration_seconds", "energy_source", "valid",
)  # fmt: skip
_IMPACT_HEAD = ("name", "model", "precision")
_TASK_COLUMNS = ("", "_stderr", "_metric", "_num_items", "_num_fewshot")
_COUNTS = (
    "kv_cache_tokens", "batch_size", "num_runs", "num_items", "_num_fewshot", "num_parameters", "_limit",
    "num_left_out", "num_clusters", "lost", "gained", "items_needed",
)  # fmt: skip
_PAIRED_COLUMNS = (
    "name", "model", "precision", "task", "metric", "num_items", "num_clusters", "baseline_accuracy", "accuracy",
    "drop_pp", "drop_pp_ci95_low", "drop_pp_ci95_high", "lost", "gained", "flips", "p_value", "p_value_holm",
    "answer_kl", "margin_pp", "verdict", "items_needed", "num_left_out", "refused", "directory",
)  # fmt: skip
# What `summary_statistics` describes, with its unit; the tasks come after it.
_HEADLINES = {
    "ttft_s": "s", "tpot_s": "s", "mean_latency_s": "s", "tokens_per_second": "tokens/s", "mean_peak_mem_mb": "MiB",
    "weights_gb": "GiB", "model_size_gb": "GiB", "joules_per_output_token": "J/token", "energy_per_query_j": "J",
    "energy_kwh": "kWh", "avg_power_watts": "W",
}  # fmt: skip
_ENERGY_HEADLINES = ("joules_per_output_token", "energy_per_query_j", "energy_kwh", "avg_power_watts")
_STATISTICS = (
    "metric", "unit", "group", "precision", "n", "mean", "std", "min", "median", "max", "num_invalid", "confounded",
)  # fmt: skip
ALL_PRECISIONS = "all"


def tidy_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table, one row a configuration."""
    return pd.DataFrame(list(rows))


def records_of(frame: pd.DataFrame) -> list[Row]:
    """A table as plain rows, with None for everything missing."""
    return [
        {str(key): None if _is_missing(value) else value for key, value in record.items()}
        for record in frame.to_dict("records")
    ]


def results_table(frame: pd.DataFrame, tasks: Sequence[str] | None = None) -> pd.DataFrame:
    """The numbers a reader wants first, under the same names and units as in the tidy table.

    Args:
        frame: The tidy table.
        tasks: Tasks to show; all by default. Each gives its accuracy (a share from 0 to 1) and what belongs to it.
    """
    shown = tasks_of(map(str, frame.columns)) if tasks is None else tasks
    columns = [*_RESULT_COLUMNS, *(f"{task}{suffix}" for task in shown for suffix in _TASK_COLUMNS)]
    return _whole_counts(frame.reindex(columns=columns))


def quantization_impact(
    frame: pd.DataFrame, tasks: Sequence[str] | None = None, noisy: Mapping[str, Iterable[str]] | None = None
) -> pd.DataFrame:
    """One row a quantized configuration, against the 16-bit one of the same model.

    Args:
        frame: The tidy table.
        tasks: Tasks to compare; all by default.
        noisy: Folder of a configuration -> metrics that differ from the baseline by no more than the noise floor.

    Returns:
        ``name``, ``model``, ``precision``, the columns of `rules.comparison`, ``within_noise`` (those metrics, in one
        text), and ``directory`` to join on.
    """
    shown = tasks_of(map(str, frame.columns)) if tasks is None else tasks
    return impact_table(impact_rows(records_of(frame), shown, noisy), shown)


def impact_rows(
    rows: Sequence[Row], tasks: Sequence[str], noisy: Mapping[str, Iterable[str]] | None = None
) -> list[Row]:
    """`quantization_impact` from rows, as rows."""
    models = by_model(rows)
    return [
        {key: row[key] for key in _IMPACT_HEAD}
        | comparison(row, baseline_of(row, models[row["model"]]), tasks)
        | {"within_noise": " ".join(sorted((noisy or {}).get(row["directory"], ()))) or None}
        | {"directory": row["directory"]}
        for row in rows
        if row["precision"] != BASELINE
    ]


def impact_table(impact: Sequence[Row], tasks: Sequence[str]) -> pd.DataFrame:
    """The rows of `impact_rows` as a table, with its columns even where there is no row."""
    return pd.DataFrame(list(impact), columns=[*_IMPACT_HEAD, *no_comparison(tasks, ""), "within_noise", "directory"])


def paired_table(paired: Sequence[Row]) -> pd.DataFrame:
    """One row for each task of each quantized configuration: drop on the same items, interval, p, flips, KL, verdict.

    Args:
        paired: From `evidence.Evidence.paired_rows`.
    """
    return _whole_counts(pd.DataFrame(list(paired), columns=list(_PAIRED_COLUMNS)))


def summary_statistics(rows: Sequence[Row], tasks: Sequence[str]) -> pd.DataFrame:
    """Each headline metric described over the models, for each precision and over all of them.

    Args:
        rows: From `rows.rows_of`.
        tasks: Tasks to show; their mean is added where there are several.

    Returns:
        ``metric`` and ``unit``; ``group``, the settings that the numbers were measured in: those of different ones are
        never taken together; ``precision``, or ``all``; ``n`` configurations, ``mean``, ``std`` (n - 1; None below
        two), ``min``, ``median``, ``max``; ``num_invalid``: energies marked invalid, which are left out;
        ``confounded``: why the numbers are of different work. Without a row where nothing was measured.
    """
    prepared = with_means(rows, tasks)
    means = [ACCURACY_MEAN] if len(tasks) > 1 else []
    more_is_better = directions(prepared)
    units = _HEADLINES | {key: "share" if more_is_better[key] else "loss" for key in (*tasks, *means)}
    made: list[Row] = []
    for metric, unit in units.items():
        measured = [row for row in prepared if row[metric] is not None]
        for group, members in comparable_groups(measured, [metric]).members(measured).items():
            precisions = dict.fromkeys(row["precision"] for row in members)
            for precision in (*precisions, *([ALL_PRECISIONS] if len(precisions) > 1 else [])):
                chosen = [row for row in members if precision in (row["precision"], ALL_PRECISIONS)]
                head = {"metric": metric, "unit": unit, "group": group, "precision": precision}
                made.append(head | _described(metric, chosen))
    return pd.DataFrame(made, columns=list(_STATISTICS))


def _described(metric: str, rows: Sequence[Row]) -> Row:
    valid = [row for row in rows if metric not in _ENERGY_HEADLINES or row["valid"] is not False]
    values = [float(row[metric]) for row in valid]
    found = stats.summarize(values)
    return {
        "n": found.count, "mean": found.mean, "std": found.std, "min": min(values, default=None),
        "median": found.median, "max": max(values, default=None), "num_invalid": len(rows) - len(valid),
        "confounded": confounding(valid, [metric]),
    }  # fmt: skip


def to_csv(frame: pd.DataFrame) -> str:
    """CSV with a header, full precision, and nothing at all where a number is missing."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _whole_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts as whole numbers even where one is missing, which pandas would show as 500.0."""
    counts = [column for column in frame.columns if str(column).endswith(_COUNTS)]
    return frame.astype(dict.fromkeys(counts, "Int64"))


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)
