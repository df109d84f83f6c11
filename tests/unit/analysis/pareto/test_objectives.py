"""Objectives by name, and the frontier of rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pandas as pd
import pytest
from slim_eval.analysis.pareto.objectives import (
    KNOWN_DIRECTIONS,
    Objective,
    default_objectives,
    directions,
    frontier,
    parse_objectives,
    with_accuracy_mean,
)
from slim_eval.analysis.tables.results_table import to_csv
from slim_eval.results.rows import Row, rows_of

from slim_eval.errors import UsageError
from slim_eval.results.store import find_results
from slim_eval.results.variants import Variant

MakeCell = Callable[..., Variant]
Z95 = NormalDist().inv_cdf(0.975)
MMLU_TPOT = (Objective("mmlu", True), Objective("tpot_s", False))


def accuracy(value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"accuracy": value, "intervals": {"accuracy": (low, high)}, **more}


def speed(value: float, half: float | None = None) -> dict[str, Any]:
    return {"tpot_s": value} | ({} if half is None else {"intervals": {"tpot_s": (value - half, value + half)}})


@pytest.fixture
def rows(make_variant: MakeCell) -> list[Row]:
    """Three precisions: int8 is as good as fp16 and faster, int4 worse and the fastest; far apart, with intervals."""
    numbers = {"fp16": (0.60, 0.004), "int8": (0.60, 0.003), "int4": (0.50, 0.002)}
    return rows_of(
        [
            make_variant(
                precision=precision,
                performance=speed(tpot, 1e-5),
                tasks={"mmlu": accuracy(acc, acc - 0.001, acc + 0.001), "gsm8k": 0.4},
            )
            for precision, (acc, tpot) in numbers.items()
        ]
    )


def names(objectives: Sequence[Objective]) -> list[str]:
    return [str(objective) for objective in objectives]


# Parsing


@pytest.mark.parametrize(
    "texts", ["mmlu:max tpot_s:min", ["mmlu:max", "tpot_s:min"], ["mmlu:max,tpot_s:min"], [" mmlu  tpot_s "]]
)
def test_objectives_are_read_from_one_text_or_several(texts: str | list[str], rows: list[Row]) -> None:
    assert parse_objectives(texts, rows) == MMLU_TPOT


def test_a_direction_that_is_known_may_be_left_out_and_may_be_turned(rows: list[Row]) -> None:
    assert names(parse_objectives("tokens_per_second weights_gb gsm8k:min", rows)) == [
        "tokens_per_second:max",
        "weights_gb:min",
        "gsm8k:min",
    ]


def test_the_mean_accuracy_is_an_objective_though_no_record_holds_it(rows: list[Row]) -> None:
    assert parse_objectives("accuracy_mean", rows) == (Objective("accuracy_mean", True),)


def test_a_task_with_a_colon_in_its_name_is_an_objective(make_variant: MakeCell) -> None:
    rows = rows_of([make_variant(tasks={"aime:2024": 0.5})])
    assert parse_objectives("aime:2024", rows) == parse_objectives("aime:2024:max", rows)
    assert parse_objectives("aime:2024", rows) == (Objective("aime:2024", True),)


def test_less_of_a_perplexity_is_better(make_variant: MakeCell) -> None:
    wiki = {"accuracy": 11.5, "metric": "word_perplexity,none"}
    rows = rows_of([make_variant(tasks={"mmlu": 0.5}), make_variant(precision="int8", tasks={"wikitext": wiki})])
    assert names(parse_objectives("wikitext mmlu", rows)) == ["wikitext:min", "mmlu:max"]


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("mmul:max", "objective 'mmul': no result has such a number", "did you mean mmlu"),
        ("tpot:min", "objective 'tpot': no result has such a number", "tpot_s"),
        ("load_time_s", "'load_time_s': no result has such a number", "for example: accuracy_mean:max tpot_s:min"),
        ("ttft_ms:min", "'ttft_ms': no result has such a number", "did you mean ttft_s"),
        ("engine:max", "'engine': no result has such a number", ""),
        ("valid:max", "'valid': no result has such a number", ""),
        ("tpot_s:minimum", "objective 'tpot_s:minimum': 'minimum' is not a direction", "did you mean min"),
        ("tpot_s:down", "'down' is not a direction", "known: max, min"),
        ("tpot_s:", "'' is not a direction", "known: max, min"),
        (":min", "objective '': no result has such a number", "for example: "),
        ("batch_size", "'batch_size': which direction is better is not known", "batch_size:min or batch_size:max"),
        ("mmlu:max tpot_s mmlu:min", "objective 'mmlu' is named twice", "once"),
        ("", "no objective is named", "for example: accuracy_mean:max tpot_s:min joules_per_output_token:min"),
        (" , ", "no objective is named", "for example: "),
    ],
)
def test_what_cannot_be_an_objective_is_refused_with_a_remedy(
    text: str, cause: str, remedy: str, rows: list[Row]
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_objectives(text, rows)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy
    assert "ci95" not in caught.value.remedy  # not what anyone means


def test_a_column_without_a_known_direction_needs_one(rows: list[Row]) -> None:
    assert names(parse_objectives("batch_size:max", rows)) == ["batch_size:max"]


def test_every_known_metric_is_a_column(rows: list[Row]) -> None:
    (first, *_) = with_accuracy_mean(rows)
    assert set(KNOWN_DIRECTIONS) <= set(first)
    assert set(directions(rows)) == {*KNOWN_DIRECTIONS, "mmlu", "gsm8k"}


def test_without_rows_nothing_can_be_an_objective() -> None:
    assert default_objectives([]) == ()
    with pytest.raises(UsageError, match="no result has such a number"):
        parse_objectives("tpot_s", [])


# Defaults


def test_the_defaults_are_accuracy_time_energy_and_memory(rows: list[Row]) -> None:
    assert names(default_objectives(rows)) == [
        "accuracy_mean:max", "tpot_s:min", "joules_per_output_token:min", "weights_gb:min",
    ]  # fmt: skip


def test_the_defaults_fall_back_to_what_older_files_hold(make_variant: MakeCell) -> None:
    old = make_variant(
        performance={"tpot_s": None, "weights_gb": None}, energy={"joules_per_output_token": None}, tasks={"mmlu": 0.5}
    )
    fallbacks = ["accuracy_mean:max", "tokens_per_second:max", "energy_per_query_j:min", "model_size_gb:min"]
    assert names(default_objectives(rows_of([old]))) == fallbacks
    newer = make_variant(precision="int8")
    assert names(default_objectives(rows_of([old, newer])))[1:] == [
        "tpot_s:min", "joules_per_output_token:min", "weights_gb:min",
    ]  # fmt: skip


def test_what_was_never_measured_is_no_default(make_variant: MakeCell) -> None:
    (row,) = rows_of([make_variant(energy=None)])
    assert names(default_objectives([row])) == ["tpot_s:min", "weights_gb:min"]


# The mean accuracy


def test_the_mean_has_an_interval_in_which_errors_add_up_in_squares(make_variant: MakeCell) -> None:
    tasks = {"mmlu": accuracy(0.6, 0.57, 0.62), "gsm8k": accuracy(0.4, 0.36, 0.46)}
    (row,) = with_accuracy_mean(rows_of([make_variant(tasks=tasks)]))
    assert row["accuracy_mean"] == pytest.approx(0.5)
    assert row["accuracy_mean_ci95_low"] == pytest.approx(0.5 - 0.05 / 2)  # sqrt(0.03² + 0.04²) / 2
    assert row["accuracy_mean_ci95_high"] == pytest.approx(0.5 + math.hypot(0.02, 0.06) / 2)
    assert row["accuracy_mean_tasks"] == "mmlu, gsm8k"


def test_the_mean_of_one_task_is_that_task(make_variant: MakeCell) -> None:
    (row,) = with_accuracy_mean(rows_of([make_variant(tasks={"mmlu": accuracy(0.6, 0.57, 0.62)})]))
    ends = (row["accuracy_mean"], row["accuracy_mean_ci95_low"], row["accuracy_mean_ci95_high"])
    assert ends == pytest.approx((0.6, 0.57, 0.62))


def test_a_standard_error_stands_in_for_an_interval(make_variant: MakeCell) -> None:
    (row,) = with_accuracy_mean(rows_of([make_variant(tasks={"mmlu": {"accuracy": 0.6, "stderr": 0.02}})]))
    assert row["accuracy_mean_ci95_high"] - row["accuracy_mean"] == pytest.approx(Z95 * 0.02)


def test_a_task_without_either_leaves_the_mean_without_an_interval(make_variant: MakeCell) -> None:
    tasks = {"mmlu": accuracy(0.6, 0.5, 0.7), "gsm8k": {"accuracy": 0.4, "stderr": None}}
    (row,) = with_accuracy_mean(rows_of([make_variant(tasks=tasks)]))
    assert row["accuracy_mean"] == pytest.approx(0.5)
    assert (row["accuracy_mean_ci95_low"], row["accuracy_mean_ci95_high"]) == (None, None)


def test_a_row_without_one_of_the_tasks_has_no_mean(make_variant: MakeCell) -> None:
    variants = [make_variant(tasks={"mmlu": 0.6, "gsm8k": 0.0}), make_variant(precision="int8", tasks={"mmlu": 0.7})]
    full, part = with_accuracy_mean(rows_of(variants))
    assert full["accuracy_mean"] == 0.3  # an accuracy of 0 was measured
    assert part["accuracy_mean"] is None
    assert part["accuracy_mean_tasks"] == "mmlu, gsm8k"


def test_where_no_row_has_all_tasks_the_most_that_one_has_count(make_variant: MakeCell) -> None:
    tasks = [
        {"mmlu": 0.6},
        {"gsm8k": 0.5, "arc": 0.7},
        {"gsm8k": 0.1, "hellaswag": 0.3},
        {"gsm8k": 0.2, "hellaswag": 0.4},
    ]
    rows = rows_of([make_variant(f"org/M{index}", tasks=found) for index, found in enumerate(tasks)])
    made = with_accuracy_mean(rows)
    assert {row["accuracy_mean_tasks"] for row in made} == {"gsm8k, hellaswag"}
    assert [row["accuracy_mean"] for row in made] == [None, None, pytest.approx(0.2), pytest.approx(0.3)]


def test_a_perplexity_is_no_part_of_a_mean_accuracy(make_variant: MakeCell) -> None:
    wiki = {"accuracy": 11.5, "metric": "word_perplexity,none"}
    (row,) = with_accuracy_mean(rows_of([make_variant(tasks={"mmlu": 0.5, "wikitext": wiki})]))
    assert (row["accuracy_mean"], row["accuracy_mean_tasks"]) == (0.5, "mmlu")


def test_only_the_tasks_asked_for_are_part_of_the_mean(rows: list[Row]) -> None:
    assert with_accuracy_mean(rows, ["gsm8k"])[0]["accuracy_mean"] == 0.4
    once = with_accuracy_mean(rows, ["gsm8k"])
    assert with_accuracy_mean(once) == once  # and stay so
    assert "accuracy_mean" not in rows[0]


def test_without_tasks_there_is_no_mean(make_variant: MakeCell) -> None:
    (row,) = with_accuracy_mean(rows_of([make_variant()]))
    assert (row["accuracy_mean"], row["accuracy_mean_tasks"]) == (None, None)
    assert with_accuracy_mean([]) == []


# The frontier


def test_the_frontier_names_the_state_of_each_configuration(rows: list[Row]) -> None:
    fp16, int8, int4 = frontier(rows, MMLU_TPOT)
    assert [row["precision"] for row in (fp16, int8, int4)] == ["fp16", "int8", "int4"]
    assert (fp16["name"], fp16["model"]) == ("Tiny", "org/Tiny")
    # Half of the time fp16 is the more accurate one by chance: as accurate is not the same as known to be.
    assert fp16["on_frontier"] is False
    assert (fp16["state"], fp16["certain"]) == ("cannot tell", False)
    assert fp16["p_non_dominated"] == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2000))
    assert (int8["on_frontier"], int8["state"], int8["certain"]) == (True, "on the frontier", True)
    assert (int4["on_frontier"], int4["state"], int4["p_non_dominated"]) == (True, "on the frontier", 1.0)
    assert {row["rivals"] for row in (fp16, int8, int4)} == {2}
    assert {row["excluded"] for row in (fp16, int8, int4)} == {None}


def test_the_columns_are_those_of_the_file(rows: list[Row]) -> None:
    table = frontier(rows, [*MMLU_TPOT, Objective("weights_gb", False)])
    assert list(table[0]) == [
        "name", "model", "precision", "mmlu", "mmlu_ci95_low", "mmlu_ci95_high", "tpot_s", "tpot_s_ci95_low",
        "tpot_s_ci95_high", "weights_gb", "on_frontier", "p_non_dominated", "state", "certain", "rivals", "no_interval",
        "excluded",
    ]  # fmt: skip
    assert [list(row) for row in table] == [list(table[0])] * 3
    assert (table[0]["mmlu"], table[0]["mmlu_ci95_low"], table[0]["weights_gb"]) == (0.6, 0.599, 2.0)
    fields = list(csv.DictReader(io.StringIO(to_csv(pd.DataFrame(table)))))
    assert (fields[1]["state"], fields[1]["on_frontier"], fields[1]["excluded"]) == ("on the frontier", "True", "")


def test_a_worse_configuration_is_dominated(rows: list[Row]) -> None:
    fp16, int8, int4 = frontier(rows, [Objective("tpot_s", False)])
    assert [row["state"] for row in (fp16, int8, int4)] == ["dominated", "dominated", "on the frontier"]
    assert (fp16["p_non_dominated"], fp16["certain"]) == (0.0, True)
    slowest, _, fastest = frontier(rows, [Objective("tpot_s", True)])
    assert (slowest["state"], fastest["state"]) == ("on the frontier", "dominated")


def test_a_missing_value_excludes_and_is_named(make_variant: MakeCell) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.5, "gsm8k": 0.5}),
        make_variant(precision="int8", performance={"tpot_s": None}, tasks={"mmlu": 0.9, "gsm8k": 0.9}),
        make_variant(precision="int4", performance=None, tasks={"mmlu": 0.9}),
    ]
    chosen = parse_objectives("accuracy_mean tpot_s", rows_of(variants))
    fp16, int8, int4 = frontier(rows_of(variants), chosen)
    assert (fp16["state"], fp16["rivals"], fp16["excluded"]) == ("on the frontier", 0, None)
    assert fp16["accuracy_mean_tasks"] == "mmlu, gsm8k"
    assert int8["excluded"] == "not measured: tpot_s"
    assert int4["excluded"] == "not measured: accuracy_mean (no gsm8k), tpot_s"
    nothing = ("on_frontier", "p_non_dominated", "state", "certain", "rivals", "no_interval")
    assert {int8[key] for key in nothing} == {int4[key] for key in nothing} == {None}
    assert (int8["tpot_s"], int8["accuracy_mean"]) == (None, 0.9)  # what was measured is still shown


def test_energy_that_is_marked_invalid_excludes_only_from_comparisons_by_energy(make_variant: MakeCell) -> None:
    variants = [make_variant(energy={"valid": False, "joules_per_output_token": 0.1}), make_variant(precision="int8")]
    rows = rows_of(variants)
    fp16, int8 = frontier(rows, parse_objectives("joules_per_output_token tpot_s", rows))
    assert (fp16["excluded"], fp16["on_frontier"]) == ("invalid: joules_per_output_token", None)
    assert (int8["on_frontier"], int8["rivals"]) == (True, 0)
    assert {row["excluded"] for row in frontier(rows, [Objective("tpot_s", False)])} == {None}


def test_a_task_with_energy_in_its_name_is_no_energy(make_variant: MakeCell) -> None:
    rows = rows_of([make_variant(energy={"valid": False}, tasks={"energy_quiz": 0.5})])
    assert frontier(rows, [Objective("energy_quiz", True)])[0]["excluded"] is None


def test_two_reasons_are_both_named(make_variant: MakeCell) -> None:
    rows = rows_of([make_variant(performance=None, energy={"valid": False}), make_variant(precision="int8")])
    first, _ = frontier(rows, parse_objectives("energy_joules tpot_s", rows))
    assert first["excluded"] == "not measured: tpot_s; invalid: energy_joules"


def test_rows_of_different_settings_are_not_compared(rows: list[Row]) -> None:
    by_speed = [Objective("tpot_s", False)]
    assert [row["on_frontier"] for row in frontier(rows, by_speed)] == [False, False, True]
    apart = frontier(rows, by_speed, groups=[("A100", 8), ("A100", 8), ("H100", 8)])
    assert [row["on_frontier"] for row in apart] == [False, True, True]
    assert [row["rivals"] for row in apart] == [1, 1, 0]
    assert [row["group"] for row in apart] == [("A100", 8), ("A100", 8), ("H100", 8)]
    assert list(apart[0])[:4] == ["name", "model", "precision", "group"]


def test_without_any_interval_the_point_values_decide_and_it_is_marked(make_variant: MakeCell) -> None:
    rows = rows_of([make_variant(performance={"tpot_s": t}, precision=p) for p, t in (("fp16", 0.2), ("int8", 0.1))])
    slow, fast = frontier(rows, [Objective("tpot_s", False), Objective("weights_gb", False)])
    assert (slow["state"], slow["p_non_dominated"], slow["certain"]) == ("dominated", None, None)
    assert (fast["state"], fast["p_non_dominated"], fast["certain"]) == ("on the frontier", None, None)
    assert "tpot_s_ci95_low" not in fast
    assert fast["no_interval"] is None


def test_a_value_held_fixed_among_others_with_intervals_is_named(make_variant: MakeCell) -> None:
    variants = [make_variant(performance=speed(0.2, 0.1)), make_variant(precision="int8", performance=speed(0.19))]
    with_one, without = frontier(rows_of(variants), [Objective("tpot_s", False), Objective("weights_gb", False)])
    assert with_one["no_interval"] is None
    assert without["no_interval"] == "tpot_s"  # a size has no interval anywhere: not named
    assert (without["tpot_s_ci95_low"], without["tpot_s_ci95_high"]) == (None, None)
    expected = NormalDist(0.2, 0.1 / Z95).cdf(0.19)
    assert with_one["p_non_dominated"] == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(2000))


def test_a_tie_is_kept_on_both_sides(make_variant: MakeCell) -> None:
    rows = rows_of([make_variant(), make_variant(precision="int8")])
    assert [row["on_frontier"] for row in frontier(rows, [Objective("tpot_s", False)])] == [True, True]


def test_draws_and_seed_are_passed_on(rows: list[Row]) -> None:
    few = [row["p_non_dominated"] for row in frontier(rows, MMLU_TPOT, draws=10, seed=3)]
    assert all(p * 10 == pytest.approx(round(p * 10)) for p in few)
    assert frontier(rows, MMLU_TPOT, seed=1) == frontier(rows, MMLU_TPOT, seed=1)
    assert frontier(rows, MMLU_TPOT, seed=1) != frontier(rows, MMLU_TPOT, seed=2)


def test_no_row_takes_part_where_none_has_everything(make_variant: MakeCell) -> None:
    rows = rows_of([make_variant(performance=None), make_variant(precision="int8", energy=None)])
    table = frontier(rows, [Objective("tpot_s", False), Objective("energy_joules", False)])
    assert [row["excluded"] for row in table] == ["not measured: tpot_s", "not measured: energy_joules"]
    assert frontier([], MMLU_TPOT) == []


def test_a_frontier_of_nothing_or_with_too_few_groups_is_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="needs an objective"):
        frontier(rows, [])
    with pytest.raises(ValueError, match="one group a row"):
        frontier(rows, MMLU_TPOT, groups=["a"])


def test_numbers_of_a_table_read_back_are_numbers(rows: list[Row]) -> None:
    read = pd.DataFrame(rows).to_dict("records")
    read[0]["tpot_s"] = math.nan
    first, second, _ = frontier([{str(k): v for k, v in row.items()} for row in read], MMLU_TPOT)
    assert first["excluded"] == "not measured: tpot_s"
    assert second["state"] == "on the frontier"


def test_the_published_results_have_a_frontier(published: Path) -> None:
    rows = rows_of([variant for variant in find_results(published).variants if variant.records])
    chosen = default_objectives(rows)
    expected = ["accuracy_mean:max", "tokens_per_second:max", "energy_per_query_j:min", "model_size_gb:min"]
    assert names(chosen) == expected
    table = frontier(rows, chosen)
    compared = [row for row in table if row["excluded"] is None]
    assert len(table) == 13
    assert len(compared) > 1
    for row in compared:
        beaten = any(
            all(o[k] >= row[k] if m else o[k] <= row[k] for k, m in ((c.key, c.maximise) for c in chosen))
            and any(o[c.key] != row[c.key] for c in chosen)
            for o in compared
        )
        assert row["on_frontier"] is not beaten
