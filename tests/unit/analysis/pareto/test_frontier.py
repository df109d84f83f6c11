"""Objectives by name, and the frontiers of a study."""

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

from slim_eval.analysis.pareto.frontier import (
    Objective,
    Standing,
    default_objectives,
    find_frontiers,
    frontier,
    parse_objectives,
)
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import pareto_table, to_csv
from slim_eval.errors import UsageError
from slim_eval.metrics import ACCURACY_MEAN, ENERGY, METRICS, TPOT, WEIGHTS, task_metric
from slim_eval.results.store import find_results
from slim_eval.results.variants import Estimate, Variant, with_accuracy_mean

MakeVariant = Callable[..., Variant]
Z95 = NormalDist().inv_cdf(0.975)
BY_TPOT = Objective(TPOT, False)
BY_WEIGHTS = Objective(WEIGHTS, False)
MMLU_TPOT = (Objective(task_metric("mmlu"), True), BY_TPOT)


def accuracy(value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"accuracy": value, "intervals": {"accuracy": (low, high)}, **more}


def speed(value: float, half: float | None = None) -> dict[str, Any]:
    return {"tpot_s": value} | ({} if half is None else {"intervals": {"tpot_s": (value - half, value + half)}})


@pytest.fixture
def study(make_variant: MakeVariant) -> Study:
    """Three precisions: int8 is as good as fp16 and faster, int4 worse and the fastest; far apart, with intervals."""
    numbers = {"fp16": (0.60, 0.004), "int8": (0.60, 0.003), "int4": (0.50, 0.002)}
    return Study.of(
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


def standings(variants: Sequence[Variant], *objectives: Objective | str) -> tuple[Standing, ...]:
    """Where each variant is, by objectives or their names."""
    study = Study.of(variants)
    found = [o if isinstance(o, Objective) else parse_objectives(o, study)[0] for o in objectives]
    return frontier(study, found).standings


def verdict(standing: Standing) -> tuple[bool, float | None, str | None, bool | None]:
    """On the frontier by the point values, probability, state, certain."""
    assert standing.verdict is not None
    return standing.on_frontier, standing.verdict.probability, standing.state, standing.verdict.certain


# Parsing


@pytest.mark.parametrize(
    "texts", ["mmlu:max tpot_s:min", ["mmlu:max", "tpot_s:min"], ["mmlu:max,tpot_s:min"], [" mmlu  tpot_s "]]
)
def test_objectives_are_read_from_one_text_or_several(texts: str | list[str], study: Study) -> None:
    assert parse_objectives(texts, study) == MMLU_TPOT


def test_a_direction_that_is_known_may_be_left_out_and_may_be_turned(study: Study) -> None:
    assert names(parse_objectives("tokens_per_second weights_gb gsm8k:min", study)) == [
        "tokens_per_second:max",
        "weights_gb:min",
        "gsm8k:min",
    ]


def test_the_mean_accuracy_is_an_objective_though_no_record_has_it(study: Study) -> None:
    assert parse_objectives("accuracy_mean", study) == (Objective(ACCURACY_MEAN, True),)


def test_a_task_with_a_colon_in_its_name_is_an_objective(make_variant: MakeVariant) -> None:
    study = Study.of([make_variant(tasks={"aime:2024": 0.5})])
    assert parse_objectives("aime:2024", study) == parse_objectives("aime:2024:max", study)
    assert parse_objectives("aime:2024", study) == (Objective(task_metric("aime:2024"), True),)


def test_less_of_a_perplexity_is_better(make_variant: MakeVariant) -> None:
    wiki = {"accuracy": 11.5, "metric": "word_perplexity,none"}
    study = Study.of([make_variant(tasks={"mmlu": 0.5}), make_variant(precision="int8", tasks={"wikitext": wiki})])
    assert names(parse_objectives("wikitext mmlu", study)) == ["wikitext:min", "mmlu:max"]


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("mmul:max", "objective 'mmul': no result contains this metric", "did you mean mmlu"),
        ("tpot:min", "objective 'tpot': no result contains this metric", "tpot_s"),
        ("load_time_s", "'load_time_s': no result contains this metric", "for example: accuracy_mean:max tpot_s:min"),
        ("ttft_ms:min", "'ttft_ms': no result contains this metric", "did you mean ttft_s"),
        ("engine:max", "'engine': no result contains this metric", ""),
        ("valid:max", "'valid': no result contains this metric", ""),
        ("tpot_s:minimum", "objective 'tpot_s:minimum': 'minimum' is not a direction", "did you mean min"),
        ("tpot_s:down", "'down' is not a direction", "known: max, min"),
        ("tpot_s:", "'' is not a direction", "known: max, min"),
        (":min", "objective '': no result contains this metric", "for example: "),
        ("duration_seconds", "the better direction is unknown", "duration_seconds:min or duration_seconds:max"),
        ("mmlu:max tpot_s mmlu:min", "objective 'mmlu' is named twice", "once"),
        ("", "no objective is named", "for example: accuracy_mean:max tpot_s:min joules_per_output_token:min"),
        (" , ", "no objective is named", "for example: "),
    ],
)
def test_what_cannot_be_an_objective_is_refused_with_a_remedy(
    text: str, cause: str, remedy: str, make_variant: MakeVariant
) -> None:
    study = Study.of([make_variant(energy={"duration_seconds": 60.0}, tasks={"mmlu": 0.5, "gsm8k": 0.4})])
    with pytest.raises(UsageError) as caught:
        parse_objectives(text, study)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy
    assert "ci95" not in caught.value.remedy  # not what anyone means


