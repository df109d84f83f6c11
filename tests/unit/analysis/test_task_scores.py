"""Tasks that are not scored by right answers: every place that shows or decides on an accuracy treats them as they are.

The kinds: a perplexity, an error and a Brier score (less is better), BLEU of 0 to 100, F1 of 0 to 1, a score of the
user's own whose task says which direction is better, and one of which nobody knows.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slim_eval.analysis import analyze
from slim_eval.analysis.compare.comparison import compare
from slim_eval.analysis.compare.folders import compare_folders
from slim_eval.analysis.compare.formats import to_json, to_markdown
from slim_eval.analysis.compare.gate import Decision, decide, parse
from slim_eval.analysis.compare.items import DEGRADED, IMPROVED, UNDERPOWERED, update_paired
from slim_eval.analysis.findings import find, findings_markdown
from slim_eval.analysis.pareto.frontier import default_objectives, find_frontiers, parse_objectives
from slim_eval.analysis.recommend.recommendation import recommend
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import paired_accuracy, quantization_impact, summary_statistics
from slim_eval.analysis.tables.terminal import comparison_table
from slim_eval.analysis.tables.typeset import documents
from slim_eval.analysis.verdict import _task_effect, verdict_of
from slim_eval.config import AnalysisConfig, CompareConfig, Question, RunConfig
from slim_eval.errors import UsageError
from slim_eval.execution.tracking import payload
from slim_eval.metrics import ACCURACY_MEAN
from slim_eval.results.variants import Variant, metric_of
from slim_eval.utils import number

MakeVariant = Callable[..., Variant]

#: Metric, what its task says of the direction, and the values at 16 bit and quantized: the second is the worse one.
KINDS: dict[str, tuple[str, bool | None, float, float]] = {
    "perplexity": ("word_perplexity,none", False, 17.25, 51.6),
    "old_perplexity": ("word_perplexity,none", None, 17.25, 51.6),  # a record that does not say
    "bits": ("bits_per_byte,none", False, 0.71, 0.94),
    "brier": ("brier_score,none", False, 0.21, 0.34),
    "mae": ("mae,none", False, 1.3, 4.75),
    "bleu": ("bleu,none", True, 34.25, 28.5),
    "f1": ("f1,none", True, 0.815, 0.705),
    "own": ("latency_score,none", False, 0.25, 0.75),
    "own_share": ("acc,none", False, 0.125, 0.375),  # how often a model gives in, say
}
IN_OWN_UNIT = [name for name in KINDS if name != "own_share"]
EACH = pytest.mark.parametrize("name", KINDS)
EACH_IN_OWN_UNIT = pytest.mark.parametrize("name", IN_OWN_UNIT)


def pair(make_variant: MakeVariant, name: str, **more: Any) -> list[Variant]:
    """A task of the kind beside an accuracy, at 16 bit and quantized."""
    metric, direction, before, after = KINDS[name]
    made = []
    for precision, value, quiz in (("fp16", before, 0.6), ("int4", after, 0.5)):
        task = {"accuracy": value, "metric": metric, "higher_is_better": direction, "stderr": None}
        made.append(make_variant(precision=precision, tasks={"t": task, "quiz": quiz}, **more))
    return made


def printed(renderable: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=300).print(renderable)
    return stream.getvalue()


@EACH
def test_it_is_no_part_of_a_mean_accuracy(make_variant: MakeVariant, name: str) -> None:
    study = Study.of(pair(make_variant, name))
    assert [variant.number(ACCURACY_MEAN) for variant in study.variants] == [0.6, 0.5]
    assert {variant.mean_tasks for variant in study.variants} == {("quiz",)}


def test_without_an_accuracy_there_is_no_mean_and_no_frontier_by_it(make_variant: MakeVariant) -> None:
    made = [make_variant(precision=p, tasks={"t": {"accuracy": v, "metric": "perplexity,none"}})
            for p, v in (("fp16", 4.0), ("int4", 9.0))]  # fmt: skip
    study = Study.of(made)
    assert not study.is_measured(ACCURACY_MEAN)
    assert ACCURACY_MEAN not in [objective.metric for objective in default_objectives(study)]


@EACH_IN_OWN_UNIT
def test_tables_show_it_in_its_own_unit(make_variant: MakeVariant, name: str) -> None:
    study = Study.of(pair(make_variant, name))
    unit, after = KINDS[name][0].split(",")[0].replace("_", " "), KINDS[name][3]
    terminal = printed(comparison_table(study, width=300))
    assert f"{unit} (" in terminal
    assert number(after) in terminal
    assert f"{after * 100:.1f}" not in terminal
    for text in documents(study).values():
        assert f"({unit})" in text
        assert f"{after:.3f}" in text
    statistics = summary_statistics(study)
    assert set(statistics[statistics["metric"] == "t"]["unit"]) == {unit}
    impact = quantization_impact(study).iloc[0]
    assert impact["t_drop_pp"] is None
    assert impact["t_acc_drop_pct"] is None
    assert impact["t_change"] == pytest.approx(after - KINDS[name][2])
    assert impact["t_ratio"] == pytest.approx(after / KINDS[name][2])
    assert impact["quiz_drop_pp"] == pytest.approx(10)


@EACH_IN_OWN_UNIT
def test_the_findings_say_unit_direction_and_change(make_variant: MakeVariant, name: str) -> None:
    study = Study.of(pair(make_variant, name))
    sections = find(study, find_frontiers(study, ()))
    text = " ".join(findings_markdown(verdict_of(study), sections).split())
    metric, _, before, after = KINDS[name]
    better = study.metric("t").better
    assert f"own, not averaged: t ({metric}: {better} is better)" in text
    assert f"t {study.metric('t').unit} ({better} is better) {number(before)} to {number(after)}" in text
    assert "t drops" not in text
    assert f"{(after - before) * 100:.1f} pp" not in text


def test_a_share_of_which_less_is_better_drops_when_it_grows(make_variant: MakeVariant) -> None:
    study = Study.of(pair(make_variant, "own_share"))
    assert study.impacts[0].drops["t"].pp == pytest.approx(25)
    assert "37.5 (+25.0)" in printed(comparison_table(study, width=300))  # the difference, of which more is worse
    base, variant = pair(make_variant, "own_share")
    (found,) = [task for task in compare(base, variant, margin_pp=1.0).tasks if task.task == "t"]
    assert (found.drop_pp, _task_effect(found).value) == (pytest.approx(25), pytest.approx(25))


@EACH
def test_objectives_go_in_its_direction(make_variant: MakeVariant, name: str) -> None:
    study = Study.of(pair(make_variant, name))
    (objective,) = parse_objectives("t", study)
    assert objective.maximise is (study.metric("t").better == "higher")
    found = recommend(study, Question(objective="t"))
    assert found.pick is not None
    assert found.pick.variant.precision == "fp16"


@EACH
def test_it_is_no_minimum_and_no_part_of_a_chosen_mean(make_variant: MakeVariant, name: str) -> None:
    study = Study.of(pair(make_variant, name))
    with pytest.raises(UsageError, match="share of answers"):
        recommend(study, Question(min_accuracy={"t": 0.2}))
    with pytest.raises(UsageError, match="not a share of right answers"):
        recommend(study, Question(accuracy_tasks=("t",)))
    found = recommend(study, Question(objective="accuracy", min_recovery=0.9))
    assert found.tasks == ("quiz",)


def test_a_score_that_nobody_knows_is_shown_and_ranked_by_nothing(make_variant: MakeVariant) -> None:
    task = {"metric": "own_score,none", "stderr": None}
    made = [make_variant(precision=p, tasks={"t": task | {"accuracy": v}}) for p, v in (("fp16", 0.4), ("int4", 0.6))]
    study = Study.of(made)
    assert study.metric("t").better is None
    with pytest.raises(UsageError, match="direction is unknown"):
        parse_objectives("t", study)
    assert "0.600 (+0.2)" in printed(comparison_table(study, width=300))
    (paired,) = compare(made[0], made[1], margin_pp=1.0).tasks
    assert "is better is not known" in str(paired.refused)
    with pytest.raises(UsageError, match="which direction is better is not known"):
        parse(["t_drop>1pp"], ["t"], {"t": study.metric("t")})


def test_opposite_directions_in_two_files_are_no_direction(make_variant: MakeVariant) -> None:
    made = [
        make_variant(precision=p, tasks={"t": {"accuracy": 3.0, "metric": "s,none", "higher_is_better": d}})
        for p, d in (("fp16", True), ("int4", False))
    ]
    assert metric_of("t", made).better is None
    quiet = make_variant(precision="int8", tasks={"t": {"accuracy": 3.0, "metric": "s,none"}})
    assert metric_of("t", (quiet, made[1])).better == "lower"  # one that does not say follows the one that does


def test_two_metrics_of_one_task_are_not_one_unit(make_variant: MakeVariant) -> None:
    """An older record knows lambada by its perplexity, a newer one by its accuracy."""
    made = [
        make_variant(precision="fp16", tasks={"t": {"accuracy": 12.5, "metric": "perplexity,none"}}),
        make_variant(precision="int4", tasks={"t": {"accuracy": 0.25, "metric": "acc,none"}}),
    ]
    study = Study.of(made)
    assert (study.metric("t").unit, study.metric("t").better) == ("perplexity or %", None)
    shown = printed(comparison_table(study, width=300))
    assert "12.5" in shown
    assert "1250" not in shown
    assert study.impacts[0].drops == {}
    assert study.impacts[0].shifts == {}


# Per-item scores


def documents_of(nats: list[float], weights: list[int] | None, metric: str) -> list[dict[str, Any]]:
    """Items of a rolling log-likelihood task: [log-likelihood, words], or the log-likelihood alone."""
    return [
        {"task": "t", "doc_id": n, "doc_hash": f"d{n}", "prompt_hash": f"p{n}", "target": "",
         metric: -nat if weights is None else [-nat, weights[n]]}
        for n, nat in enumerate(nats)
    ]  # fmt: skip


def perplexities(make_variant: MakeVariant, metric: str, factor: float, spread: float = 0.01) -> list[Variant]:
    """Two variants of 40 documents; the second needs `factor` times the nats, give or take `spread`."""
    weights = [50 + 13 * (n % 7) for n in range(40)] if metric != "perplexity,none" else None
    total = sum(weights or [1] * 40)
    first = [(2.0 + 0.1 * math.sin(n)) * (weights or [1] * 40)[n] for n in range(40)]
    second = [nats * (factor + spread * math.cos(2.3 * n)) for n, nats in enumerate(first)]
    made = []
    for precision, nats in (("fp16", first), ("int4", second)):
        value = sum(nats) / total / math.log(2) if "bits" in metric else math.exp(sum(nats) / total)
        task = {"accuracy": value, "metric": metric, "higher_is_better": False, "stderr": None, "num_items": 40}
        rows = {"t": documents_of(nats, weights, metric)}
        made.append(make_variant(precision=precision, tasks={"t": task}, samples=rows))
    return made


@pytest.mark.parametrize("metric", ["word_perplexity,none", "bits_per_byte,none", "perplexity,none"])
@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.2, DEGRADED), (0.9, IMPROVED), (1.0005, UNDERPOWERED), (1.0, UNDERPOWERED)]
)
def test_perplexities_are_compared_by_their_ratio_document_by_document(
    make_variant: MakeVariant, metric: str, factor: float, verdict: str
) -> None:
    made = perplexities(make_variant, metric, factor, 0.0 if factor == 1 else 0.01)
    comparison = compare(made[0], made[1], margin_pp=1.0)
    (found,) = comparison.tasks
    a, b = (variant.number("t") for variant in made)
    assert a is not None
    assert b is not None
    assert found.ratio is not None
    assert found.ratio == pytest.approx(b / a)
    assert found.ratio_interval is not None
    assert found.ratio_interval[0] <= found.ratio <= found.ratio_interval[1]
    assert (found.drop_pp, found.interval_pp, found.flips, found.margin_pp) == (None, None, None, None)
    assert (found.verdict, found.num_items) == (verdict, 40)
    if factor == 1:
        assert found.ratio_interval == (1.0, 1.0)
    row = metric_of("t", made)
    worse = decide(parse(["t_ratio>5%"], ["t"], {"t": row})[0], comparison)
    assert worse.decision is (Decision.HOLDS if factor == 1.2 else Decision.DOES_NOT_HOLD)


def test_graded_scores_differ_in_their_own_unit(make_variant: MakeVariant) -> None:
    made = []
    for precision, shift in (("fp16", 0.0), ("int4", 0.75)):
        errors = [1.0 + 0.5 * math.sin(n) + shift * (1 + 0.1 * math.cos(n)) for n in range(60)]
        task = {"accuracy": sum(errors) / 60, "metric": "mae,none", "higher_is_better": False, "num_items": 60}
        rows = [{"task": "t", "doc_id": n, "doc_hash": f"d{n}", "prompt_hash": "p", "mae,none": e}
                for n, e in enumerate(errors)]  # fmt: skip
        made.append(make_variant(precision=precision, tasks={"t": task}, samples={"t": rows}))
    comparison, row = compare(made[0], made[1], margin_pp=1.0), metric_of("t", made)
    (found,) = comparison.tasks
    assert found.loss == pytest.approx(0.75, abs=0.01)
    assert found.verdict == DEGRADED
    for condition, decision in (("t_drop>0.5", Decision.HOLDS), ("t_drop>1", Decision.DOES_NOT_HOLD)):
        assert decide(parse([condition], ["t"], {"t": row})[0], comparison).decision is decision
    with pytest.raises(UsageError, match="scored by mae, which is not a share of answers") as refused:
        parse(["t_drop>0.5pp"], ["t"], {"t": row})
    assert '"t_drop>0.5"' in str(refused.value)


def test_a_metric_that_is_no_mean_of_its_items_has_no_interval(make_variant: MakeVariant) -> None:
    """As lambada's perplexity is none of its log-likelihoods, an aggregate of an unknown kind is none of its scores."""
    made = []
    for precision, value in (("fp16", 30.0), ("int4", 20.0)):
        rows = [{"task": "t", "doc_id": n, "doc_hash": f"d{n}", "prompt_hash": "p", "bleu,none": 0.1 * n}
                for n in range(9)]  # fmt: skip
        task = {"accuracy": value, "metric": "bleu,none", "higher_is_better": True, "stderr": None}
        made.append(make_variant(precision=precision, tasks={"t": task}, samples={"t": rows}))
    (found,) = compare(made[0], made[1], margin_pp=1.0).tasks
    assert (found.loss, found.loss_interval, found.verdict) == (10.0, None, None)
    assert "not the mean of scores of single items" in str(found.no_interval)


