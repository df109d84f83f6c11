"""Foreign files: what is wrong with one is said with the file and the field."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from slim_eval.errors import ResultFileError
from slim_eval.results.importers import reading
from slim_eval.results.importers.reading import Fields, load, load_lines


def written(folder: Path, text: str) -> Path:
    path = folder / "result.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_document_and_the_hash_of_its_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, ' {"a": 1}\n')
    assert load(path) == ([{"a": 1}], hashlib.sha256(path.read_bytes()).hexdigest())


def test_appended_documents_are_all_read(tmp_path: Path) -> None:
    assert load(written(tmp_path, '{"a": 1}\n{"a": 2}\n\n'))[0] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("text", ['{"a": [1, 2', "", "  \n", "not json", '{"a": 1} {"b"', "[" * 100_000])
def test_what_is_no_json_names_the_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ResultFileError, match=r"result\.json") as failure:
        load(path)
    assert failure.value.remedy


def test_bytes_that_are_no_text_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(ResultFileError, match=r"result\.json"):
        load(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, '{"a": 1}')
    monkeypatch.setattr(reading, "MAX_BYTES", 5)
    with pytest.raises(ResultFileError, match="more than the 5 bytes"):
        load(path)
    with pytest.raises(ResultFileError, match="more than the 5 bytes"):
        load_lines(path)


def test_lines_name_their_number(tmp_path: Path) -> None:
    path = written(tmp_path, '{"a": 1}\n{"a": "x"}\n')
    first, second = load_lines(path)
    assert first.number("a") == 1
    with pytest.raises(ResultFileError, match=r"result\.json: field 'line 2\.a' is 'x', not a number"):
        second.number("a")


@pytest.mark.parametrize(("line", "words"), [('{"a": 1', "line 2 is not JSON"), ("[1]", "line 2 is no JSON object")])
def test_a_damaged_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ResultFileError, match=words):
        load_lines(written(tmp_path, '{"a": 1}\n' + line))


@pytest.mark.parametrize(
    ("getter", "value", "words"),
    [
        ("number", float("nan"), "is nan, not a finite number"),
        ("number", float("inf"), "is inf, not a finite number"),
        ("number", 10**400, "is above 1e+15"),
        ("number", -1e300, "is above 1e+15"),
        ("number", True, "is True, not a number"),
        ("number", "1.0", "is '1.0', not a number"),
        ("number", None, "is null"),
        ("count", 1.5, "is 1.5, not a number of things"),
        ("count", -1, "is -1, not a number of things"),
        ("text", "", "not a text"),
        ("text", 3, "is 3, not a text"),
        ("child", [], "is a list, not an object"),
        ("items", {}, "is an object, not a list"),
        ("children", [{}, 1], "inner.key[1]' is 1, not an object"),
        ("numbers", [1, None], "inner.key[1]' is None, not a number"),
        ("text_or_none", ["x" * 99], "is a list, not a text"),
        ("number_or_none", "x" * 99, "xxx…', not a number"),
    ],
)
def test_a_wrong_value_is_named(getter: str, value: Any, words: str) -> None:
    fields = Fields(Path("some/file.json"), {"inner": {"key": value}})
    with pytest.raises(ResultFileError) as failure:
        getattr(fields.child("inner"), getter)("key")
    assert failure.value.cause.startswith("some/file.json: field 'inner.key")
    assert words in failure.value.cause
    assert len(failure.value.cause) < 120


@pytest.mark.parametrize("getter", ["number", "count", "text", "child", "items", "children", "numbers"])
def test_a_missing_field_is_named(getter: str) -> None:
    with pytest.raises(ResultFileError, match="field 'key' is missing"):
        getattr(Fields(Path("file.json"), {}), getter)("key")


def test_what_may_be_missing_is_none_and_never_zero() -> None:
    fields = Fields(Path("file.json"), {"null": None, "zero": 0, "empty": ""})
    for key in ("missing", "null"):
        assert fields.number_or_none(key) is None
        assert fields.count_or_none(key) is None
        assert fields.text_or_none(key) is None
        assert fields.child_or_empty(key).content == {}
    assert fields.number_or_none("zero") == 0
    assert fields.text_or_none("empty") is None


def test_what_is_right_comes_back_as_it_is() -> None:
    content = json.loads('{"n": 2.0, "t": "x", "o": {"a": 1}, "l": [{"a": 1}], "m": [1, 2.5]}')
    fields = Fields(Path("file.json"), content)
    assert (fields.number("n"), fields.count("n"), fields.text("t")) == (2.0, 2, "x")
    assert fields.child("o").number("a") == 1
    assert [child.at for child in fields.children("l")] == ["l[0]"]
    assert fields.numbers("m") == [1.0, 2.5]
