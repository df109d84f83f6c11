"""The tables: tidy, results, impact, and their CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import (
    columns_of,
    quantization_impact,
    results_table,
    summary_statistics,
    tidy_table,
    to_csv,
)
from slim_eval.results.variants import Variant, labelled


def records_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as plain rows, with None for everything missing."""
    return [
        {str(key): None if value is None or value is pd.NA or value != value else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]


def fields(frame: pd.DataFrame) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(frame))))


def test_rows_survive_the_table(make_variant: Callable[..., Variant]) -> None:
    rows = labelled(
        [
            make_variant(tasks={"mmlu": 0.5}),
            make_variant(precision="int8", performance=None, energy={"valid": False, "invalid_reasons": ("short",)}),
        ]
    )
    assert records_of(tidy_table(rows)) == [columns_of(variant, ("mmlu",)) for variant in rows]


def test_csv_has_whole_counts_and_empty_fields(make_variant: Callable[..., Variant]) -> None:
    study = Study.of([make_variant(tasks={"mmlu": 0.0}), make_variant(precision="int8", performance=None, tasks={})])
    full, empty = fields(results_table(study))
    assert (full["batch_size"], full["num_runs"], full["mmlu_num_items"]) == ("8", "16", "400")
    assert (full["mean_latency_s"], full["mmlu"], full["kv_cache_tokens"]) == ("0.2", "0.0", "")
    assert (empty["batch_size"], empty["mean_latency_s"], empty["mmlu"], empty["mmlu_metric"]) == ("", "", "", "")
    assert empty["energy_joules"] == "1000.0"


def test_results_keep_configurations_without_a_baseline(make_variant: Callable[..., Variant]) -> None:
    study = Study.of([make_variant("a/One", "int4"), make_variant("a/Two", "fp16")])
    assert list(results_table(study)["precision"]) == ["int4", "fp16"]
    (row,) = fields(quantization_impact(study))
    assert (row["name"], row["speedup"]) == ("One", "")
    assert row["not_comparable"] == "no fp16 measurement of this model"


def test_impact_of_one_configuration_is_a_header_alone(make_variant: Callable[..., Variant]) -> None:
    impact = quantization_impact(Study.of([make_variant(tasks={"mmlu": 0.5})]))
    assert len(impact) == 0
    assert to_csv(impact).startswith(
        "model,precision,speedup,memory_reduction_pct,energy_reduction_pct,mmlu_acc_drop_pct,"
    )
    assert "mmlu_drop_pp" in impact.columns


def test_columns_are_the_same_with_and_without_comparable_rows(make_variant: Callable[..., Variant]) -> None:
    base, this = make_variant(tasks={"mmlu": 0.5}), make_variant(precision="int8", tasks={"mmlu": 0.5})
    some = quantization_impact(Study.of([base, this]))
    none = quantization_impact(Study.of([base]))
    assert list(some.columns) == list(none.columns)


def test_only_the_tasks_asked_for_are_shown(make_variant: Callable[..., Variant]) -> None:
    variants = [make_variant(precision=p, tasks={"mmlu": 0.5, "arc": 0.25}) for p in ("fp16", "int8")]
    assert "mmlu" not in results_table(Study.of(variants, ["arc"])).columns
    assert "mmlu_drop_pp" not in quantization_impact(Study.of(variants, ["arc"])).columns
    (row,) = records_of(quantization_impact(Study.of(variants, ["arc", "absent"])))
    assert row["arc_drop_pp"] == 0.0
    assert row["absent_drop_pp"] is None


def test_statistics_of_each_precision_and_of_all(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant(f"org/M{number}", precision, performance={"tpot_s": tpot_s}, tasks={"mmlu": mmlu})
        for number, precision, tpot_s, mmlu in (
            (1, "fp16", 0.002, 0.5), (2, "fp16", 0.004, 0.7), (3, "fp16", 0.009, 0.6), (1, "int8", 0.001, 0.4),
        )
    ]  # fmt: skip
    made = records_of(summary_statistics(Study.of(variants, ("mmlu",))))
    found = {row["precision"]: row for row in made if row["metric"] == "tpot_s"}
    assert list(found) == ["fp16", "int8", "all"]
    fp16 = found["fp16"]
    assert (fp16["unit"], fp16["n"], fp16["min"], fp16["median"], fp16["max"]) == ("s", 3, 0.002, 0.004, 0.009)
    assert fp16["mean"] == pytest.approx(0.005)
    assert fp16["std"] == pytest.approx(0.013**0.5 / 1e3**0.5)  # deviations of -3, -1 and 4 ms: 26 / 2 ms²
    assert (found["int8"]["n"], found["int8"]["std"]) == (1, None)
    assert found["all"]["median"] == pytest.approx(0.003)
    mmlu = next(row for row in made if row["metric"] == "mmlu")
    assert (mmlu["unit"], mmlu["group"], mmlu["mean"]) == ("share", "all", pytest.approx(0.6))
    assert not [row for row in made if row["metric"] == "accuracy_mean"]  # of one task it is the task


def test_statistics_never_join_settings_and_leave_out_what_is_invalid(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant("org/A"),
        make_variant("org/B", head={"engine": "transformers"}),
        make_variant("org/C", energy={"valid": False, "joules_per_output_token": 99.0}),
    ]
    made = records_of(summary_statistics(Study.of(variants, ())))
    tpot = [(row["group"].split(",")[0], row["n"]) for row in made if row["metric"] == "tpot_s"]
    assert tpot == [("vllm", 2), ("transformers", 1)]
    energy = next(row for row in made if row["metric"] == "joules_per_output_token")
    assert (energy["n"], energy["max"], energy["num_invalid"]) == (1, 0.5, 1)
    size = [row for row in made if row["metric"] == "model_size_gb"]
    assert [(row["group"], row["n"]) for row in size] == [("all", 3)]


def test_statistics_of_different_work_say_so(make_variant: Callable[..., Variant]) -> None:
    variants = [make_variant("org/A"), make_variant("org/B", performance={"output_tokens": 200.0})]
    made = {row["metric"]: row["confounded"] for row in records_of(summary_statistics(Study.of(variants, ())))}
    assert "100.0 to 200.0 output tokens" in made["mean_latency_s"]
    assert "not known" in made["energy_per_query_j"]
    assert made["tpot_s"] is None


def test_statistics_of_nothing_are_a_header_alone(make_variant: Callable[..., Variant]) -> None:
    bare = make_variant(performance=None, energy=None, head={"model_size_gb": None})
    text = to_csv(summary_statistics(Study.of([bare], ())))
    assert text == "metric,unit,group,precision,n,mean,std,min,median,max,num_invalid,confounded\n"
