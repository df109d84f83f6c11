"""Rows of tasks: what lm-eval's metrics are, and which of several a task is known by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim_eval.metrics import Change, headline_metric, task_metric

METRICS = ("acc", "acc_norm", "exact_match", "f1", "mcc", "bleu", "word_perplexity", "brier_score", "own_score")


@pytest.mark.parametrize(
    ("metric", "unit", "better", "change"),
    [
        (None, "%", "higher", Change.POINTS),  # the published files name none
        ("acc,none", "%", "higher", Change.POINTS),
        ("exact_match,flexible-extract", "%", "higher", Change.POINTS),
        ("bleu_acc,none", "%", "higher", Change.POINTS),
        ("pass@1,create_test", "%", "higher", Change.POINTS),
        ("prompt_level_strict_acc,none", "%", "higher", Change.POINTS),
        ("word_perplexity,none", "word perplexity", "lower", Change.RATIO),
        ("bits_per_byte,none", "bits per byte", "lower", Change.RATIO),
        ("perplexity,none", "perplexity", "lower", Change.RATIO),
        ("bleu,none", "bleu", "higher", Change.AMOUNT),
        ("f1,none", "f1", "higher", Change.AMOUNT),
        ("brier_score,none", "brier score", "lower", Change.AMOUNT),
        ("mae,none", "mae", "lower", Change.AMOUNT),
        ("own_score,none", "own score", None, Change.AMOUNT),  # only the task knows
    ],
)
def test_unit_and_direction_by_name(metric: str | None, unit: str, better: str | None, change: Change) -> None:
    row = task_metric("t", metric)
    assert (row.unit, row.better, row.change) == (unit, better, change)
    assert row.is_accuracy is (unit == "%")


def test_the_task_decides_on_the_direction() -> None:
    assert task_metric("t", "own_score,none", True).better == "higher"
    assert task_metric("t", "acc,none", False).better == "lower"
    assert not task_metric("t", "acc,none", False).is_accuracy


def test_a_number_that_is_no_share_is_not_shown_as_one() -> None:
    assert task_metric("t", "acc,none", values=[0.5, 65.2]).unit == "acc"
    assert task_metric("t", "acc,none", values=[0.0, 1.0]).unit == "%"


@pytest.mark.parametrize(
    ("task", "listed", "scores", "headline"),
    [
        ("lambada_openai", ["perplexity", "acc"], ["perplexity,none", "acc,none"], "acc,none"),
        ("lambada", [], ["perplexity,none", "acc,none"], "acc,none"),
        ("truthfulqa_gen", ["bleu_max", "bleu_acc"], ["bleu_max,none", "bleu_acc,none"], "bleu_acc,none"),
        ("truthfulqa_es_gen", ["bleu_max", "bleu_acc"], ["bleu_max,none", "bleu_acc,none"], "bleu_acc,none"),
        ("wikitext", ["word_perplexity"], ["bits_per_byte,none", "word_perplexity,none"], "word_perplexity,none"),
        ("glue", [], ["mcc,none", "f1,none", "acc,none"], "acc,none"),
        ("own", [], ["f1,none", "strict_acc,none"], "strict_acc,none"),
        ("own", [], ["acc_stderr,none", "alias"], None),
        ("own", [], [], None),
    ],
)
def test_headlines(task: str, listed: list[str], scores: list[str], headline: str | None) -> None:
    assert headline_metric(task, scores, listed) == headline


@given(
    scores=st.lists(st.tuples(st.sampled_from(METRICS), st.sampled_from(("none", "strict", "flexible"))), unique=True),
    listed=st.lists(st.sampled_from(METRICS), unique=True),
    filters=st.lists(st.sampled_from(("none", "strict", "flexible")), unique=True),
    data=st.data(),
)
def test_the_order_of_keys_does_not_change_the_headline(
    scores: list[tuple[str, str]], listed: list[str], filters: list[str], data: st.DataObject
) -> None:
    names = [",".join(score) for score in scores]
    shuffled = data.draw(st.permutations(names))
    found = headline_metric("task", names, listed, filters)
    assert headline_metric("task", shuffled, listed, filters) == found
    first = next((name for name in listed if any(score == name for score, _ in scores)), None)
    if first is not None:
        assert found is not None
        assert found.split(",")[0] == first
