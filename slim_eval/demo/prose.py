"""Questions about real English text that comes with Python: its help topics and the docstrings of its library.

`slim-eval demo --real` needs data without a download. Each sentence belongs to one split, by a hash of how it begins,
and makes one question of one task: which of four words goes on. Nothing is drawn at random: the same version of Python
makes the same questions. Only the standard library is needed.
"""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

#: The tasks that are made of it.
TASKS = ("python_docs_words", "python_docs_prepositions")
#: Prepositions that an item may ask for; the wrong ones are drawn from the same.
PREPOSITIONS = ("of", "to", "in", "for", "with", "by", "from", "on", "at", "as", "between", "before", "into", "without")
_SHARES = {"calibration": 1, "fewshot": 2, "words": 48, "prepositions": 100}  # ends of ranges, in percent of sentences
_CHOICES = 4
_FEWEST_BEFORE, _MOST_BEFORE = 8, 14  # words before the one that is asked for
_SHORTEST, _RAREST = 5, 4  # letters of a word that is asked for, and how often it has to occur
_FEWSHOT_ROWS, _TEST_ROWS = 16, 1000
_CALIBRATION_ROWS, _ROW_WORDS = 256, 150
#: Modules whose texts are code or lists, or that distributions of Python often leave out; folders of tests.
_LEFT_OUT = {"idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "distutils", "ensurepip", "pydoc_data", "this"}
_TESTS = {"test", "tests"}
_QUOTED = re.compile('"""(.*?)"""', re.DOTALL)  # nearly all are docstrings; a parser would take ten times as long
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PLAIN = re.compile(r"[A-Za-z][a-z]*(?:['-][a-z]+)*[,;:]?")  # a word, without code, quotes or digits
_ASKED = re.compile(r"[a-z]+")


@lru_cache(maxsize=1)
def sentences() -> tuple[str, ...]:
    """The sentences of the texts, each once, in the order of its sources; long enough to ask for a word of them."""
    found: dict[str, None] = {}
    for text in _texts():
        for paragraph in _PARAGRAPH.split(text):
            for sentence in _parts(paragraph):
                if sentence.endswith(".") and len(_opening(sentence)) > _FEWEST_BEFORE:
                    found[sentence] = None
    return tuple(found)


def items(task: str, split: str = "test") -> list[dict[str, Any]]:
    """The items of a task in a fixed order.

    Args:
        task: One of `TASKS`.
        split: ``test``, or ``fewshot`` for examples.

    Returns:
        Of each its ``context``, its ``choices`` (four words) and ``gold``, the place of the right one.
    """
    asks_preposition = task == TASKS[1]
    wanted = "fewshot" if split == "fewshot" else "prepositions" if asks_preposition else "words"
    counts = Counter(word for sentence in sentences() for word in _opening(sentence) if _ASKED.fullmatch(word))
    common = [word for word, count in counts.most_common() if count >= _RAREST and len(word) >= _SHORTEST]
    known = PREPOSITIONS if asks_preposition else common
    made: dict[str, dict[str, Any]] = {}
    for sentence in sentences():
        if split_of(sentence) == wanted and (item := _item(sentence, known)) is not None:
            made.setdefault(item["context"], item)  # one question has one answer
    rows = sorted(made.values(), key=lambda item: _number(item["context"]))
    return rows[: _FEWSHOT_ROWS if split == "fewshot" else _TEST_ROWS]


def calibration_rows() -> list[dict[str, str]]:
    """The rest of the text, without the sentences that items are made of, as rows of a calibration data set."""
    asked = {_beginning(sentence) for sentence in sentences() if split_of(sentence) != "calibration"}
    rows: dict[str, None] = {}
    row: list[str] = []
    for text in _texts():
        for paragraph in _PARAGRAPH.split(text):
            row += [part for part in _parts(paragraph) if _beginning(part) not in asked]
            if sum(len(part.split()) for part in row) >= _ROW_WORDS:
                rows[" ".join(row)] = None
                row = []
    # What is a sentence in one place may be a part of one in another.
    questions = [item["context"] for task in TASKS for split in ("test", "fewshot") for item in items(task, split)]
    kept: list[dict[str, str]] = []
    for text in sorted(rows, key=_number):
        if not any(question in text for question in questions):
            kept.append({"text": text})
        if len(kept) == _CALIBRATION_ROWS:
            break
    return kept


def split_of(sentence: str) -> str:
    """The split that a sentence belongs to, whatever other sentences there are; all that begin alike have the same."""
    percent = _number(_beginning(sentence)) % 100
    return next(name for name, end in _SHARES.items() if percent < end)


def _item(sentence: str, known: Sequence[str]) -> dict[str, Any] | None:
    """The question of a sentence: for the first known word far enough from its beginning; None without one."""
    words = _opening(sentence)
    place = next((n for n in range(_FEWEST_BEFORE, len(words)) if words[n] in known), None)
    if place is None:
        return None
    right, context = words[place], " ".join(words[:place])
    present, choices, draw = sentence.lower().split(), [right], 0
    while len(choices) < _CHOICES:
        draw += 1
        other = known[_number(f"{draw} {context}") % len(known)]
        # Words that the sentence has anyway might be right too.
        if other not in present and not any(_alike(other, word) for word in choices):
            choices.append(other)
    choices.sort(key=lambda word: _number(f"{word} {context}"))
    return {"context": context, "choices": choices, "gold": choices.index(right)}


def _alike(word: str, other: str) -> bool:
    """Whether two words are the same or forms of one: ``value`` and ``values``."""
    return word == other or (len(word) >= _SHORTEST and word[: _SHORTEST - 1] == other[: _SHORTEST - 1])


def _beginning(sentence: str) -> str:
    """The words of which every question has at least so many."""
    return " ".join(sentence.lower().split()[:_FEWEST_BEFORE])


def _parts(paragraph: str) -> list[str]:
    return _SENTENCE_END.split(" ".join(paragraph.split()))


@cache
def _opening(sentence: str) -> tuple[str, ...]:
    """The words at the beginning of a sentence, as long as they are plain, at most so many as a question needs."""
    found = []
    for word in sentence.split()[: _MOST_BEFORE + 1]:
        if not _PLAIN.fullmatch(word):
            break
        found.append(word)
    return tuple(found)


@lru_cache(maxsize=1)
def _texts() -> tuple[str, ...]:
    return tuple(_read_texts())


def _read_texts() -> Iterator[str]:
    with suppress(ImportError):  # some distributions of Python leave it out
        from pydoc_data.topics import topics

        for _, text in sorted(topics.items()):
            yield text
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - _LEFT_OUT):
        for file in [root / f"{name}.py", *sorted((root / name).rglob("*.py"))]:
            if not _TESTS.intersection(file.parts):
                with suppress(OSError):  # of a module in C, or one that this distribution leaves out
                    yield from _QUOTED.findall(file.read_bytes().decode("utf-8", "replace"))


def _number(text: str) -> int:
    """A number that depends on a text alone, and stands for a random one."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