def test_a_metric_without_a_known_direction_needs_one(make_variant: MakeVariant) -> None:
    study = Study.of([make_variant(energy={"duration_seconds": 60.0})])
    assert names(parse_objectives("duration_seconds:max", study)) == ["duration_seconds:max"]


def test_every_metric_of_the_table_is_an_objective_if_it_was_measured(study: Study) -> None:
    measured = [metric for metric in METRICS.values() if study.is_measured(metric)]
    assert len(measured) > 8
    assert names(parse_objectives([metric.key for metric in measured], study)) == [
        f"{metric.key}:{'max' if metric.better == 'higher' else 'min'}" for metric in measured
    ]


def test_without_variants_nothing_can_be_an_objective() -> None:
    assert default_objectives(Study.of([])) == ()
    with pytest.raises(UsageError, match="no result contains this metric"):
        parse_objectives("tpot_s", Study.of([]))


# Defaults


def test_the_defaults_are_accuracy_time_energy_and_memory(study: Study) -> None:
    assert names(default_objectives(study)) == [
        "accuracy_mean:max", "tpot_s:min", "joules_per_output_token:min", "weights_gb:min",
    ]  # fmt: skip


def test_the_defaults_fall_back_to_what_older_files_have(make_variant: MakeVariant) -> None:
    old = make_variant(
        performance={"tpot_s": None, "weights_gb": None}, energy={"joules_per_output_token": None}, tasks={"mmlu": 0.5}
    )
    fallbacks = ["accuracy_mean:max", "tokens_per_second:max", "energy_per_query_j:min", "model_size_gb:min"]
    assert names(default_objectives(Study.of([old]))) == fallbacks
    newer = make_variant(precision="int8")
    assert names(default_objectives(Study.of([old, newer])))[1:] == [
        "tpot_s:min", "joules_per_output_token:min", "weights_gb:min",
    ]  # fmt: skip


def test_what_was_never_measured_is_not_a_default(make_variant: MakeVariant) -> None:
    assert names(default_objectives(Study.of([make_variant(energy=None)]))) == ["tpot_s:min", "weights_gb:min"]


# The mean accuracy


def mean_of(variant: Variant) -> Estimate:
    found = variant.estimate(ACCURACY_MEAN)
    assert found is not None
    return found


def test_the_mean_has_an_interval_in_which_errors_add_up_in_squares(make_variant: MakeVariant) -> None:
    tasks = {"mmlu": accuracy(0.6, 0.57, 0.62), "gsm8k": accuracy(0.4, 0.36, 0.46)}
    (variant,) = with_accuracy_mean([make_variant(tasks=tasks)])
    mean = mean_of(variant)
    assert mean.value == pytest.approx(0.5)
    # sqrt(0.03² + 0.04²) / 2 below
    assert mean.interval == pytest.approx((0.5 - 0.05 / 2, 0.5 + math.hypot(0.02, 0.06) / 2))
    assert variant.mean_tasks == ("mmlu", "gsm8k")


def test_the_mean_of_one_task_is_that_task(make_variant: MakeVariant) -> None:
    (variant,) = with_accuracy_mean([make_variant(tasks={"mmlu": accuracy(0.6, 0.57, 0.62)})])
    mean = mean_of(variant)
    assert mean.value == pytest.approx(0.6)
    assert mean.interval == pytest.approx((0.57, 0.62))


