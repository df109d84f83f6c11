"""Accuracy on an inexact kernel is no verdict on the scheme, in any command; variants of several engines say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slim_eval.analysis.caveats import ENGINES_DIFFER, INEXACT, find_caveats
from slim_eval.analysis.comparability import obstacles
from slim_eval.analysis.compare.comparison import MetricVerdict, compare
from slim_eval.analysis.compare.gate import Decision, decide, parse
from slim_eval.analysis.findings import find
from slim_eval.analysis.pareto.frontier import Objective, find_frontiers, frontier
from slim_eval.analysis.recommend.question import Question
from slim_eval.analysis.recommend.recommendation import recommend
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import summary_statistics
from slim_eval.cli import main
from slim_eval.metrics import TPOT, task_metric
from slim_eval.results.store import write_record
from slim_eval.results.variants import Variant
from tests.planted import items, outcomes
from tests.unit.analysis.tables.test_terminal import show

MakeVariant = Callable[..., Variant]
QUIZ = task_metric("quiz")


def made(make_variant: MakeVariant, precision: str, accuracy: float = 0.7, **head: Any) -> Variant:
    right = outcomes(200, right=140, lost=0, gained=0)[0]
    return make_variant(
        precision=precision, tasks={"quiz": accuracy}, samples={"quiz": items(right)}, head={"kernels": "native"} | head
    )


@pytest.fixture
def pair(make_variant: MakeVariant) -> list[Variant]:
    """The baseline, and a scheme that seems more accurate, on a kernel that is not its own arithmetic."""
    inexact = made(make_variant, "int8", 0.9, kernels="inexact", kernel_error=0.0163)
    return [made(make_variant, "fp16"), inexact]


def test_it_is_never_a_verdict_on_the_scheme(pair: list[Variant]) -> None:
    base, this = pair
    assert obstacles(QUIZ, this, base) == ["this measurement used inexact kernels"]
    found = compare(base, this, 1.0)
    assert found.tasks[0].refused == "this measurement used inexact kernels"
    for condition in ("quiz_drop>1pp", "quiz_flips>5%"):
        (parsed,) = parse([condition], ["quiz"])
        assert decide(parsed, found).decision is Decision.UNDECIDED
    study = Study.of(pair)
    assert study.impacts[0].drops == {}
    assert INEXACT in study.marks(this, QUIZ)
    assert INEXACT not in study.marks(base, QUIZ)
    table = summary_statistics(study)
    assert set(table[table["metric"] == "quiz"]["n"]) <= {0, 1}
    (best,) = (each for each in find(study, find_frontiers(study)) if each.heading == "Best by each measure")
    assert not any("quiz" in text and "int8" in text for text in best.sentences)
    standings = frontier(study, [Objective(QUIZ, maximise=True)]).standings
    assert [each.excluded for each in standings] == [None, "inexact kernels: quiz"]


def test_recommend_does_not_take_it_for_the_scheme(pair: list[Variant]) -> None:
    study = Study.of(pair)
    for question in (Question(objective="quiz"), Question(objective="latency", min_accuracy={"quiz": 0.8}),
                     Question(objective="latency", min_recovery=0.9)):  # fmt: skip
        advice = recommend(study, question)
        assert advice.ranking.pick is None or advice.ranking.pick.variant.precision == "fp16"
        (int8,) = (each for each in advice.ranking.candidates if each.variant.precision == "int8")
        assert any("is inexact on this CPU" in caveat for caveat in advice.caveats)
        assert "inexact kernels: quiz" in f"{int8.excluded} {[check.why for check in int8.checks]}"


def test_its_speed_is_that_of_the_hardware(pair: list[Variant]) -> None:
    base, this = pair
    assert obstacles(TPOT, this, base) == []
    (row,) = (each for each in compare(base, this, 1.0).metrics if each.metric is TPOT)
    assert row.verdict is not MetricVerdict.NOT_COMPARABLE


def test_every_table_says_so_with_the_size_of_the_error(pair: list[Variant]) -> None:
    (caveat,) = (each for each in find_caveats(pair) if each.kind is INEXACT)
    assert "0.069 nats per token" in caveat.text
    assert "1.6 % (root mean square)" in caveat.text
    assert caveat.variants == (pair[1].label,)
    shown = show(pair)
    assert "vllm (inexact)" in shown
    assert "90.0 ±1.0 (inexact)" in shown


def test_compare_shows_neither_a_drop_nor_markup(
    make_variant: MakeVariant, pair: list[Variant], capsys: pytest.CaptureFixture[str]
) -> None:
    base, this = pair
    for variant in pair:
        for record in variant.records:
            write_record(variant.directory, record)
    assert main(["compare", str(base.directory), str(this.directory)]) == 0
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if line.startswith("│ quiz") and "90.0" in line)
    assert [part.strip() for part in row.strip("│").split("│")][:5] == ["quiz", "-", "70.0", "90.0", "-"]
    assert "[green]" not in shown
    assert "inexact on this CPU" in " ".join(shown.split())


def test_a_mean_over_tasks_leaves_it_out(pair: list[Variant]) -> None:
    study = Study.of(pair)
    assert [variant.number("accuracy_mean") for variant in study.variants] == [0.7, None]


def test_variants_of_several_engines_have_a_caveat(make_variant: MakeVariant) -> None:
    base, same, other = (
        made(make_variant, precision, engine=engine)
        for precision, engine in (("fp16", "vllm"), ("int8", "vllm"), ("int4", "transformers"))
    )
    assert not any(each.kind is ENGINES_DIFFER for each in find_caveats([base, same]))
    (caveat,) = (each for each in find_caveats([base, same, other]) if each.kind is ENGINES_DIFFER)
    assert "Tiny int4 on transformers" in caveat.text
    assert "Tiny fp16 on vllm" in caveat.text
    study = Study.of([base, same, other])
    assert [ENGINES_DIFFER in study.marks(variant, QUIZ) for variant in study.variants] == [False, False, True]
    assert compare(base, other, 1.0).tasks[0].refused is None  # still compared
    advice = recommend(study, Question(objective="quiz"))
    assert any("measured on different engines" in text for text in advice.caveats)


def test_an_unknown_engine_is_not_another_one(make_variant: MakeVariant) -> None:
    found = find_caveats([made(make_variant, "fp16", engine=None), made(make_variant, "int8")])
    assert not any(each.kind is ENGINES_DIFFER for each in found)