@pytest.mark.parametrize(
    ("metric", "higher", "before", "after", "judged", "condition"),
    [
        ("mcc,none", True, (0.55, 0.02), (0.10, 0.02), DEGRADED, "t_drop>0.1"),
        ("mcc,none", True, (0.55, 0.02), (0.57, 0.02), UNDERPOWERED, None),
        ("brier_score,none", False, (0.40, 0.01), (0.60, 0.01), DEGRADED, "t_drop>0.1"),
        ("brier_score,none", False, (0.60, 0.01), (0.40, 0.01), IMPROVED, None),
        ("acc,none", True, (75.0, 1.2), (60.0, 1.2), DEGRADED, "t_drop>5"),  # an accuracy in percent
        ("perplexity,none", False, (5.0, 0.1), (15.0, 0.3), DEGRADED, "t_ratio>10%"),
        ("perplexity,none", False, (5.0, 0.1), (5.1, 0.1), UNDERPOWERED, None),
    ],
)
def test_without_items_two_standard_errors_decide_in_any_unit(
    make_variant: MakeVariant, metric: str, higher: bool, before: Any, after: Any, judged: str, condition: str | None
) -> None:
    made = [
        make_variant(precision=precision, tasks={"t": {
            "accuracy": value, "stderr": error, "metric": metric, "higher_is_better": higher,
        }})
        for precision, (value, error) in (("fp16", before), ("int4", after))
    ]  # fmt: skip
    comparison = compare(made[0], made[1], margin_pp=1.0)
    (found,) = comparison.tasks
    assert (found.verdict, found.unpaired, found.interval_from) == (judged, True, "the standard error")
    (a, error_a), (b, error_b) = before, after
    if metric.startswith("perplexity"):
        half = 1.959964 * math.hypot(error_a / a, error_b / b)
        assert found.ratio_interval == pytest.approx((b / a * math.exp(-half), b / a * math.exp(half)))
    else:
        half, lost = 1.959964 * math.hypot(error_a, error_b), a - b if higher else b - a
        assert found.loss_interval == pytest.approx((lost - half, lost + half))
    if condition is not None:
        outcome = decide(parse([condition], ["t"], {"t": metric_of("t", made)})[0], comparison)
        assert outcome.decision is Decision.HOLDS