def test_a_standard_error_replaces_a_missing_interval(make_variant: MakeVariant) -> None:
    (variant,) = with_accuracy_mean([make_variant(tasks={"mmlu": {"accuracy": 0.6, "stderr": 0.02}})])
    mean = mean_of(variant)
    assert mean.interval is not None
    assert mean.interval[1] - mean.value == pytest.approx(Z95 * 0.02)


def test_a_task_without_either_leaves_the_mean_without_an_interval(make_variant: MakeVariant) -> None:
    unknown = {"accuracy": 0.4, "stderr": None, "num_items": None, "limit": 50}
    tasks = {"mmlu": accuracy(0.6, 0.5, 0.7), "gsm8k": unknown}
    (variant,) = with_accuracy_mean([make_variant(tasks=tasks)])
    assert mean_of(variant) == Estimate(pytest.approx(0.5), None)


def test_a_variant_without_one_of_the_tasks_has_no_mean(make_variant: MakeVariant) -> None:
    variants = [make_variant(tasks={"mmlu": 0.6, "gsm8k": 0.0}), make_variant(precision="int8", tasks={"mmlu": 0.7})]
    full, part = with_accuracy_mean(variants)
    assert full.number(ACCURACY_MEAN) == 0.3  # an accuracy of 0 was measured
    assert part.number(ACCURACY_MEAN) is None
    assert part.mean_tasks == ("mmlu", "gsm8k")


def test_if_no_variant_has_all_tasks_the_most_that_one_has_count(make_variant: MakeVariant) -> None:
    tasks = [
        {"mmlu": 0.6},
        {"gsm8k": 0.5, "arc": 0.7},
        {"gsm8k": 0.1, "hellaswag": 0.3},
        {"gsm8k": 0.2, "hellaswag": 0.4},
    ]
    made = with_accuracy_mean([make_variant(f"org/M{index}", tasks=found) for index, found in enumerate(tasks)])
    assert {variant.mean_tasks for variant in made} == {("gsm8k", "hellaswag")}
    means = [variant.number(ACCURACY_MEAN) for variant in made]
    assert means == [None, None, pytest.approx(0.2), pytest.approx(0.3)]


def test_a_perplexity_is_not_part_of_a_mean_accuracy(make_variant: MakeVariant) -> None:
    wiki = {"accuracy": 11.5, "metric": "word_perplexity,none"}
    (variant,) = with_accuracy_mean([make_variant(tasks={"mmlu": 0.5, "wikitext": wiki})])
    assert (variant.number(ACCURACY_MEAN), variant.mean_tasks) == (0.5, ("mmlu",))


def test_only_the_requested_tasks_are_part_of_the_mean(make_variant: MakeVariant) -> None:
    bare = [make_variant(tasks={"mmlu": 0.6, "gsm8k": 0.4})]
    once = with_accuracy_mean(bare, ["gsm8k"])
    assert once[0].number(ACCURACY_MEAN) == 0.4
    assert with_accuracy_mean(once) == once  # and stay so
    assert bare[0].number(ACCURACY_MEAN) is None


def test_without_tasks_there_is_no_mean(make_variant: MakeVariant) -> None:
    (variant,) = with_accuracy_mean([make_variant()])
    assert (variant.number(ACCURACY_MEAN), variant.mean_tasks) == (None, ())
    assert with_accuracy_mean([]) == []


def test_means_are_over_the_tasks_of_each_setting_and_computed_once(make_variant: MakeVariant) -> None:
    other = {"environment": {"gpus": [{"name": "Other GPU"}]}}
    variants = [
        make_variant("org/A", tasks={"mmlu": 0.5, "arc": 0.7}),
        make_variant("org/B", tasks={"quiz": 0.25}, head=other),
        make_variant("org/C", tasks={"mmlu": 0.4}),
    ]
    made = Study.of(variants, ("mmlu", "arc", "quiz")).variants
    assert [(variant.number(ACCURACY_MEAN), variant.mean_tasks) for variant in made] == [
        (pytest.approx(0.6), ("mmlu", "arc")),
        (0.25, ("quiz",)),
        (None, ("mmlu", "arc")),
    ]
    again = Study.of(made, ("mmlu",)).variants
    assert [variant.mean_tasks for variant in again] == [variant.mean_tasks for variant in made]


