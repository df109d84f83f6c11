"""Foreign files: what is wrong with one is said with the file and the field."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from slim_eval.errors import ResultFileError
from slim_eval.results.importers import ForeignObject, importer
from slim_eval.results.importers.importer import (
    Count,
    Measured,
    Number,
    OptionalText,
    Text,
    abbreviated,
    inner,
)
from tests.unit.results.importers.conftest import foreign


def written(folder: Path, text: str) -> Path:
    path = folder / "result.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_document_and_the_hash_of_its_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, ' {"a": 1}\n')
    file = foreign(path)
    assert (file.documents, file.sha256) == ([{"a": 1}], hashlib.sha256(path.read_bytes()).hexdigest())


def test_appended_documents_are_all_read(tmp_path: Path) -> None:
    assert foreign(written(tmp_path, '{"a": 1}\n{"a": 2}\n\n')).documents == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("text", ['{"a": [1, 2', "", "  \n", "not json", '{"a": 1} {"b"', "[" * 100_000])
def test_what_is_no_json_names_the_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ResultFileError, match=r"result\.json") as failure:
        _ = foreign(path).documents
    assert failure.value.remedy


def test_bytes_that_are_no_text_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(ResultFileError, match=r"result\.json"):
        _ = foreign(path).documents


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, '{"a": 1}')
    monkeypatch.setattr(importer, "MAX_BYTES", 5)
    with pytest.raises(ResultFileError, match="larger than the limit of 5 bytes"):
        _ = foreign(path).documents
    with pytest.raises(ResultFileError, match="larger than the limit of 5 bytes"):
        list(foreign(path).rows(dict[str, Any]))


class Inner(ForeignObject):
    key: Number


class Content(ForeignObject):
    number: Number = 0
    count: Count = 0
    text: Text = "x"
    child: Inner = Inner(key=0)
    children: list[Inner] = Field(default_factory=list)
    numbers: list[Number] = Field(default_factory=list)
    optional_text: OptionalText = None
    optional_number: Number | None = None
    deep: Number = inner("one.two", 0)


def test_lines_name_their_number(tmp_path: Path) -> None:
    rows = foreign(written(tmp_path, '{"key": 1}\n{"key": "x"}\n')).rows(Inner)
    assert next(rows) == ("line 1", Inner(key=1))
    with pytest.raises(ResultFileError, match=r"result\.json: field 'line 2\.key' is 'x', not a number"):
        next(rows)


@pytest.mark.parametrize(
    ("line", "words"), [('{"a": 1', "line 2 is not JSON"), ("[1]", "'line 2' is a list, not an object")]
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ResultFileError, match=words):
        list(foreign(written(tmp_path, '{"a": 1}\n' + line)).rows(dict[str, Any]))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("number", float("nan"), "is nan, not a finite number"),
        ("number", float("inf"), "is inf, not a finite number"),
        ("number", 10**400, "is 1000"),
        ("number", -1e300, "is -1e+300, not in the valid range"),
        ("number", True, "is True, not a number"),
        ("number", "1.0", "is '1.0', not a number"),
        ("number", None, "is null"),
        ("count", 1.5, "is 1.5, not a whole number"),
        ("count", -1, "is -1, not in the valid range"),
        ("text", "", "is empty"),
        ("text", 3, "is 3, not a string"),
        ("child", [], "is a list, not an object"),
        ("children", {}, "is an object, not a list"),
        ("children", [{"key": 1}, 1], "inner.children[1]' is 1, not an object"),
        ("children", [{"key": 1}, {}], "inner.children[1].key' is missing"),
        ("numbers", [1, None], "inner.numbers[1]' is null, not a number"),
        ("optional_text", ["x" * 99], "is a list, not a string"),
        ("optional_number", "x" * 99, "xxx, not a number"),
        ("one", {"two": "x"}, "inner.one.two' is 'x', not a number"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, field: str, value: Any, words: str) -> None:
    file = foreign(tmp_path / "file.json")
    with pytest.raises(ResultFileError) as failure:
        file.validate(Content, {field: value}, "inner")
    assert failure.value.cause.startswith(f"{file.path}: field 'inner.{field}")
    assert words in failure.value.cause
    assert len(failure.value.cause) < 120 + len(str(file.path))


def test_a_missing_field_and_a_document_of_another_kind_are_named(tmp_path: Path) -> None:
    file = foreign(tmp_path / "file.json")
    with pytest.raises(ResultFileError, match="field 'key' is missing"):
        file.validate(Inner, {})
    with pytest.raises(ResultFileError, match="the document is a list, not an object"):
        file.validate(Inner, [])


def test_what_may_be_missing_is_none_and_never_zero(tmp_path: Path) -> None:
    file = foreign(tmp_path / "file.json")
    for content in ({}, {"optional_text": None, "optional_number": None}):
        assert file.validate(Content, content).optional_number is None
        assert file.validate(Content, content).optional_text is None
    content = file.validate(Content, {"optional_number": 0, "optional_text": ""})
    assert content.optional_number == 0
    assert content.optional_text is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5, -5.0, 1e300, 10**40])
def test_a_number_that_cannot_be_measured_is_missing_and_named(tmp_path: Path, value: float) -> None:
    class Timed(ForeignObject):
        mean: Measured | None = None
        needed: Measured = 0
        each: list[Measured] = Field(default_factory=list)

    file = foreign(tmp_path / "file.json")
    content = file.validate(dict[str, list[Timed]], {"runs": [{"mean": 1.0}, {"mean": value}]}, "report")
    assert [run.mean for run in content["runs"]] == [1.0, None]
    assert file.unmeasured == [f"report.runs[1].mean is {abbreviated(value)}, no measurement: missing"]
    assert len(file.unmeasured[0]) < 100
    file.unmeasured.clear()
    for damaged in ({"needed": value}, {"each": [1.0, value]}, {"mean": value, "needed": "text"}):
        with pytest.raises(ResultFileError):
            file.validate(Timed, damaged)
    assert not file.unmeasured


def test_what_is_right_comes_back_as_it_is(tmp_path: Path) -> None:
    text = '{"number": 2, "count": 2.0, "text": "x", "children": [{"key": 1}], "numbers": [1, 2.5], "other": 3}'
    content = foreign(tmp_path / "file.json").validate(Content, json.loads(text))
    assert (content.number, content.count, content.text) == (2.0, 2, "x")
    assert isinstance(content.count, int)
    assert content.children == [Inner(key=1)]
    assert content.numbers == [1.0, 2.5]
