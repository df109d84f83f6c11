"""Makes every text of the demonstration model from a seed: training sequences, task items, calibration rows.

The space of items is split by a hash of what makes an item itself, so that an item of the test split can never be drawn
for training or as a few-shot example, whatever the seed. What that is, each ``*_item`` function says of its ``key``.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from tools.demo_model.world import OBJECTS, PEOPLE, PHRASES, SUBJECTS, THINGS, TIMES, TOOLS

Split = Literal["train", "fewshot", "test"]

SEED: Final = 20
CONFUSED: Final = 0.25
"""Share of the subjects' items in which a wrong option is right for another subject; there are none in the test."""
MISLABELLED: Final = 0.16
"""Share of a choice task's test items whose label is one of the wrong options, as in real benchmarks."""
TWO_STEPS: Final = 0.2
"""Share of the test's word problems that take two sums; the model learns problems of one."""
LETTERS: Final = ("A", "B", "C", "D")
TEST_SIZES: Final = {"demo_mmlu": 300, "demo_gsm8k": 600, "demo_hellaswag": 600}
"""Items of a data file: so many that an interval without a changed answer is narrower than the margin of 1 pp."""
FEWSHOT_SIZES: Final = {"demo_mmlu": 5, "demo_gsm8k": 40, "demo_hellaswag": 40}
CALIBRATION_ROWS: Final = 768
LARGEST: Final = 39
"""The largest number of the sums."""


class Item(NamedTuple):
    """One question of one task."""

    key: str
    """What makes the item itself: items of different splits never share it."""
    prompt: str
    """The text before the answer, as lm-eval makes it from the task file."""
    answer: str
    """The answer, without the blank that lm-eval puts before it."""
    doc: dict[str, Any]
    """The row of the task's data file."""


def split_of(key: str) -> Split:
    """The split that an item belongs to: a tenth to the test, a tenth to few-shot examples, the rest to training."""
    bucket = hashlib.blake2b(key.encode(), digest_size=8).digest()[0] % 10
    return "test" if bucket == 0 else "fewshot" if bucket == 1 else "train"


def _multiple_choice(question: str, right: str, wrong: list[str], rng: random.Random) -> Item:
    choices = [*wrong]
    gold = rng.randrange(len(LETTERS))
    choices.insert(gold, right)
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return Item(
        key=f"{question}|{'|'.join(sorted(choices))}",
        prompt=f"{question}\n{options}\nAnswer:",
        answer=LETTERS[gold],
        doc={"question": question, "choices": choices, "answer": gold},
    )


def mmlu_item(subject: str, rng: random.Random, confused: float = CONFUSED) -> Item:
    """Which of four words is of a kind; its key is the question and the set of options, in any order.

    The wrong options are words that are right for no subject, but for one in some items, which another subject claims.
    """
    question, words = SUBJECTS[subject]
    wrong = rng.sample(OBJECTS, len(LETTERS) - 1)
    if rng.random() < confused:
        other = rng.choice([name for name in SUBJECTS if name != subject])
        wrong[rng.randrange(len(wrong))] = rng.choice(SUBJECTS[other][1])
    return _multiple_choice(question, rng.choice(words), wrong, rng)


def gsm8k_item(rng: random.Random, two_steps: float = 0) -> Item:
    """A word problem of one sum, or of two in a row; its key is the whole question. All splits contain all sums."""
    total, operator = rng.randint(10, 30), rng.choice("+-")
    number = rng.randint(2, 9)
    result = total + number if operator == "+" else total - number
    person, thing = rng.choice(sorted(PEOPLE)), rng.choice(THINGS)
    told = f"{PEOPLE[person]} {rng.choice(PHRASES[operator]).format(number)}."
    answer = f"{total} {operator} {number} = {result}"
    if two_steps and rng.random() < two_steps:
        further = rng.randint(2, 9)
        operator = "-" if result > LARGEST - further else "+" if result <= further + 1 else rng.choice("+-")
        told += f" {PEOPLE[person]} {rng.choice(PHRASES[operator]).format(further)}."
        last = result + further if operator == "+" else result - further
        answer, result = f"{answer}\n{result} {operator} {further} = {last}", last
    question = f"The {person} has {total} {thing}. {told} How many {thing} are there now?"
    answer = f"{answer}\n#### {result}"
    return Item(question, f"Question: {question}\nAnswer:", answer, {"question": question, "answer": answer})