# The frontier


def test_the_frontier_names_the_state_of_each_variant(study: Study) -> None:
    found = frontier(study, MMLU_TPOT)
    fp16, int8, int4 = found.standings
    assert [row["precision"] for row in found.rows] == ["fp16", "int8", "int4"]
    assert (found.rows[0]["name"], found.rows[0]["model"]) == ("Tiny", "org/Tiny")
    # Half of the time fp16 is the more accurate one by chance: as accurate is not the same as known to be.
    half = pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2000))
    assert verdict(fp16) == (False, half, "inconclusive", False)
    on_frontier, _, state, certain = verdict(int8)
    assert (on_frontier, state, certain) == (True, "on the frontier", True)
    assert verdict(int4) == (True, 1.0, "on the frontier", True)
    assert {standing.rivals for standing in found.standings} == {2}
    assert {standing.excluded for standing in found.standings} == {None}


def test_the_columns_are_those_of_the_file(study: Study) -> None:
    table = frontier(study, [*MMLU_TPOT, BY_WEIGHTS]).rows
    assert list(table[0]) == [
        "name", "model", "precision", "group", "mmlu", "mmlu_ci95_low", "mmlu_ci95_high", "tpot_s", "tpot_s_ci95_low",
        "tpot_s_ci95_high", "weights_gb", "on_frontier", "p_non_dominated", "state", "certain", "rivals", "no_interval",
        "excluded", "confounded", "hypervolume_lost",
    ]  # fmt: skip
    assert [list(row) for row in table] == [list(table[0])] * 3
    assert (table[0]["mmlu"], table[0]["mmlu_ci95_low"], table[0]["weights_gb"]) == (0.6, 0.599, 2.0)
    fields = list(csv.DictReader(io.StringIO(to_csv(pd.DataFrame(table)))))
    assert (fields[1]["state"], fields[1]["on_frontier"], fields[1]["excluded"]) == ("on the frontier", "True", "")


def test_a_worse_variant_is_dominated(study: Study) -> None:
    found = frontier(study, [BY_TPOT]).standings
    assert [standing.state for standing in found] == ["dominated", "dominated", "on the frontier"]
    assert verdict(found[0]) == (False, 0.0, "dominated", True)
    slowest, _, fastest = frontier(study, [Objective(TPOT, True)]).standings
    assert (slowest.state, fastest.state) == ("on the frontier", "dominated")


def test_a_missing_value_excludes_and_is_named(make_variant: MakeVariant) -> None:
    variants = [
        make_variant(tasks={"mmlu": 0.5, "gsm8k": 0.5}),
        make_variant(precision="int8", performance={"tpot_s": None}, tasks={"mmlu": 0.9, "gsm8k": 0.9}),
        make_variant(precision="int4", performance=None, tasks={"mmlu": 0.9}),
    ]
    study = Study.of(variants)
    fp16, int8, int4 = frontier(study, parse_objectives("accuracy_mean tpot_s", study)).rows
    assert (fp16["state"], fp16["rivals"], fp16["excluded"]) == ("on the frontier", 0, None)
    assert fp16["accuracy_mean_tasks"] == "mmlu, gsm8k"
    assert int8["excluded"] == "not measured: tpot_s"
    assert int4["excluded"] == "not measured: accuracy_mean (no gsm8k), tpot_s"
    nothing = (
        "on_frontier", "p_non_dominated", "state", "certain", "rivals", "no_interval", "confounded", "hypervolume_lost",
    )  # fmt: skip
    assert {int8[key] for key in nothing} == {int4[key] for key in nothing} == {None}
    assert (int8["tpot_s"], int8["accuracy_mean"]) == (None, 0.9)  # what was measured is still shown


def test_energy_that_is_marked_invalid_excludes_only_from_comparisons_by_energy(make_variant: MakeVariant) -> None:
    variants = [make_variant(energy={"valid": False, "joules_per_output_token": 0.1}), make_variant(precision="int8")]
    fp16, int8 = standings(variants, "joules_per_output_token", "tpot_s")
    assert (fp16.excluded, fp16.verdict) == ("invalid: joules_per_output_token", None)
    assert (int8.on_frontier, int8.rivals) == (True, 0)
    assert {standing.excluded for standing in standings(variants, "tpot_s")} == {None}


