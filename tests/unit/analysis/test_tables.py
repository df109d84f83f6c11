"""The tables: tidy, results, impact, and their CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pandas as pd

from slim_eval.analysis.tables import quantization_impact, records_of, results_table, tidy_table, to_csv
from slim_eval.results import Cell
from slim_eval.rows import rows_of


def fields(frame: pd.DataFrame) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(frame))))


def test_rows_survive_the_table(make_cell: Callable[..., Cell]) -> None:
    rows = rows_of(
        [
            make_cell(tasks={"mmlu": 0.5}),
            make_cell(precision="int8", performance=None, energy={"valid": False, "invalid_reasons": ("short",)}),
        ]
    )
    assert records_of(tidy_table(rows)) == rows


def test_csv_has_whole_counts_and_empty_fields(make_cell: Callable[..., Cell]) -> None:
    rows = rows_of([make_cell(tasks={"mmlu": 0.0}), make_cell(precision="int8", performance=None, tasks={})])
    full, empty = fields(results_table(tidy_table(rows)))
    assert (full["batch_size"], full["num_runs"], full["mmlu_num_items"]) == ("8", "16", "400")
    assert (full["mean_latency_s"], full["mmlu"], full["kv_cache_tokens"]) == ("0.2", "0.0", "")
    assert (empty["batch_size"], empty["mean_latency_s"], empty["mmlu"], empty["mmlu_metric"]) == ("", "", "", "")
    assert empty["energy_joules"] == "1000.0"


def test_results_keep_configurations_without_a_baseline(make_cell: Callable[..., Cell]) -> None:
    frame = tidy_table(rows_of([make_cell("a/One", "int4"), make_cell("a/Two", "fp16")]))
    assert list(results_table(frame)["precision"]) == ["int4", "fp16"]
    (row,) = fields(quantization_impact(frame))
    assert (row["name"], row["speedup"]) == ("One", "")
    assert row["not_comparable"] == "no fp16 measurement of this model"


def test_impact_of_one_configuration_is_a_header_alone(make_cell: Callable[..., Cell]) -> None:
    impact = quantization_impact(tidy_table(rows_of([make_cell(tasks={"mmlu": 0.5})])))
    assert len(impact) == 0
    assert to_csv(impact).startswith("name,model,precision,speedup,")
    assert "mmlu_drop_pp" in impact.columns


def test_columns_are_the_same_with_and_without_comparable_rows(make_cell: Callable[..., Cell]) -> None:
    base, this = make_cell(tasks={"mmlu": 0.5}), make_cell(precision="int8", tasks={"mmlu": 0.5})
    some = quantization_impact(tidy_table(rows_of([base, this])))
    none = quantization_impact(tidy_table(rows_of([base])))
    assert list(some.columns) == list(none.columns)


def test_only_the_tasks_asked_for_are_shown(make_cell: Callable[..., Cell]) -> None:
    cells = [make_cell(precision=p, tasks={"mmlu": 0.5, "arc": 0.25}) for p in ("fp16", "int8")]
    frame = tidy_table(rows_of(cells))
    assert "mmlu" not in results_table(frame, ["arc"]).columns
    assert "mmlu_drop_pp" not in quantization_impact(frame, ["arc"]).columns
    (row,) = records_of(quantization_impact(frame, ["arc", "absent"]))
    assert row["arc_drop_pp"] == 0.0
    assert row["absent_drop_pp"] is None