def test_percent_and_a_share_are_not_subtracted(make_variant: MakeVariant) -> None:
    made = [make_variant(precision=p, tasks={"t": {"accuracy": v}}) for p, v in (("fp16", 75.0), ("int4", 0.70))]
    (found,) = compare(made[0], made[1], margin_pp=1.0).tasks
    assert "unit % against" in str(found.refused)
    assert Study.of(made).impacts[0].shifts == {}


# Commands


def compared(make_variant: MakeVariant, name: str, *conditions: str) -> Any:
    made = pair(make_variant, name, write=True)
    return compare_folders(CompareConfig(a=made[0].directory, b=made[1].directory, fail_if=conditions))


@EACH_IN_OWN_UNIT
def test_percentage_points_of_it_are_refused_with_what_to_write(make_variant: MakeVariant, name: str) -> None:
    for condition in ("t_drop>0.5pp", "t_drop>1%", "t_flips>1%"):
        with pytest.raises(UsageError, match="is not a share of answers") as refused:
            compared(make_variant, name, condition)
        written = '"t_ratio>5%"' if name in ("perplexity", "old_perplexity", "bits") else '"t_drop>0.5"'
        assert written in str(refused.value)


@EACH_IN_OWN_UNIT
def test_what_is_offered_is_accepted_and_undecided_without_samples(make_variant: MakeVariant, name: str) -> None:
    condition = "t_ratio>5%" if name in ("perplexity", "old_perplexity", "bits") else "t_drop>0.5"
    found = compared(make_variant, name, condition)
    assert [outcome.decision for outcome in found.outcomes] == [Decision.UNDECIDED]
    assert "no interval: " in found.outcomes[0].reason
    text = to_markdown(found)
    assert "| task | unit | items | A | B | B against A |" in text
    assert f"| t | {metric_of('t', [found.pairs[0].a]).unit} |" in text
    assert "no interval" in text
    task = json.loads(to_json(found))["pairs"][0]["tasks"]["t"]
    assert (task["drop_pp"], task["interval_pp"], task["verdict"]) == (None, None, None)


