"""Texts that users read are plain technical English: strings, templates and documents are free of the usual slips."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What is wrong -> what to write. Matching ignores case; a space matches line breaks and indentation, too.
SLIPS = {
    # "J an output token", "8 requests an iteration"
    r"\b(tokens?|J|joules?|ms|requests?|lines?|objects?|rows?|records?|GB|GiB|items?|seconds?|samples?|"
    r"process(es)?) an? "
    r"(output token|token|request|second|line|item|iteration|benchmark|cell|variant|configuration|model|stage|task|"
    r"run|row|"
    r"file|side|subject|subtask|\(sub\)task)\b(?! (is|was|has|needs|takes|can|must)\b)": "per",
    r"\bgenerate an? request\b": "per",
    # "8 is no time"; "there is no GPU" is right
    r"(?<!there\s)\b(is|was|are) no (?!longer|more|less|way|need|such|one\b)\w+": "is not a …",
    r"\bcannot be told\b": "is inconclusive, cannot be distinguished, is unknown",
    r"\btold apart\b|\btells? .{1,40} apart\b": "distinguished",
    r"\bmend(s|ed)?\b": "fix",
    r"\bas it stands\b": "as-is, unchanged",
    r"\bwhere there (is|are|was|were)\b": "if there is, without",
    r"\b(None|NaN|empty) where\b": "None if",
    r"\bkeeps? every (constraint|limit)\b": "meets every constraint",
    r"\bsurely\b": "certainly, beyond noise",
    r"\bwithout a word\b": "silently, before finishing",
    r"\bhow sure\b": "with what confidence",
    r"\d+ then, \d+ asked\b|\} then, \{": "recorded with …, requested …",
}
_SLIPS = {re.compile(pattern.replace(" ", r"\s+"), re.I | re.S): remedy for pattern, remedy in SLIPS.items()}


def _documents() -> list[Path]:
    pages = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    pages += [path for folder in ("docs", "slim_eval") for path in (ROOT / folder).rglob("*.md")]
    return sorted(pages)


def _files() -> list[Path]:
    code = [path for suffix in ("py", "js", "html") for path in (ROOT / "slim_eval").rglob(f"*.{suffix}")]
    return sorted(code) + _documents()


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and texts: string literals of a module, everything of another file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tree = ast.parse(source)
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                yield node.lineno, node.value
        return
    # The README's option table repeats texts of the config, which are tested there.
    yield 1, re.sub(r"(?m)^\| `--.*$", "", source)


def _slips(text: str, line: int = 1) -> Iterator[str]:
    for pattern, remedy in _SLIPS.items():
        for match in pattern.finditer(text):
            words = " ".join(match[0].split())
            yield f"line {line + text.count(chr(10), 0, match.start())}: {words!r}: write {remedy!r}"


@pytest.mark.parametrize("path", _files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_texts_are_plain_english(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = [slip for line, text in _texts(path) for slip in _slips(text, line)]
    assert not found, "\n".join([name, *found])


@pytest.mark.parametrize(
    "text",
    [
        "Concurrent requests an iteration.",
        "one object a line",
        "J an output token",
        "8 is no valid time",
        "no sample is NaN where there is no GPU",
        "how much is chance cannot be told",
        "500 then, 50 asked",
        "each gap comes with what mends it",
        "the worker ended without\na word",
    ],
)
def test_slips_are_found(text: str) -> None:
    assert list(_slips(text))


@pytest.mark.parametrize(
    "text",
    ["8 requests per iteration", "there is no GPU", "it is no longer used", "the rows a file has", "recommended"],
)
def test_plain_sentences_pass(text: str) -> None:
    assert not list(_slips(text))