def hellaswag_item(rng: random.Random) -> Item:
    """A short story with four endings; its key is the whole context."""
    person = rng.choice(sorted(PEOPLE))
    tool, *others = rng.sample(sorted(TOOLS), 3)
    label = f"At {rng.choice(TIMES)}"
    context = f"The {person} has the {tool}."
    pronoun = PEOPLE[person]

    def ending(subject: str, tool: str) -> str:
        verb, things = TOOLS[tool]
        return f"{subject} {verb} the {rng.choice(things)}."

    right = ending(pronoun, tool)
    endings = [*(ending(pronoun, other) for other in others), ending("She" if pronoun == "He" else "He", tool)]
    rng.shuffle(endings)
    gold = rng.randrange(len(LETTERS))
    endings.insert(gold, right)
    query = f"{label}: {context}"
    doc = {"activity_label": label, "ctx": context, "query": query, "choices": endings, "gold": gold}
    return Item(query, query, right, doc)


def draw(make: Callable[[random.Random], Item], split: Split, rng: random.Random) -> Item:
    """The next item that belongs to a split."""
    while split_of((item := make(rng)).key) != split:
        pass
    return item


def maker_of(task: str, split: Split = "train") -> Callable[[random.Random], Item]:
    """The generator of a task's items: ``demo_mmlu_<subject>``, ``demo_gsm8k`` or ``demo_hellaswag``.

    Those of the test differ: see `CONFUSED` and `TWO_STEPS`.
    """
    is_test = split == "test"
    if task == "demo_gsm8k":
        return lambda rng: gsm8k_item(rng, TWO_STEPS if is_test else 0)
    if task == "demo_hellaswag":
        return hellaswag_item
    subject = task.removeprefix("demo_mmlu_")
    return lambda rng: mmlu_item(subject, rng, 0 if is_test else CONFUSED)


def subtasks() -> tuple[str, ...]:
    """The names of the tasks that have data files of their own."""
    return (*(f"demo_mmlu_{subject}" for subject in SUBJECTS), "demo_gsm8k", "demo_hellaswag")


def task_items(task: str, split: Split, seed: int = SEED) -> list[Item]:
    """The items of a data file: none twice, and the right option (if any) at each place equally often.

    Of the test's items with options, `MISLABELLED` are labelled wrongly; their rows say so.
    """
    sizes = TEST_SIZES if split == "test" else FEWSHOT_SIZES
    size = sizes["demo_mmlu" if task.startswith("demo_mmlu") else task]
    rng, make = random.Random(f"{seed}/{task}/{split}"), maker_of(task, split)
    items: dict[str, Item] = {}
    while len(items) < size:
        item = draw(make, split, rng)
        gold = item.doc.get("gold", item.doc.get("answer"))
        # There are fewer stories than items of the test: one may come again with other endings.
        name = (
            f"{item.key}|{'|'.join(item.doc['choices'])}" if task == "demo_hellaswag" and split == "test" else item.key
        )
        if name not in items and (task == "demo_gsm8k" or gold == len(items) % len(LETTERS)):
            items[name] = item
    found = rng.sample(list(items.values()), size)
    if split == "test" and task != "demo_gsm8k":
        for item in found[: round(MISLABELLED * size)]:
            label = "gold" if "gold" in item.doc else "answer"
            item.doc[label] = rng.choice([place for place in range(len(LETTERS)) if place != item.doc[label]])
            item.doc["mislabelled"] = True
        rng.shuffle(found)
    return found


def messages(items: list[Item]) -> list[dict[str, str]]:
    """Items as a conversation: the prompt from the user, the answer from the assistant."""
    turns = ((("user", item.prompt), ("assistant", item.answer)) for item in items)
    return [{"role": role, "content": content} for turn in turns for role, content in turn]


def calibration_rows(seed: int = SEED) -> list[dict[str, Any]]:
    """Conversations of five turns of one task, from the training split, in the layout of ultrachat."""
    rng = random.Random(f"{seed}/calibration")
    names = subtasks()
    rows = []
    for index in range(CALIBRATION_ROWS):
        # Half of the rows are the subjects, a quarter each of the two other tasks, as in the tasks themselves.
        name = names[index % 3] if index % 12 < 6 else names[3 + index % 2]
        rows.append({"messages": messages([draw(maker_of(name), "train", rng) for _ in range(5)])})
    return rows


def data_files(seed: int = SEED) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every data file of the package as (path inside ``slim_eval/demo``, rows)."""
    for task in subtasks():
        yield f"tasks/data/{task}.test.jsonl", [item.doc for item in task_items(task, "test", seed)]
        yield f"tasks/data/{task}.fewshot.jsonl", [item.doc for item in task_items(task, "fewshot", seed)]
    yield "calibration.jsonl", calibration_rows(seed)


def write_data_files(folder: Path, seed: int = SEED) -> None:
    """Writes every data file under a folder, as JSON lines."""
    for name, rows in data_files(seed):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
