"""`--fail-if`: what a condition may say, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slim_eval.analysis.compare.comparison import VariantComparison, compare
from slim_eval.analysis.compare.gate import Decision, decide, parse
from slim_eval.errors import UsageError
from slim_eval.results.variants import Variant
from tests.planted import items, outcomes, performance, requests
from tests.unit.variants import variant_maker

MakeCell = Callable[..., Variant]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> VariantComparison:
    """int8 with TPOT 10 % up, 5.5 points down on `quiz`, half the size."""
    variants, make_variant = [], variant_maker(tmp_path_factory.mktemp("gate"))
    before, after = outcomes(2000, right=1400, lost=150, gained=40)
    for precision, tpot_s, scores, size in (("fp16", 0.01, before, 4.0), ("int8", 0.011, after, 2.0)):
        rows = requests(tpot_s, seed=len(variants))
        variants.append(
            make_variant(
                precision=precision, performance=performance(rows), tasks={"quiz": sum(scores) / 2000},
                samples={"performance": rows, "quiz": items(scores)}, head={"model_size_gb": size},
            )
        )  # fmt: skip
    return compare(*variants, margin_pp=1.0)


@pytest.mark.parametrize(
    ("condition", "decision"),
    [
        ("tpot_s>5%", Decision.HOLDS),
        ("tpot_s > 5 %", Decision.HOLDS),
        ("tpot_s>20%", Decision.DOES_NOT_HOLD),
        ("tpot_s>10%", Decision.UNDECIDED),
        ("tokens_per_second<-5%", Decision.HOLDS),
        ("quiz_drop>1pp", Decision.HOLDS),
        ("quiz_drop>5.5pp", Decision.UNDECIDED),
        ("quiz_drop>10pp", Decision.DOES_NOT_HOLD),
        ("quiz_drop>5%", Decision.HOLDS),  # 5.5 points of 70 %: 7.9 %
        ("quiz_flips>5%", Decision.HOLDS),
        ("quiz_flips>9.5%", Decision.UNDECIDED),
        ("quiz_flips>15%", Decision.DOES_NOT_HOLD),
        ("model_size_gb>-40%", Decision.DOES_NOT_HOLD),
        ("model_size_gb<=2GiB", Decision.HOLDS),
        ("model_size_gb<2048MiB", Decision.DOES_NOT_HOLD),
        ("mbu<0%", Decision.UNDECIDED),  # not measured
        ("joules_per_output_token>5%", Decision.UNDECIDED),  # measured without an interval
    ],
)
def test_conditions(comparison: VariantComparison, condition: str, decision: Decision) -> None:
    (parsed,) = parse([condition], ["quiz"])
    outcome = decide(parsed, comparison)
    assert outcome.decision is decision
    assert outcome.reason


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("tpot>5%", "tpot_s"),
        ("quizz_drop>1pp", "quiz_drop"),
        ("quiz>1pp", "quiz_drop"),
        ("tpot_s>5pp", "known here: %, s, ms"),
        ("tpot_s>5", "no unit"),
        ("tpot_s>5J", "unknown unit 'J'"),
        ("quiz_drop>1", "known here: pp, %"),
        ("quiz_drop>1ms", "unknown unit 'ms'"),
        ("quiz_drop", "not a condition"),
        ("quiz_drop>onepp", "not a condition"),
        ("quiz_drop=1pp", "not a condition"),
        ("", "not a condition"),
        ("quiz_drop>nanpp", "not a condition"),
        ("tpot_s>1e400%", "too large"),
    ],
)
def test_nonsense_is_a_usage_error_with_the_nearest_names(condition: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse([condition], ["quiz"])
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 2


def test_refused_items_leave_a_condition_undecided(make_variant: MakeCell) -> None:
    before, _ = outcomes(100, right=50)
    variants = [
        make_variant(
            precision=precision, tasks={"quiz": {"accuracy": 0.5, "limit": limit}}, samples={"quiz": items(before)}
        )
        for precision, limit in (("fp16", None), ("int8", 100))
    ]
    outcome = decide(parse(["quiz_drop>1pp"], ["quiz"])[0], compare(*variants, margin_pp=1.0))
    assert outcome.decision is Decision.UNDECIDED
    assert "limit 100 against all items" in outcome.reason
