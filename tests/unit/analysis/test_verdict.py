"""The verdict: its word follows from the verdicts on the tasks, and the choice from `recommend`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from slim_eval.analysis import analyze
from slim_eval.analysis.caveats import BUSY_HOST, LENGTH, Caveat, grouped, lines_of
from slim_eval.analysis.compare.folders import compare_folders
from slim_eval.analysis.findings import SUMMARY_LINES, WIDTH
from slim_eval.analysis.recommend.recommendation import recommend_from
from slim_eval.analysis.study import Study
from slim_eval.analysis.verdict import Tone, Verdict, Word, verdict_of
from slim_eval.config import AnalysisConfig, CompareConfig, Question, RecommendConfig
from slim_eval.results.variants import Variant
from tests import planted
from tests.unit.analysis.many_variants import many_study
from tests.unit.variants import ENVIRONMENT

Make = Callable[..., Variant]
FAST = {"tpot_s": 0.002, "tokens_per_second": 1000.0, "weights_gb": 1.0}
ENDS = {"tpot_s": (0.0019, 0.0021), "tokens_per_second": (950.0, 1050.0)}
BASE_ENDS = {"tpot_s": (0.0038, 0.0042), "tokens_per_second": (480.0, 520.0)}


def measured(
    make: Make,
    precision: str,
    *,
    lost: int = 0,
    gained: int = 0,
    items: int = 4000,
    model: str = "org/Tiny",
    tasks: Sequence[str] = ("quiz",),
    speed: dict[str, Any] | None = None,
    **more: Any,
) -> Variant:
    """A variant with samples, which loses and gains answers against the baseline on every task."""
    _, after = planted.outcomes(items, right=items * 3 // 4, lost=lost, gained=gained)
    rows = {task: planted.items(after, task=task) for task in tasks}
    scores = {task: {"accuracy": sum(after) / items, "num_items": items} for task in tasks}
    performance = {"intervals": BASE_ENDS} | (speed or {})
    return make(model, precision, tasks=scores, samples=rows, performance=performance, **more)


def of(variants: Sequence[Variant]) -> Verdict:
    return verdict_of(Study.read(variants))


def compared(base: Variant, other: Variant) -> Verdict:
    return compare_folders(CompareConfig(a=base.directory, b=other.directory)).verdict


def test_the_best_of_the_safe_variants_is_deployed(make_variant: Make) -> None:
    base = measured(make_variant, "fp16")
    int8 = measured(make_variant, "int8", lost=2, gained=2, speed=FAST | {"intervals": ENDS})
    int4 = measured(make_variant, "int4", lost=300, gained=20, speed=FAST | {"intervals": ENDS})
    found = of([base, int8, int4])
    assert [each.word for each in found.variants] == [Word.BASELINE, Word.DEPLOY, Word.DEGRADED]
    assert found.answer.startswith("Deploy Tiny int8: as accurate as the baseline.")
    assert "speed 2.00x [1.8" in found.gains
    assert "memory -50 %" in found.gains
    assert "1 task as accurate within 1 pp" in found.costs
    assert "1 degraded" in found.confidence
    speed, energy, memory, accuracy = found.variants[1].effects
    assert [each.of for each in (speed, energy, memory, accuracy)] == ["speed", "energy", "memory", "accuracy"]
    assert (speed.tone, memory.tone, accuracy.tone) == (Tone.BETTER, Tone.BETTER, Tone.BETTER)
    assert energy.tone is Tone.UNTESTED
    assert "energy" not in found.gains  # it is the same
    assert "no interval for energy: repeat the measurement" in found.confidence
    assert found.variants[2].reason.startswith("quiz -7.0 pp [")


def test_without_a_safe_variant_the_baseline_is_kept_and_what_would_decide_is_named(make_variant: Make) -> None:
    found = of([measured(make_variant, "fp16", items=200), measured(make_variant, "int8", items=200, lost=4, gained=2)])
    assert [each.word for each in found.variants] == [Word.DEPLOY, Word.INCONCLUSIVE]
    assert found.answer == "Keep Tiny fp16: no other variant is shown to be as accurate."
    assert "Tiny int8: quiz: " in found.change
    assert "items (200 measured)" in found.change


def test_without_an_interval_nothing_is_said_about_chance(make_variant: Make, tmp_path: Path) -> None:
    base = measured(make_variant, "fp16", speed={"intervals": {}})
    slower = {"tpot_s": 0.005, "tokens_per_second": 400.0, "weights_gb": 1.0, "intervals": {}}
    saving = {"joules_per_output_token": 0.26, "energy_per_query_j": 26.0}
    int8 = measured(make_variant, "int8", lost=1, gained=1, speed=slower, energy=saving)
    against_base = compared(base, int8)
    question = Question(objective="memory")
    picked = recommend_from(RecommendConfig(input_dir=tmp_path / "outputs", question=question)).verdict
    assert picked is not None
    for found in (of([base, int8]), against_base, picked):
        (judged,) = (each for each in found.variants if not each.is_reference)
        assert {judged.effect(of).tone for of in ("speed", "energy")} == {Tone.UNTESTED}
        assert "chance" not in f"{found.gains} {found.costs}"
        assert "beyond chance" not in found.confidence.lower()
        if judged.word is Word.DEPLOY or found is against_base:
            assert re.search(r"energy -48 % \((energy )?per output token, no interval\)", found.gains)
            assert "speed 0.80x (time per output token, no interval)".lower() in found.costs.lower()
            assert "o interval for speed and energy: repeat the measurement to know whether the change is chance" in (
                found.confidence
            )
    assert against_base.answer.startswith("Deploy Tiny int8")  # for its memory, which is exact


def test_a_tested_difference_without_a_result_is_neither_a_gain_nor_a_cost(make_variant: Make) -> None:
    near = {"tpot_s": 0.0041, "weights_gb": 1.0, "intervals": {"tpot_s": (0.0037, 0.0045)}}
    variants = [measured(make_variant, "fp16"), measured(make_variant, "int8", lost=1, gained=1, speed=near)]
    for found in (of(variants), compared(*variants)):
        assert "ot beyond chance: speed 0.98x [" in found.confidence
        assert "speed" not in f"{found.gains} {found.costs}"


def test_a_size_that_is_the_same_is_no_matter_of_chance(make_variant: Make) -> None:
    variants = [measured(make_variant, "fp16"), measured(make_variant, "int8", lost=1, gained=1)]
    for found in (of(variants), compared(*variants)):
        (judged,) = (each for each in found.variants if not each.is_reference)
        assert judged.effect("memory").tone is Tone.SAME
        assert "memory" not in f"{found.gains} {found.costs} {found.confidence}"


def test_of_safe_variants_that_cannot_be_ranked_none_is_called_better_or_unmeasured(make_variant: Make) -> None:
    unknown: dict[str, Any] = {"weights_gb": None, "mean_peak_mem_mb": None}
    elsewhere = {"cpu": "Test CPU", "gpus": [{"name": "Other GPU"}]}
    variants = [
        measured(make_variant, name, speed=unknown, head={"model_size_gb": None, "environment": {**where}})
        for name, where in (("fp16", ENVIRONMENT), ("int8", elsewhere))
    ]
    found = of(variants)
    assert found.variants[1].word is Word.SAFE
    assert found.answer == "Keep Tiny fp16: Tiny int8 is as accurate, but nothing else may be compared."
    assert "no difference in speed, energy or memory is known" in found.confidence.lower()


def test_what_could_change_it_names_a_variant_that_is_not_comparable(make_variant: Make) -> None:
    base = measured(make_variant, "fp16", head={"dtype": "float16"})
    int8 = measured(make_variant, "int8", lost=2, gained=2, head={"dtype": "bfloat16"})
    int4 = measured(make_variant, "int4", lost=400, gained=400, head={"dtype": "float16"})
    found = of([base, int8, int4])
    assert [each.word for each in found.variants[1:]] == [Word.NOT_COMPARABLE, Word.INCONCLUSIVE]
    apart = "quiz is not comparable (data type bfloat16 against float16)"
    assert found.change.startswith("A conclusive accuracy of Tiny int4: ")
    assert found.change.endswith(f". A measurement of Tiny int8 that can be compared: {apart}.")
    assert of([base, int8]).change == f"A measurement of Tiny int8 that can be compared: {apart}."


def test_a_safe_variant_whose_speed_is_not_comparable_is_chosen_by_its_memory(make_variant: Make) -> None:
    base = measured(make_variant, "fp16")
    emulated = measured(make_variant, "int8", head={"kernels": "emulated", "model_size_gb": 1.0})
    found = of([base, emulated])
    assert found.variants[1].word is Word.DEPLOY
    assert found.variants[1].effect("speed").value is None
    assert "memory alone" in found.confidence
    assert "kernels emulated against native" in found.change


def test_what_cannot_be_compared_says_why(make_variant: Make) -> None:
    other = measured(make_variant, "int8", model="org/Other")
    found = of([measured(make_variant, "fp16"), other])
    assert found.variants[1].word is Word.NOT_COMPARABLE
    assert "no fp16 measurement" in found.variants[1].reason
    found = of([make_variant(tasks={}), make_variant(precision="int8", tasks={})])
    assert (found.variants[1].word, found.variants[1].reason) == (Word.INCONCLUSIVE, "accuracy was not measured")
    assert of([make_variant()]).answer == "Nothing to decide: only baselines were measured."


def test_a_task_of_the_baseline_that_is_missing_is_not_safe(make_variant: Make) -> None:
    base = measured(make_variant, "fp16", tasks=("quiz", "exam"))
    found = of([base, measured(make_variant, "int8")])
    assert (found.variants[1].word, found.variants[1].reason) == (Word.INCONCLUSIVE, "exam was not measured")


def test_each_model_has_a_choice_and_the_models_are_compared(make_variant: Make) -> None:
    study = many_study(make_variant, 5)
    found = verdict_of(study)
    assert len(found.variants) == 15
    assert len(found.chosen) == 5
    assert "Between the models: " in found.answer


def test_a_comparison_has_the_same_words(make_variant: Make) -> None:
    base = measured(make_variant, "fp16")
    worse = measured(make_variant, "int4", lost=300, gained=20)
    report = compare_folders(CompareConfig(a=base.directory, b=worse.directory, fail_if=("quiz_drop>1pp",)))
    assert report.verdict.answer == "Keep Tiny fp16: Tiny int4 is degraded."
    assert report.verdict.variants[0].word is Word.DEGRADED
    assert report.verdict.asked[0].startswith("fail if quiz_drop>1pp: holds")
    same = measured(make_variant, "int8", lost=1, gained=1, head={"model_size_gb": 2.0})
    report = compare_folders(CompareConfig(a=base.directory, b=same.directory))
    assert report.verdict.variants[0].word in (Word.SAFE, Word.DEPLOY)


def test_a_recommendation_says_what_its_pick_costs(make_variant: Make, tmp_path: Path) -> None:
    measured(make_variant, "fp16")
    measured(make_variant, "int4", lost=300, gained=20, speed=FAST | {"intervals": ENDS})
    found = recommend_from(RecommendConfig(input_dir=tmp_path / "outputs", question=Question(objective="latency")))
    assert found.verdict is not None
    assert found.verdict.answer.startswith("Pick: Tiny int4")
    assert "Accuracy is degraded: quiz -7.0 pp" in found.verdict.costs
    assert [each.word for each in found.verdict.variants] == [Word.DEPLOY, Word.BASELINE]


@pytest.mark.parametrize("models", [1, 12])
def test_the_summary_has_the_answer_in_25_lines(models: int, make_variant: Make, tmp_path: Path) -> None:
    for number in range(models):
        for precision in ("fp16", "int8", "int4"):
            name = f"organisation/A-Model-With-A-Rather-Long-Name-{number}B-Instruct"
            measured(make_variant, precision, model=name, items=120, lost=3, tasks=("quiz", "exam", "riddle"))
    report = analyze(AnalysisConfig(input_dir=tmp_path / "outputs", output_dir=tmp_path / "out", plots=False))
    lines = (tmp_path / "out" / "executive_summary.txt").read_text(encoding="utf-8").splitlines()
    assert report.verdict is not None
    assert len(lines) <= SUMMARY_LINES
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[2].startswith("Keep A-Model")
    found = (tmp_path / "out" / "findings.md").read_text(encoding="utf-8")
    assert all(each.label in found for each in report.verdict.variants)
    assert all(sentence in found for sentence in report.findings)
    assert "Verdict" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_caveats_of_one_kind_are_one_line() -> None:
    found = [
        Caveat(LENGTH, "150 tokens against 255", ("A int8",)),
        Caveat(LENGTH, "125 tokens against 131", ("B int8",)),
        Caveat(BUSY_HOST, "energy: 0.3", ("A int8",)),
        Caveat(BUSY_HOST, "energy: 0.4", ("B int8",)),
    ]
    first, second = grouped(found)
    assert (first.text, first.variants) == (LENGTH.meaning, ("A int8", "B int8"))
    assert second.text == "energy: 0.3 (and 1 more of this kind)"
    assert lines_of(found, 4)[0].endswith("(A int8, B int8)")
    assert not lines_of(found, 2)[0].endswith(")")
