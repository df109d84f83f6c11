"""Two variants on the same items: planted outcomes, verdicts, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis.compare.items import give_verdicts, pair, pair_all, update_paired, verdict
from slim_eval.results.records import PairedTask
from slim_eval.results.store import find_results
from slim_eval.results.variants import Variant
from tests.planted import items, outcomes

MakeCell = Callable[..., Variant]


@pytest.fixture
def two_variants(make_variant: MakeCell) -> Callable[..., tuple[Variant, Variant]]:
    """The 16-bit and the int8 variant, with these items and these settings of the task."""

    def make(
        before: Sequence[dict[str, Any]],
        after: Sequence[dict[str, Any]],
        *,
        first: dict[str, Any] | None = None,
        second: dict[str, Any] | None = None,
    ) -> tuple[Variant, Variant]:
        made = []
        for precision, rows, settings in (("fp16", before, first), ("int8", after, second)):
            task = {"accuracy": 0.5, "num_items": len(rows) or 1, **(settings or {})}
            variant = make_variant(precision=precision, tasks={"quiz": task}, samples={"quiz": rows})
            made.append(variant)
        return made[0], made[1]

    return make


def paired(variants: tuple[Variant, Variant], margin_pp: float = 1.0) -> PairedTask:
    ((task,),) = give_verdicts([pair(*variants)], margin_pp)
    return task


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"num_items": 10_000, "right": 7000, "lost": 50, "gained": 50}, "equivalent"),
        ({"num_items": 10_000, "right": 7000, "lost": 40, "gained": 400}, "equivalent"),  # surely better
        ({"num_items": 2000, "right": 1400, "lost": 150, "gained": 40}, "degraded"),
        ({"num_items": 200, "right": 140, "lost": 8, "gained": 6}, "underpowered"),
        ({"num_items": 200, "right": 200}, "underpowered"),  # all right in both: 200 items cannot exclude 1 point
        ({"num_items": 200, "right": 0}, "underpowered"),  # all wrong in both
        ({"num_items": 1, "right": 1}, "underpowered"),
        ({"num_items": 1, "right": 1, "lost": 1}, "underpowered"),
        ({"num_items": 2000, "right": 1400}, "equivalent"),  # not one flip in 2,000
    ],
)
def test_planted_outcomes_get_the_right_verdict(
    two_variants: Callable[..., tuple[Variant, Variant]], planted: dict[str, int], expected: str
) -> None:
    before, after = outcomes(**planted)
    task = paired(two_variants(items(before), items(after)))
    lost, gained, n = planted.get("lost", 0), planted.get("gained", 0), planted["num_items"]
    assert (task.lost, task.gained, task.num_items) == (lost, gained, n)
    assert task.drop_pp == pytest.approx(100 * (lost - gained) / n)
    assert task.flips == pytest.approx((lost + gained) / n)
    assert task.interval_pp is not None
    assert task.interval_pp[0] < task.interval_pp[1]
    assert task.verdict == expected
    assert (task.items_needed is not None) is (expected == "underpowered")
    assert task.items_needed is None or task.items_needed > n


def test_the_margin_decides_what_is_equivalent(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    before, after = outcomes(2000, right=1400, lost=150, gained=40)  # a drop of 5.5 points
    variants = two_variants(items(before), items(after))
    assert paired(variants, margin_pp=10).verdict == "equivalent"
    assert paired(variants, margin_pp=5).verdict == "degraded"


@pytest.mark.parametrize(
    ("interval", "p", "expected"),
    [
        ((-0.5, 0.9), 0.5, "equivalent"),
        ((0.2, 0.9), 0.001, "equivalent"),  # really worse, but surely by less than the margin
        ((0.2, 1.5), 0.001, "degraded"),
        ((0.2, 1.5), 0.2, "underpowered"),  # no longer significant once corrected for the other tasks
        ((-0.2, 1.5), 0.001, "underpowered"),
        (None, None, "underpowered"),
    ],
)
def test_the_verdict_follows_interval_and_corrected_p(
    interval: tuple[float, float] | None, p: float | None, expected: str
) -> None:
    assert verdict(interval, p, 1.0) == expected


def test_p_values_of_all_pairs_shown_are_corrected_together() -> None:
    tasks = [PairedTask(task=name, drop_pp=2.0, interval_pp=(0.1, 4.0), p_value=0.03) for name in ("a", "b")]
    ((alone,),) = give_verdicts([tasks[:1]], 1.0)
    (first, second) = give_verdicts([tasks[:1], tasks[1:]], 1.0)
    assert (alone.p_value_holm, alone.verdict) == (0.03, "degraded")
    assert (first[0].p_value_holm, first[0].verdict) == (0.06, "underpowered")
    assert second[0].p_value_holm == 0.06


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limit": 100}, "limit 100 against all items"),
        ({"num_fewshot": 0}, "few-shot examples 0 against 5"),
        ({"metric": "exact_match,none"}, "metric exact_match against acc"),
        ({"apply_chat_template": True}, "chat template"),
        ({"task_versions": {"quiz": 2.0}}, "task version 2.0 against 1.0"),
        ({"task_hashes": {"quiz": "other"}}, "items (by hash)"),
    ],
)
def test_other_work_is_refused_and_the_difference_named(
    two_variants: Callable[..., tuple[Variant, Variant]], settings: dict[str, Any], said: str
) -> None:
    before, after = outcomes(100, right=50)
    base = {"task_versions": {"quiz": 1.0}, "task_hashes": {"quiz": "one"}, "apply_chat_template": False}
    task = paired(two_variants(items(before), items(after), first=base, second=base | settings))
    assert task.refused is not None
    assert said in task.refused
    assert (task.drop_pp, task.verdict, task.p_value) == (None, None, None)


def test_other_items_are_refused_even_where_the_records_agree(
    two_variants: Callable[..., tuple[Variant, Variant]],
) -> None:
    rows = items([1.0] * 10)
    task = paired(two_variants(rows[:9], rows[1:]))
    assert task.refused == "items differ: 1 only in the first, 1 only in the second, 8 in both"


def test_other_prompts_are_refused(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    task = paired(two_variants(items([1.0] * 10), items([1.0] * 10, prompt="q")))
    assert task.refused is not None
    assert "prompts differ for 10 of 10 items" in task.refused


def test_without_outcomes_of_items_there_is_no_verdict(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    unknown = {"stderr": None, "num_items": None}
    task = paired(two_variants(items([1.0]), [], first=unknown, second=unknown))
    assert task.refused == "int8 has no outcomes of single items"


def test_items_are_matched_by_what_they_are_not_by_their_place(
    two_variants: Callable[..., tuple[Variant, Variant]],
) -> None:
    before, after = outcomes(50, right=30, lost=5)
    task = paired(two_variants(items(before), items(after)[::-1]))
    assert (task.lost, task.gained) == (5, 0)


def test_an_item_that_stands_twice_counts_twice(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    rows = [*items([1.0]), *items([1.0])]
    assert paired(two_variants(rows, rows)).num_items == 2


def test_items_without_a_score_are_left_out_and_counted(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    task = paired(two_variants(items([1.0, float("nan"), 0.0]), items([1.0, float("nan"), 0.0])))
    assert (task.num_items, task.num_left_out) == (2, 1)


def test_items_that_only_one_side_scored_are_no_pairs(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    before = [1.0] * 700 + [0.0] * 300
    task = paired(two_variants(items(before), items([float("nan")] * 350 + before[350:])))
    assert task.refused == "350 of 1000 items have a score on one side only"
    assert task.verdict is None


def test_a_drop_near_the_margin_does_not_ask_for_one_more_item(
    two_variants: Callable[..., tuple[Variant, Variant]],
) -> None:
    before, after = outcomes(8000, right=6000, lost=400, gained=360)  # 0.5 points, between -0.2 and 1.2
    task = paired(two_variants(items(before), items(after)))
    assert (task.verdict, task.items_needed) == ("underpowered", None)


def test_items_of_few_subtasks_are_worth_less(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    def rows(scores: list[float]) -> list[dict[str, Any]]:
        return [row | {"task": f"s{n // 40}"} for n, row in enumerate(items(scores))]

    task = paired(two_variants(rows([1.0] * 400), rows([0.0] * 20 + [1.0] * 380)))
    alone = paired(two_variants(items([1.0] * 400), items([0.0] * 20 + [1.0] * 380)))
    assert task.design_effect is not None
    assert task.design_effect > 5
    assert alone.design_effect == pytest.approx(1)


def test_graded_scores_have_a_drop_and_no_flips(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    before = [0.5 + 0.01 * (n % 7) for n in range(60)]
    task = paired(two_variants(items(before), items([value - 0.1 - 0.001 * (n % 5) for n, value in enumerate(before)])))
    assert task.drop_pp == pytest.approx(10.2)
    assert (task.flips, task.lost) == (None, None)
    assert task.verdict == "degraded"


def test_subtasks_are_clusters_and_widen_the_interval(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    def rows(scores: list[float], *, clustered: bool) -> list[dict[str, Any]]:
        return [row | {"task": f"s{n // 40 if clustered else 0}"} for n, row in enumerate(items(scores))]

    before = [1.0] * 400
    after = [0.0] * 40 + [1.0] * 360  # one subject of ten is lost whole
    together, alone = (paired(two_variants(rows(before, clustered=c), rows(after, clustered=c))) for c in (True, False))
    assert (together.num_clusters, alone.num_clusters) == (10, 1)
    assert together.drop_pp == alone.drop_pp == pytest.approx(10)
    widths = [task.interval_pp[1] - task.interval_pp[0] for task in (together, alone) if task.interval_pp]
    assert widths[0] > 2 * widths[1]


def test_kl_is_over_the_answer_choices(two_variants: Callable[..., tuple[Variant, Variant]]) -> None:
    rows = [row | {"loglikelihoods": [-1.0, -2.0]} for row in items([1.0] * 4)]
    moved = [row | {"loglikelihoods": [-2.0, -1.0]} for row in rows]
    assert paired(two_variants(rows, rows)).answer_kl == pytest.approx(0)
    assert paired(two_variants(rows, moved)).answer_kl == pytest.approx(0.4621, abs=1e-4)  # tanh(1/2)


def test_paired_json_appears_once_both_variants_are_there(make_variant: MakeCell) -> None:
    before, after = outcomes(400, right=300, lost=60)
    variant = make_variant(precision="int4", tasks={"quiz": 0.6}, samples={"quiz": items(after)})
    assert update_paired(variant.directory.parent, 1.0) == []
    assert not (variant.directory / "paired.json").exists()
    make_variant(tasks={"quiz": 0.75}, samples={"quiz": items(before)})
    (record,) = update_paired(variant.directory.parent, 1.0)
    content = json.loads((variant.directory / "paired.json").read_text())
    assert content["tasks"][0]["verdict"] == record.tasks[0].verdict == "degraded"
    assert content["baseline"] == "../Tiny_fp16"
    assert (variant.directory / content["baseline"] / "quiz.json").exists()
    assert [variant.precision for variant in find_results(variant.directory.parent).variants] == ["fp16", "int4"]


def test_the_baseline_of_the_same_run_is_taken(make_variant: MakeCell, tmp_path: Path) -> None:
    before, after = outcomes(40, right=30)
    for run in ("one", "two"):
        for precision, scores in (("fp16", before), ("int8", after)):
            folder = tmp_path / run / "Tiny" / f"Tiny_{precision}"
            make_variant(precision=precision, tasks={"quiz": 0.7}, samples={"quiz": items(scores)}, directory=folder)
    for (base, variant), _ in pair_all(find_results(tmp_path).variants, 1.0):
        assert base.directory.parent == variant.directory.parent


def test_few_subtasks_that_differ_need_further_subtasks_not_items(
    two_variants: Callable[..., tuple[Variant, Variant]],
) -> None:
    def rows(scores: list[float]) -> list[dict[str, Any]]:
        return [row | {"task": f"s{n // 100}"} for n, row in enumerate(items(scores))]

    # All of the loss is in one subtask of four.
    task = paired(two_variants(rows([1.0] * 400), rows([0.0] * 20 + [1.0] * 380)))
    assert (task.verdict, task.items_needed, task.needs_subtasks) == ("underpowered", None, True)
    # The same flips, spread evenly over the subtasks both ways: more items of them are enough.
    before = [0.0 if n % 20 == 0 else 1.0 for n in range(400)]
    after = [0.0 if n % 20 == 5 else 1.0 for n in range(400)]
    even = paired(two_variants(rows(before), rows(after)))
    assert (even.verdict, even.needs_subtasks) == ("underpowered", False)
    assert even.items_needed is not None
    alone = paired(two_variants(items(before), items(after)))
    assert alone.items_needed is not None
    assert even.items_needed > 1.5 * alone.items_needed  # quantiles of t with three degrees of freedom


def test_a_checkpoint_that_came_quantized_is_paired_with_its_base_model(make_variant: MakeCell) -> None:
    before, after = outcomes(400, right=300, lost=60)
    base = make_variant("org/Tiny", tasks={"quiz": 0.75}, samples={"quiz": items(before)})
    made = make_variant(
        "org/Tiny-AWQ", "w4a16-awq g128", tasks={"quiz": 0.6}, samples={"quiz": items(after)},
        head={"base_model": "org/Tiny"},
    )  # fmt: skip
    (record,) = update_paired([made.directory.parent, base.directory.parent], 1.0)
    assert (record.precision, record.tasks[0].verdict) == ("w4a16-awq g128", "degraded")
    assert record.baseline == "../../Tiny/Tiny_fp16"
    assert (made.directory / record.baseline / "quiz.json").exists()
    assert not (base.directory / "paired.json").exists()
