"""Variants: labels, facts, and the flat rows that tables are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis.tables.csv_tables import columns_of
from slim_eval.results.variants import Variant, labelled, ordered_tasks, tasks_of


def rows_of(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    return [columns_of(variant, tasks_of(variants)) for variant in labelled(variants)]


def test_one_row_a_variant_with_the_same_keys_in_the_same_order(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant(tasks={"zeta": 0.5, "gsm8k": 0.25}),
        make_variant(precision="int8", performance=None, energy=None),
    ]
    rows = rows_of(variants)
    assert [list(row) for row in rows] == [list(rows[0])] * 2
    assert tasks_of(variants) == ("gsm8k", "zeta")


def test_energy_keys_that_performance_has_too_get_a_prefix(make_variant: Callable[..., Variant]) -> None:
    (row,) = rows_of([make_variant(energy={"output_tokens": 99.0})])
    assert (row["batch_size"], row["energy_batch_size"]) == (8, 1)
    assert (row["num_runs"], row["energy_num_runs"]) == (16, 20)
    assert (row["output_tokens"], row["energy_output_tokens"]) == (100.0, 99.0)
    assert row["energy_joules"] == 1000.0
    assert "energy_energy_joules" not in row


def test_what_was_not_measured_is_none(make_variant: Callable[..., Variant]) -> None:
    (row,) = rows_of([make_variant(performance=None, energy={"idle_power_watts": 0.0}, tasks={"mmlu": 0.0})])
    assert row["mean_latency_s"] is None
    assert row["tokens_per_request"] is None
    assert row["idle_power_watts"] == 0.0
    assert row["mmlu"] == 0.0
    assert row["engine"] == "vllm"  # known from the other records


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({"output_tokens": 64.0}, 64.0),
        ({"output_tokens": None}, 100.0),  # 0.2 s x 500 tokens/s
        ({"output_tokens": None, "tokens_per_second": None}, None),
        ({"output_tokens": None, "mean_latency_s": None}, None),
    ],
)
def test_tokens_a_request_are_worked_out_where_a_record_does_not_say(
    changes: dict[str, float | None], tokens: float | None, make_variant: Callable[..., Variant]
) -> None:
    (row,) = rows_of([make_variant(performance=changes)])
    assert row["tokens_per_request"] == tokens


@pytest.mark.parametrize(
    ("environment", "hardware"),
    [
        (None, None),
        ({"cpu": None, "gpus": []}, None),
        ({"cpu": "C", "gpus": []}, "C"),
        ({"cpu": "C", "gpus": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}, "2 x A, B, C"),
        ({"gpus": ["A"]}, "A"),
    ],
)
def test_hardware_is_named_from_the_environment(
    environment: dict[str, object] | None, hardware: str | None, make_variant: Callable[..., Variant]
) -> None:
    (row,) = rows_of([make_variant(head={"environment": environment})])
    assert row["hardware"] == hardware
    assert row["energy_hardware"] == hardware


def test_two_models_with_one_short_name_are_told_apart(make_variant: Callable[..., Variant]) -> None:
    rows = rows_of([make_variant("a/Tiny"), make_variant("b/tiny"), make_variant("b/Other")])
    assert [row["name"] for row in rows] == ["a/Tiny", "b/tiny", "Other"]


def test_two_runs_of_one_model_are_told_apart_by_their_folders(make_variant: Callable[..., Variant]) -> None:
    variants = [
        make_variant(precision=precision, directory=Path("runs", run, "Tiny", f"Tiny_{precision}"))
        for run in ("monday", "tuesday")
        for precision in ("fp16", "int8")
    ]
    rows = rows_of(variants)
    assert [row["name"] for row in rows] == ["Tiny (monday)"] * 2 + ["Tiny (tuesday)"] * 2


def test_two_variants_in_one_folder_are_told_apart(make_variant: Callable[..., Variant]) -> None:
    variants = [make_variant(directory=Path("runs/Tiny", name)) for name in ("Tiny_fp16", "Tiny_fp16_again")]
    assert [row["name"] for row in rows_of(variants)] == ["Tiny (Tiny_fp16)", "Tiny (Tiny_fp16_again)"]


def test_standard_tasks_come_first() -> None:
    found = ordered_tasks(["winogrande", "hellaswag", "arc", "mmlu", "arc"])
    assert found == ("mmlu", "hellaswag", "arc", "winogrande")
    assert rows_of([]) == []
