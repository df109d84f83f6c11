"""Questions from the texts that come with Python: the same each time, apart from calibration, one right choice each."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from slim_eval import demo, stats
from slim_eval.benchmarks import lm_eval_tasks
from slim_eval.demo import prose


@pytest.fixture(scope="module", params=prose.TASKS)
def rows(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return prose.items(request.param)


def test_another_process_makes_the_same() -> None:
    code = (
        "import hashlib, json; from slim_eval.demo import prose; "
        "made = [[prose.items(task) for task in prose.TASKS], prose.calibration_rows()]; "
        "print(hashlib.sha256(json.dumps(made).encode()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    made = [[prose.items(task) for task in prose.TASKS], prose.calibration_rows()]
    assert done.stdout.strip() == hashlib.sha256(json.dumps(made).encode()).hexdigest()


def test_each_question_has_four_different_choices_and_one_answer(rows: list[dict[str, Any]]) -> None:
    contexts = [row["context"] for row in rows]
    assert len(set(contexts)) == len(contexts)
    for row in rows:
        assert len(set(row["choices"])) == 4
        right = row["choices"][row["gold"]]
        wrong = {word for word in row["choices"] if word != right}
        of = [sentence for sentence in prose.sentences() if sentence.startswith(f"{row['context']} {right}")]
        assert any(wrong.isdisjoint(sentence.lower().split()) for sentence in of)


def test_the_right_choice_stands_everywhere_equally_often_and_is_no_single_word(rows: list[dict[str, Any]]) -> None:
    places = Counter(row["gold"] for row in rows)
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) < 0.3 * len(rows)
    words = Counter(row["choices"][row["gold"]] for row in rows)
    assert words.most_common(1)[0][1] < 0.3 * len(rows)


def test_no_sentence_of_an_item_is_calibrated_on() -> None:
    calibration = " ".join(row["text"] for row in prose.calibration_rows())
    for task in prose.TASKS:
        for split in ("test", "fewshot"):
            for row in prose.items(task, split):
                assert row["context"] not in calibration
    assert len(prose.calibration_rows()) >= 64


def test_tasks_and_examples_are_of_different_sentences() -> None:
    splits = {prose.split_of(sentence) for sentence in prose.sentences()}
    assert splits == {"words", "prepositions", "fewshot", "calibration"}
    contexts = [
        {row["context"] for row in prose.items(task, split)} for task in prose.TASKS for split in ("test", "fewshot")
    ]
    words, shots, prepositions, more_shots = contexts
    assert not words & prepositions
    assert not (words | prepositions) & (shots | more_shots)
    assert min(map(len, contexts)) >= 5


def test_items_suffice_for_a_verdict(rows: list[dict[str, Any]]) -> None:
    same = [1.0] * len(rows)
    changed = [0.0] * FLIPS + same[FLIPS:]
    back = same[:FLIPS] + [0.0] * FLIPS + same[2 * FLIPS :]
    found = stats.paired_difference(changed, back)
    assert found.interval is not None
    assert found.interval.high < 0.01


#: Items lost and as many gained with which a scheme that costs nothing still counts as equivalent.
FLIPS = 10


def test_lm_eval_finds_the_tasks() -> None:
    known = lm_eval_tasks.index_of(demo.TASKS_DIR)
    assert set(prose.TASKS) <= known.names
    for task in prose.TASKS:
        ((name, definition),) = known.leaves(task)
        assert (name, definition["output_type"]) == (task, "multiple_choice")
