"""Drops without outcomes of single items: from standard errors, numbers of items, or the full size of the task."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from slim_eval import cli
from slim_eval.analysis.compare.comparison import compare
from slim_eval.analysis.compare.gate import Decision, decide, parse
from slim_eval.analysis.compare.items import give_verdicts, pair
from slim_eval.results.records import PairedTask
from slim_eval.results.task_sizes import FULL_SIZES
from slim_eval.results.variants import Variant

ROOT = Path(__file__).resolve().parents[4]
PUBLISHED = ROOT / "outputs" / "published-a100"
FAULTS = ROOT.parent / "shared" / "faults" / "import"
MakeCell = Callable[..., Variant]
BARE: dict[str, Any] = {"stderr": None, "num_items": None, "limit": None}


def run(*args: str | Path) -> int:
    return cli.main([*map(str, args)])


def two(make_variant: MakeCell, task: str, before: dict[str, Any], after: dict[str, Any]) -> tuple[Variant, Variant]:
    return make_variant(tasks={task: BARE | before}), make_variant(precision="int4", tasks={task: BARE | after})


def judged(variants: tuple[Variant, Variant], margin_pp: float = 1.0) -> PairedTask:
    ((task,),) = give_verdicts([pair(*variants)], margin_pp)
    return task


def test_two_standard_errors_give_an_interval(make_variant: MakeCell) -> None:
    sides = [{"accuracy": a, "stderr": e} for a, e in ((0.72, 0.004), (0.68, 0.005))]
    task = judged(two(make_variant, "quiz", *sides))
    assert (task.unpaired, task.assumed, task.interval_from) == (True, False, "the standard error")
    assert task.refused is None
    half = 196.0 * math.hypot(0.004, 0.005)
    assert task.interval_pp == pytest.approx((4 - half, 4 + half), abs=0.01)
    assert (task.verdict, task.lost, task.flips, task.num_items) == ("degraded", None, None, None)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(0.72, 0.60, "degraded"), (0.70, 0.695, "underpowered"), (0.60, 0.72, "equivalent")],
)
def test_a_number_of_items_gives_a_binomial_interval(
    make_variant: MakeCell, before: float, after: float, expected: str
) -> None:
    task = judged(
        two(make_variant, "quiz", {"accuracy": before, "num_items": 800}, {"accuracy": after, "num_items": 800})
    )
    by_other_code = confint_proportions_2indep(before * 800, 800, after * 800, 800, method="newcomb", compare="diff")
    assert task.interval_pp == pytest.approx([100 * end for end in by_other_code])
    assert (task.verdict, task.num_items, task.assumed) == (expected, 800, False)
    assert (task.items_needed is not None) is (expected == "underpowered")
    assert task.items_needed is None or task.items_needed > 800


def test_the_full_size_is_assumed_only_without_a_limit(make_variant: MakeCell) -> None:
    before, after = {"accuracy": 0.7}, {"accuracy": 0.62}
    task = judged(two(make_variant, "gsm8k", before, after))
    assert (task.assumed, task.num_items, task.verdict) == (True, 1319, "degraded")
    assert task.interval_from == "the task's full size, 1,319 items"
    limited = judged(two(make_variant, "gsm8k", before | {"limit": 50}, after | {"limit": 50}))
    unknown = judged(two(make_variant, "own_quiz", before, after))
    for refused in (limited, unknown):
        assert (refused.refused, refused.drop_pp) == ("fp16 has no outcomes of single items", None)


def test_a_standard_error_of_zero_is_not_certainty(make_variant: MakeCell) -> None:
    same = {"accuracy": 1.0, "stderr": 0.0, "num_items": 60}
    variants = two(make_variant, "quiz", same, same)
    task = judged(variants)
    assert task.interval_pp is not None
    assert task.interval_pp[0] < -3
    assert task.interval_pp[1] > 3
    assert task.verdict == "underpowered"
    ends = variants[0].interval("quiz")
    assert ends is not None
    assert ends[0] < 0.96


def test_a_score_that_is_no_share_gets_no_binomial_interval(make_variant: MakeCell) -> None:
    sides = [{"accuracy": value, "num_items": 500, "metric": "word_perplexity,none"} for value in (9.0, 12.0)]
    task = judged(two(make_variant, "wikitext", *sides))
    assert not task.unpaired
    assert task.interval_pp is None


def test_different_work_is_still_refused(make_variant: MakeCell) -> None:
    sides = {"accuracy": 0.7, "num_fewshot": 5, "num_items": 900}, {"accuracy": 0.6, "num_fewshot": 0, "num_items": 900}
    assert "few-shot" in str(judged(two(make_variant, "quiz", *sides)).refused)


def test_a_gate_decides_and_says_how_to_do_better(make_variant: MakeCell) -> None:
    made = compare(*two(make_variant, "gsm8k", {"accuracy": 0.7}, {"accuracy": 0.62}), 1.0)
    expected = {
        "gsm8k_drop>1pp": Decision.HOLDS,
        "gsm8k_drop>20pp": Decision.DOES_NOT_HOLD,
        "gsm8k_drop>8pp": Decision.UNDECIDED,
        "gsm8k_drop>1%": Decision.HOLDS,
        "gsm8k_flips>1%": Decision.UNDECIDED,
    }
    for text, decision in expected.items():
        outcome = decide(parse([text], ["gsm8k"])[0], made)
        assert outcome.decision is decision, text
        assert "lm_eval --log_samples" in outcome.reason
        assert ("full size, 1,319 items (assumed)" in outcome.reason) is ("drop" in text)


@pytest.mark.parametrize(("condition", "code"), [("gsm8k_drop>1pp", 3), ("gsm8k_drop>25pp", 0), ("gsm8k_drop>17pp", 4)])
def test_imported_results_without_samples_pass_or_fail_a_gate(
    tmp_path: Path, capsys: Any, condition: str, code: int
) -> None:
    if not FAULTS.is_dir():
        pytest.skip(f"the inputs are not at {FAULTS}")
    for scheme in ("fp16", "int4"):
        source = str(FAULTS / f"lm_nosamples_{scheme}.json")
        assert run("import", source, "--precision", scheme, "--output-dir", str(tmp_path)) == 0
    folders = [str(tmp_path / "Tiny-1B" / f"Tiny-1B_{scheme}") for scheme in ("fp16", "int4")]
    capsys.readouterr()
    assert run("compare", *folders, "--fail-if", condition, "--json") == code
    task = json.loads(capsys.readouterr().out)["pairs"][0]["tasks"]["gsm8k"]
    assert (task["verdict"], task["unpaired"], task["assumed"]) == ("degraded", True, False)
    assert task["interval_pp"] == pytest.approx([14.0, 21.0], abs=0.1)


def test_the_published_drops_are_judged() -> None:
    folder = PUBLISHED / "Qwen2.5-3B-Instruct"
    assert (
        run("compare", folder / f"{folder.name}_fp16", folder / f"{folder.name}_int4", "--fail-if", "gsm8k_drop>1pp")
        == 3
    )
    llama = PUBLISHED / "Llama-3.2-3B-Instruct"
    assert (
        run("compare", llama / f"{llama.name}_fp16", llama / f"{llama.name}_int8", "--fail-if", "gsm8k_drop>5pp") == 0
    )


def test_the_sizes_are_whole_numbers_of_items_of_published_scores() -> None:
    """Scores of published result files, with all digits: each is a count over the size in the table."""
    published = {
        "arc_challenge": 0.439419795221843, "arc_easy": 0.7672558922558923, "boolq": 0.7819571865443425,
        "lambada_openai": 0.08558121482631477, "lambada_standard": 0.4121870754900058, "mathqa": 0.2288107202680067,
        "piqa": 0.7584330794341676,
    }  # fmt: skip
    for task, score in published.items():
        count = score * FULL_SIZES[task]
        assert count == pytest.approx(round(count), abs=1e-9), task
    assert (FULL_SIZES["mmlu"], FULL_SIZES["gsm8k"], FULL_SIZES["hellaswag"]) == (14042, 1319, 10042)