def test_a_task_with_energy_in_its_name_is_not_an_energy(make_variant: MakeVariant) -> None:
    (found,) = standings([make_variant(energy={"valid": False}, tasks={"energy_quiz": 0.5})], "energy_quiz")
    assert found.excluded is None


def test_two_reasons_are_both_named(make_variant: MakeVariant) -> None:
    variants = [make_variant(performance=None, energy={"valid": False}), make_variant(precision="int8")]
    assert standings(variants, "energy_joules", "tpot_s")[0].excluded == "not measured: tpot_s; invalid: energy_joules"


def test_variants_of_different_settings_are_not_compared(make_variant: MakeVariant, study: Study) -> None:
    assert [standing.on_frontier for standing in frontier(study, [BY_TPOT]).standings] == [False, False, True]
    apart = standings(
        [
            make_variant(performance=speed(0.004)),
            make_variant(precision="int8", performance=speed(0.003)),
            make_variant(
                precision="int4", performance=speed(0.002), head={"environment": {"gpus": [{"name": "Other GPU"}]}}
            ),
        ],
        BY_TPOT,
    )
    assert [standing.on_frontier for standing in apart] == [False, True, True]
    assert [standing.rivals for standing in apart] == [1, 1, 0]
    assert apart[0].group == apart[1].group == "vllm, Test GPU, Test CPU"
    assert apart[2].group == "vllm, Other GPU"


def test_without_any_interval_the_point_values_decide_and_it_is_marked(make_variant: MakeVariant) -> None:
    study = Study.of([make_variant(performance={"tpot_s": t}, precision=p) for p, t in (("fp16", 0.2), ("int8", 0.1))])
    found = frontier(study, [BY_TPOT, BY_WEIGHTS])
    slow, fast = found.standings
    assert verdict(slow) == (False, None, "dominated", None)
    assert verdict(fast) == (True, None, "on the frontier", None)
    assert "tpot_s_ci95_low" not in found.rows[1]
    assert found.rows[1]["no_interval"] is None


def test_a_value_without_an_interval_among_others_with_one_is_named(make_variant: MakeVariant) -> None:
    variants = [make_variant(performance=speed(0.2, 0.1)), make_variant(precision="int8", performance=speed(0.19))]
    with_one, without = frontier(Study.of(variants), [BY_TPOT, BY_WEIGHTS]).rows
    assert with_one["no_interval"] is None
    assert without["no_interval"] == "tpot_s"  # a size has no interval anywhere: not named
    assert (without["tpot_s_ci95_low"], without["tpot_s_ci95_high"]) == (None, None)
    expected = NormalDist(0.2, 0.1 / Z95).cdf(0.19)
    assert with_one["p_non_dominated"] == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(2000))


def test_a_tie_is_kept_on_both_sides(make_variant: MakeVariant) -> None:
    found = standings([make_variant(), make_variant(precision="int8")], BY_TPOT)
    assert [standing.on_frontier for standing in found] == [True, True]


def test_draws_and_seed_are_passed_on(study: Study) -> None:
    few = [verdict(standing)[1] for standing in frontier(study, MMLU_TPOT, draws=10, seed=3).standings]
    assert all(p is not None and p * 10 == pytest.approx(round(p * 10)) for p in few)
    assert frontier(study, MMLU_TPOT, seed=1) == frontier(study, MMLU_TPOT, seed=1)
    assert frontier(study, MMLU_TPOT, seed=1) != frontier(study, MMLU_TPOT, seed=2)


def test_no_variant_is_compared_if_none_has_everything(make_variant: MakeVariant) -> None:
    variants = [make_variant(performance=None), make_variant(precision="int8", energy=None)]
    found = standings(variants, BY_TPOT, Objective(ENERGY, False))
    assert [standing.excluded for standing in found] == ["not measured: tpot_s", "not measured: energy_joules"]
    assert frontier(Study.of([]), MMLU_TPOT).standings == ()


def test_a_frontier_of_no_objective_is_refused(study: Study) -> None:
    with pytest.raises(ValueError, match="needs an objective"):
        frontier(study, [])


def test_the_published_results_have_a_frontier(published: Path) -> None:
    study = Study.of([variant for variant in find_results(published).variants if variant.records])
    chosen = default_objectives(study)
    expected = ["accuracy_mean:max", "tokens_per_second:max", "energy_per_query_j:min", "model_size_gb:min"]
    assert names(chosen) == expected
    table = frontier(study, chosen).rows
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


# All frontiers of an analysis


