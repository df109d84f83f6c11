"""Damaged, huge and deep files: each names the file and the limit, and none fills the memory."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim_eval import models
from slim_eval.analysis.compare.items import update_paired
from slim_eval.config import ImportConfig, QuantizationConfig
from slim_eval.errors import QuantizationError, ResultFileError, SlimEvalError, UsageError
from slim_eval.quantization import cache, calibration
from slim_eval.results.importers import ForeignFile
from slim_eval.results.store import find_results, model_directory, read_noise, read_record, read_samples
from slim_eval.results.variants import Variant
from slim_eval.utils import safe_json
from slim_eval.utils.safe_json import LimitError
from tests.generated import examples

DEEP = "[" * 100_000
#: Deep enough for the limit, not for Python's own.
NESTED = '{"a":' * 150 + "1" + "}" * 150


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_documents_up_to_the_depth_are_read() -> None:
    assert safe_json.parse(deep(safe_json.MAX_DEPTH))
    assert safe_json.parse('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    for text in (deep(safe_json.MAX_DEPTH + 1), NESTED, DEEP, DEEP + "]" * len(DEEP)):
        with pytest.raises(LimitError, match="more than 100 levels deep"):
            safe_json.parse(text)


def test_files_up_to_the_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 10)
    assert safe_json.read_bytes(path, 10) == b"x" * 10
    with pytest.raises(LimitError, match="larger than the limit of 9 bytes"):
        safe_json.read_bytes(path, 9)


def test_a_file_that_claims_no_size_is_not_read_without_end() -> None:
    with pytest.raises(LimitError, match="larger than the limit of 1 MiB"):
        safe_json.read_bytes(Path("/dev/zero"), 2**20)


@given(st.lists(st.text().filter(lambda text: "\n" not in text)))
def test_lines_are_those_of_the_stream(texts: list[str]) -> None:
    content = "".join(f"{text}\n" for text in texts).encode()
    assert list(safe_json.lines(io.BytesIO(content))) == [f"{text}\n" for text in texts]


def test_lines_up_to_both_limits_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"12345\n1234\n"
    monkeypatch.setattr(safe_json, "MAX_LINE_BYTES", 6)
    assert list(safe_json.lines(io.BytesIO(content), max_bytes=11)) == ["12345\n", "1234\n"]
    with pytest.raises(LimitError, match="larger than the limit of 10 bytes"):
        list(safe_json.lines(io.BytesIO(content), max_bytes=10))
    monkeypatch.setattr(safe_json, "MAX_LINE_BYTES", 5)
    with pytest.raises(LimitError, match="line 1 is longer than the limit of 5 bytes"):
        list(safe_json.lines(io.BytesIO(content), max_bytes=11))


class Counted(io.BytesIO):
    """An endless line that counts what was taken of it."""

    taken = 0

    def readline(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert 0 < size <= safe_json.MAX_LINE_BYTES + 1
        self.taken += size
        return b"x" * size


def test_an_endless_line_is_not_read_to_its_end() -> None:
    stream = Counted()
    with pytest.raises(LimitError, match="line 1 is longer than the limit of 16 MiB"):
        list(safe_json.lines(stream))
    assert stream.taken == safe_json.MAX_LINE_BYTES + 1


def test_a_gzip_bomb_is_not_unpacked(make_variant: Callable[..., Variant]) -> None:
    variant = make_variant(write=True)
    path = variant.directory / "performance.samples.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(64):  # 64 MiB in one line
            stream.write(b" " * 2**20)
    assert path.stat().st_size < 2**20
    with pytest.raises(
        ResultFileError, match=r"performance\.samples.*line 1 is longer than the limit of 16 MiB"
    ) as failure:
        read_samples(variant.directory, "performance")
    assert failure.value.remedy


def test_samples_have_a_limit_in_all(make_variant: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch) -> None:
    variant = make_variant(samples={"performance": [{"a": "x" * 100}] * 200})
    assert len(read_samples(variant.directory, "performance")) == 200
    monkeypatch.setattr(safe_json, "MAX_LINES_BYTES", 10_000)
    with pytest.raises(ResultFileError, match="larger than the limit of 10,000 bytes"):
        read_samples(variant.directory, "performance")


@pytest.mark.parametrize("text", [DEEP, NESTED, '{"a": 1', "", "\udc80", "9" * 5000, '{"schema_version": 1e999}'])
def test_records_that_are_none_say_so(text: str, make_variant: Callable[..., Variant]) -> None:
    variant = make_variant(tasks={"quiz": 0.5}, write=True)
    path = variant.directory / "quiz.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ResultFileError, match=r"quiz\.json") as failure:
        read_record(path)
    assert failure.value.remedy
    results = find_results(variant.directory)
    assert results.variants[0].performance == variant.performance
    assert [problem for problem in results.problems if "quiz.json" in problem]
    assert model_directory(variant.directory.parent.parent, "org/Tiny") == variant.directory.parent


def test_a_record_that_is_too_large_names_the_limit(
    make_variant: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = make_variant(write=True)
    path = variant.directory / "performance.json"
    with path.open("r+b") as stream:
        stream.truncate(safe_json.MAX_BYTES + 1)  # a hole: it takes no disk
    with pytest.raises(ResultFileError, match=r"performance\.json.*larger than the limit of 64 MiB"):
        read_record(path)


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 60))
def test_a_damaged_record_is_read_or_refused_in_words(tmp_path: Path, content: bytes, at: int, cut: int) -> None:
    whole = json.dumps({"schema_version": 1, "model": "m", "precision": "fp16", "ttft_s": 0.1, "notes": ["a"]}).encode()
    damaged = whole[:at] + content + whole[at + cut :]
    path = tmp_path / "performance.json"
    path.write_bytes(damaged)
    problem: ResultFileError | None = None
    try:
        read_record(path)
    except ResultFileError as error:
        problem = error
    assert problem is None or ("performance.json" in problem.cause and problem.remedy)


@pytest.mark.parametrize("text", [DEEP, NESTED])
def test_other_readers_refuse_depth_too(text: str, tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(text)
    with pytest.raises(ResultFileError, match=r"foreign\.json.*100 levels deep"):
        _ = ForeignFile(path, ImportConfig(paths=(path,))).documents
    with pytest.raises(ResultFileError, match=r"foreign\.json.*100 levels deep"):
        list(ForeignFile(path, ImportConfig(paths=(path,))).rows(dict[str, Any]))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json.*100 levels deep"):
        models.describe_config(tmp_path)
    (tmp_path / cache.RECORD_FILE).write_text(text)
    with pytest.raises(QuantizationError, match=r"quantization\.json"):
        cache.read_record(tmp_path)
    header = text.encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UsageError, match="its header is damaged"):
        models.read_header(tmp_path / "model.safetensors")
    noise = tmp_path / "Tiny" / "Tiny_noise" / "noise.json"
    noise.parent.mkdir(parents=True)
    noise.write_text(text)
    with pytest.raises(ResultFileError, match=r"noise\.json.*100 levels deep"):
        read_noise(tmp_path / "Tiny")
    variants = [make_variant(precision=name, tasks={"quiz": 0.5}, samples={"quiz": ITEMS}) for name in ("fp16", "int8")]
    (variants[1].directory / "paired.json").write_text(text)
    assert update_paired(variants[1].directory.parent, 1.0)
    assert json.loads((variants[1].directory / "paired.json").read_text())["model"] == "org/Tiny"


ITEMS: list[dict[str, Any]] = [{"task": "quiz", "doc_id": n, "doc_hash": f"d{n}", "acc,none": n % 2} for n in range(8)]


def test_lines_of_other_tools_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"a": 1}\n{"a": "xxxxxxxxxx"}\n')
    file = ForeignFile(path, ImportConfig(paths=(path,)))
    assert len(list(file.rows(dict[str, Any]))) == 2
    monkeypatch.setattr(safe_json, "MAX_LINE_BYTES", 12)
    with pytest.raises(ResultFileError, match=r"items\.jsonl.*line 2 is longer than the limit of 12 bytes"):
        list(ForeignFile(path, ImportConfig(paths=(path,))).rows(dict[str, Any]))


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b'{"text": "a"}\n' + b"x" * 200, UsageError, r"data\.jsonl.*line 2 is longer than the limit of 100 bytes"),
        (b'{"text": "a"}\n' * 40, UsageError, r"data\.jsonl.*larger than the limit of 500 bytes"),
        (b'{"text": ' + b"[" * 80 + b"\n" * 2, QuantizationError, r"data\.jsonl, line 1: not JSON"),
        (b'{"text": "\xff"}\n', QuantizationError, r"data\.jsonl, line 1: not UTF-8"),
    ],
)
def test_local_calibration_data_has_limits(
    content: bytes, kind: type[SlimEvalError], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_json, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(calibration, "_MAX_BYTES", 500)
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(kind, match=says) as failure:
        calibration.load_texts(QuantizationConfig(calibration_dataset=str(path)), None, 0)
    assert failure.value.remedy


def test_calibration_rows_that_are_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{DEEP}\n")
    with pytest.raises(UsageError, match=r"data\.jsonl.*100 levels deep"):
        calibration.load_texts(QuantizationConfig(calibration_dataset=str(path)), None, 0)


@pytest.mark.parametrize("name", ["x" * 300, f"/{'x' * 300}", f"./{'x' * 300}"])
def test_a_model_name_longer_than_any_file_name_is_refused_in_words(name: str) -> None:
    assert models.is_path(name) == name.startswith(("/", "."))
    if models.is_path(name):
        with pytest.raises(UsageError, match="cannot be read"):
            models.resolve(name)
    assert calibration.local_path("x" * 300) is None