def test_the_whole_analysis_of_a_perplexity(make_variant: MakeVariant, tmp_path: Path) -> None:
    made = [
        *perplexities(make_variant, "word_perplexity,none", 1.2),
        *perplexities(lambda **more: make_variant("org/Other", **more), "word_perplexity,none", 1.1),
    ]
    (record,) = update_paired(made[0].directory.parent, 1.0)
    assert record.tasks[0].verdict == DEGRADED
    done = analyze(AnalysisConfig(input_dir=tmp_path / "outputs", output_dir=tmp_path / "out"))
    summary = " ".join((tmp_path / "out" / "findings.md").read_text().split())
    assert "word perplexity (lower is better) 7.4" in summary
    assert "(95 % interval): degraded" in summary
    assert "accuracy drops" not in summary
    rows = paired_accuracy(done.study)
    row = rows[rows["model"] == made[0].model].iloc[0]
    assert row["ratio"] == pytest.approx(record.tasks[0].ratio)
    assert row["ratio_ci95_low"] < row["ratio"] < row["ratio_ci95_high"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "word perplexity, against the baseline" in report
    assert "t drop, pp" not in report
    drawn = {path.stem for path in done.paths if path.suffix == ".png"}
    assert "accuracy_comparison" in drawn
    assert not {name for name in drawn if "accuracy" in name} - {"accuracy_comparison"}


def test_weights_and_biases_does_not_call_it_an_accuracy(make_variant: MakeVariant) -> None:
    (variant, _) = pair(make_variant, "perplexity")
    logged = payload(variant, RunConfig(models=("org/Tiny",)))[1]
    assert logged["score/t"] == 17.25
    assert logged["accuracy/quiz"] == 0.6
    assert "accuracy/t" not in logged