def test_the_default_frontier_and_the_requested_one_are_below_each_other(make_variant: MakeVariant) -> None:
    variants = [
        make_variant("org/A", tasks={"mmlu": 0.5}),
        make_variant("org/B", performance={"tpot_s": 0.002}, tasks={"mmlu": 0.4}),
        make_variant("org/C", performance={"tpot_s": 0.005}, tasks={"mmlu": 0.3}),
    ]
    found = find_frontiers(Study.of(variants), ("mmlu:max", "tpot_s"))
    assert [each.title for each in found] == [
        "accuracy_mean:max tpot_s:min joules_per_output_token:min weights_gb:min",
        "mmlu:max tpot_s:min",
    ]
    assert [standing.state for standing in found[1].standings] == ["on the frontier", "on the frontier", "dominated"]
    table = pareto_table(found)
    assert table["objectives"].tolist() == [found[0].title] * 3 + [found[1].title] * 3
    assert table["weights_gb"].isna().tolist() == [False] * 3 + [True] * 3
    assert set(table["rivals"]) == {2}
    assert ",2," in to_csv(table).splitlines()[1]  # a whole number


def test_each_setting_has_default_objectives_of_its_own(make_variant: MakeVariant) -> None:
    old = {"engine": None, "environment": {"gpus": [{"name": "Old GPU"}]}, "model_size_gb": None}
    lacking = {"ttft_s": None, "tpot_s": None, "weights_gb": None}
    variants = [
        make_variant("org/A", tasks={"mmlu": 0.5}),
        make_variant(
            "org/B", head=old, performance=lacking, energy={"joules_per_output_token": None}, tasks={"mmlu": 0.5}
        ),
    ]
    found = find_frontiers(Study.of(variants))
    assert [each.title for each in found] == [
        "accuracy_mean:max tpot_s:min joules_per_output_token:min weights_gb:min",
        "accuracy_mean:max tokens_per_second:max energy_per_query_j:min",
    ]
    first, second = found[0].standings
    assert first.excluded is None
    assert second.excluded is not None
    assert "not measured: tpot_s" in second.excluded
    assert len({standing.group for standing in found[1].standings}) == 2
    assert [standing.rivals for standing in found[1].standings] == [0, 0]


def test_a_default_objective_that_few_have_is_not_used(make_variant: MakeVariant) -> None:
    sizes = [4.0, None, None]
    variants = [
        make_variant(f"org/M{index}", head={"model_size_gb": size}, performance={"weights_gb": None}, energy=None)
        for index, size in enumerate(sizes)
    ]
    (found,) = find_frontiers(Study.of(variants))
    assert found.title == "tpot_s:min"
    assert all(standing.excluded is None for standing in found.standings)


def test_different_work_is_marked_only_in_its_group(make_variant: MakeVariant) -> None:
    other = {"environment": {"gpus": [{"name": "Other GPU"}]}}
    variants = [
        make_variant("org/A", energy=None),
        make_variant("org/B", energy=None, performance={"output_tokens": 150.0}),
        make_variant("org/C", energy=None, head=other),
        make_variant("org/D", energy=None, head=other),
    ]
    found = find_frontiers(Study.of(variants), ("mean_latency_s",))[-1]
    assert [standing.confounded for standing in found.standings] == [
        "mean_latency_s: 100.0 to 150.0 output tokens per request: different work"
    ] * 2 + [None] * 2


def test_emulated_kernels_are_not_rivals_of_native_ones(make_variant: MakeVariant) -> None:
    variants = [make_variant(energy=None), make_variant(precision="int8", energy=None, head={"kernels": "emulated"})]
    (found,) = find_frontiers(Study.of(variants))
    assert [standing.rivals for standing in found.standings] == [0, 0]


def test_an_objective_that_was_not_measured_is_refused_with_the_nearest_names(make_variant: MakeVariant) -> None:
    with pytest.raises(UsageError) as caught:
        find_frontiers(Study.of([make_variant()]), ("tpot:min",))
    assert "tpot" in caught.value.cause
    assert "tpot_s" in caught.value.remedy


def test_without_measurements_there_is_no_frontier_and_an_empty_table(make_variant: MakeVariant) -> None:
    bare = make_variant(performance=None, energy=None, head={"model_size_gb": None})
    assert find_frontiers(Study.of([bare])) == []
    assert to_csv(pareto_table([])).startswith("objectives,name,model,precision,group,on_frontier")
