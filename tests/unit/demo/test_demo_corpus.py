"""The committed data of the demonstration tasks: made by the generators, disjoint, balanced, right."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from slim_eval import demo, stats
from tools.demo_model import corpus, verdicts
from tools.demo_model.world import OBJECTS, PEOPLE, SUBJECTS, TOOLS

CHOICE_TASKS = [task for task in corpus.subtasks() if task != "demo_gsm8k"]


def committed(name: str) -> list[dict[str, Any]]:
    path = demo.TASKS_DIR.parent / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_of(task: str, split: str) -> list[dict[str, Any]]:
    return committed(f"tasks/data/{task}.{split}.jsonl")


def gold_of(row: dict[str, Any]) -> int:
    return int(row["gold"] if "gold" in row else row["answer"])


def true_place(row: dict[str, Any], fits: list[str]) -> int:
    """Where the one option that fits stands; its row says whether the label is another one on purpose."""
    (place,) = [index for index, choice in enumerate(row["choices"]) if choice in fits]
    assert (place != gold_of(row)) == row.get("mislabelled", False)
    return place


def key_of(task: str, row: dict[str, Any]) -> str:
    """What makes an item itself, worked out again from its row and not by the generator."""
    if task == "demo_gsm8k":
        return str(row["question"])
    if task == "demo_hellaswag":
        return str(row["query"])
    return f"{row['question']}|{'|'.join(sorted(row['choices']))}"


def test_committed_data_is_what_the_generators_make() -> None:
    for name, rows in corpus.data_files():
        assert committed(name) == rows, name


@pytest.mark.parametrize("task", corpus.subtasks())
def test_no_committed_item_can_be_drawn_for_another_split(task: str) -> None:
    test = [key_of(task, row) for row in rows_of(task, "test")]
    fewshot = [key_of(task, row) for row in rows_of(task, "fewshot")]
    whole = [json.dumps([row.get("query"), row.get("question"), row.get("choices")]) for row in rows_of(task, "test")]
    assert len(set(whole)) == len(whole)
    assert {corpus.split_of(key) for key in test} == {"test"}
    assert {corpus.split_of(key) for key in fewshot} == {"fewshot"}
    assert not set(test) & set(fewshot)


@pytest.mark.parametrize("task", corpus.subtasks())
def test_drawn_training_items_miss_the_test_items(task: str) -> None:
    rng, make = random.Random(5), corpus.maker_of(task)
    drawn = [corpus.draw(make, "train", rng) for _ in range(3000)]
    tested = {key_of(task, row) for row in rows_of(task, "test")}
    assert not {key_of(task, item.doc) for item in drawn} & tested
    assert all(key_of(task, item.doc) == item.key for item in drawn)


def test_calibration_rows_hold_no_test_item() -> None:
    rows = committed("calibration.jsonl")
    asked = {turn["content"] for row in rows for turn in row["messages"] if turn["role"] == "user"}
    tested = {item.prompt for task in corpus.subtasks() for item in corpus.task_items(task, "test")}
    assert len(rows) >= 512
    assert not asked & tested
    assert {turn["role"] for row in rows for turn in row["messages"]} == {"user", "assistant"}
    assert demo.CALIBRATION_FILE.stat().st_size < 1_000_000


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_right_options_stand_everywhere_equally_often(task: str) -> None:
    rows = rows_of(task, "test")
    counts = Counter(gold_of(row) for row in rows)
    assert set(counts) == {0, 1, 2, 3}
    assert max(counts.values()) <= 0.35 * len(rows)
    assert all(len(set(row["choices"])) == 4 for row in rows)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_letters_name_the_true_option(subject: str) -> None:
    question, words = SUBJECTS[subject]
    others = {word for other in SUBJECTS if other != subject for word in SUBJECTS[other][1]}
    for row in rows_of(f"demo_mmlu_{subject}", "test"):
        assert row["question"] == question
        true_place(row, list(words))
        assert not others.intersection(row["choices"])  # the model does not know which of two subjects is asked


def test_no_word_is_right_for_two_subjects() -> None:
    words = [word for _, right in SUBJECTS.values() for word in right]
    assert len(set(words) | set(OBJECTS)) == len(words) + len(OBJECTS)


def test_worked_answers_are_arithmetically_right() -> None:
    for row in rows_of("demo_gsm8k", "test") + rows_of("demo_gsm8k", "fewshot"):
        *worked, last = row["answer"].splitlines()
        total = row["question"].split(" has ")[1].split()[0]
        for line in worked:
            left, operator, right, equals, result = line.split()
            assert left == total
            assert equals == "="
            assert int(result) == (int(left) + int(right) if operator == "+" else int(left) - int(right))
            assert 0 < int(result) <= corpus.LARGEST
            total = result
        assert last == f"#### {total}"


def test_only_one_ending_fits_its_story() -> None:
    for row in rows_of("demo_hellaswag", "test"):
        story = row["ctx"].split()
        actor, tool = story[1], story[-1].rstrip(".")
        fitting = [f"{PEOPLE[actor]} {TOOLS[tool][0]} the {thing}." for thing in TOOLS[tool][1]]
        true_place(row, fitting)


def test_splits_take_about_a_tenth_each() -> None:
    counts = Counter(corpus.split_of(str(number)) for number in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["fewshot"] / 20_000 == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("task", demo.TASKS)
def test_a_perfect_model_would_be_right_in_70_to_90_percent(task: str) -> None:
    rows = [row for name in corpus.subtasks() if name.startswith(task) for row in rows_of(name, "test")]
    two_steps = [task == "demo_gsm8k" and row["answer"].count(" = ") > 1 for row in rows]
    wrong = [row.get("mislabelled", False) for row in rows]
    assert 0.7 <= 1 - (sum(two_steps) + sum(wrong)) / len(rows) <= 0.9


@pytest.mark.parametrize("task", demo.TASKS)
def test_items_suffice_for_a_verdict(task: str) -> None:
    names = [name for name in corpus.subtasks() if name.startswith(task)]
    clusters = [name for name in names for _ in rows_of(name, "test")]
    same = [1.0] * len(clusters)
    changed = [0.0, *same[1:]]  # one answer is lost
    found = stats.paired_difference(same, changed, clusters if len(names) > 1 else None)
    assert found.interval is not None
    assert found.interval.high < verdicts.MARGIN_PP / 100
