"""The frontiers of an analysis: their objectives, their groups, and what confounds them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from slim_eval.analysis.pareto.frontiers import find_frontiers, pareto_table, with_means
from slim_eval.analysis.tables.results_table import records_of, to_csv
from slim_eval.results.rows import rows_of

from slim_eval.errors import UsageError
from slim_eval.results.variants import Variant

MakeCell = Callable[..., Variant]


def test_the_default_frontier_and_the_one_asked_for_stand_below_each_other(make_variant: MakeCell) -> None:
    variants = [
        make_variant("org/A", tasks={"mmlu": 0.5}),
        make_variant("org/B", performance={"tpot_s": 0.002}, tasks={"mmlu": 0.4}),
        make_variant("org/C", performance={"tpot_s": 0.005}, tasks={"mmlu": 0.3}),
    ]
    found = find_frontiers(rows_of(variants), ("mmlu",), ("mmlu:max", "tpot_s"))
    assert [frontier.title for frontier in found] == [
        "accuracy_mean:max tpot_s:min joules_per_output_token:min weights_gb:min",
        "mmlu:max tpot_s:min",
    ]
    assert [row["state"] for row in found[1].rows] == ["on the frontier", "on the frontier", "dominated"]
    table = records_of(pareto_table(found))
    assert [row["objectives"] for row in table] == [found[0].title] * 3 + [found[1].title] * 3
    assert [row["weights_gb"] for row in table] == [2.0] * 3 + [None] * 3
    assert {row["rivals"] for row in table} == {2}
    assert ",2," in to_csv(pareto_table(found)).splitlines()[1]  # a whole number


def test_each_setting_has_default_objectives_of_its_own(make_variant: MakeCell) -> None:
    old = {"engine": None, "environment": {"gpus": [{"name": "Old GPU"}]}, "model_size_gb": None}
    lacking = {"ttft_s": None, "tpot_s": None, "weights_gb": None}
    variants = [
        make_variant("org/A", tasks={"mmlu": 0.5}),
        make_variant(
            "org/B", head=old, performance=lacking, energy={"joules_per_output_token": None}, tasks={"mmlu": 0.5}
        ),
    ]
    found = find_frontiers(rows_of(variants), ("mmlu",))
    assert [frontier.title for frontier in found] == [
        "accuracy_mean:max tpot_s:min joules_per_output_token:min weights_gb:min",
        "accuracy_mean:max tokens_per_second:max energy_per_query_j:min",
    ]
    assert found[0].rows[0]["excluded"] is None
    assert "not measured: tpot_s" in found[0].rows[1]["excluded"]
    assert found[1].rows[0]["group"] != found[1].rows[1]["group"]
    assert [row["rivals"] for row in found[1].rows] == [0, 0]


def test_a_default_objective_that_few_have_is_left_out(make_variant: MakeCell) -> None:
    sizes = [4.0, None, None]
    variants = [
        make_variant(f"org/M{index}", head={"model_size_gb": size}, performance={"weights_gb": None}, energy=None)
        for index, size in enumerate(sizes)
    ]
    (found,) = find_frontiers(rows_of(variants), ())
    assert found.title == "tpot_s:min"
    assert all(row["excluded"] is None for row in found.rows)


def test_different_work_is_marked_in_its_group_alone(make_variant: MakeCell) -> None:
    other = {"environment": {"gpus": [{"name": "Other GPU"}]}}
    variants = [
        make_variant("org/A", energy=None),
        make_variant("org/B", energy=None, performance={"output_tokens": 150.0}),
        make_variant("org/C", energy=None, head=other),
        make_variant("org/D", energy=None, head=other),
    ]
    frontier = find_frontiers(rows_of(variants), (), ("mean_latency_s",))[-1]
    assert [row["confounded"] for row in frontier.rows] == [
        "mean_latency_s: 100.0 to 150.0 output tokens a request: different work"
    ] * 2 + [None] * 2


def test_emulated_kernels_are_no_rivals_of_native_ones(make_variant: MakeCell) -> None:
    variants = [make_variant(energy=None), make_variant(precision="int8", energy=None, head={"kernels": "emulated"})]
    (found,) = find_frontiers(rows_of(variants), ())
    assert [row["rivals"] for row in found.rows] == [0, 0]


def test_an_objective_that_no_row_has_is_refused_with_the_nearest_names(make_variant: MakeCell) -> None:
    with pytest.raises(UsageError) as caught:
        find_frontiers(rows_of([make_variant()]), (), ("tpot:min",))
    assert "tpot" in caught.value.cause
    assert "tpot_s" in caught.value.remedy


def test_nothing_measured_makes_no_frontier_and_an_empty_table(make_variant: MakeCell) -> None:
    bare = make_variant(performance=None, energy=None, head={"model_size_gb": None})
    assert find_frontiers(rows_of([bare]), ()) == []
    assert to_csv(pareto_table([])).startswith("objectives,name,model,precision,group,on_frontier")


def test_means_are_over_the_tasks_of_each_setting_and_made_once(make_variant: MakeCell) -> None:
    other = {"environment": {"gpus": [{"name": "Other GPU"}]}}
    variants = [
        make_variant("org/A", tasks={"mmlu": 0.5, "arc": 0.7}),
        make_variant("org/B", tasks={"quiz": 0.25}, head=other),
        make_variant("org/C", tasks={"mmlu": 0.4}),
    ]
    made = with_means(rows_of(variants), ("mmlu", "arc", "quiz"))
    assert [(row["accuracy_mean"], row["accuracy_mean_tasks"]) for row in made] == [
        (pytest.approx(0.6), "mmlu, arc"),
        (0.25, "quiz"),
        (None, "mmlu, arc"),
    ]
    assert with_means(made, ("mmlu",)) == made
    assert with_means([], ()) == []
