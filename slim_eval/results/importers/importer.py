"""What an importer is: the file that it reads, and the records that it returns.

An importer reads the result files of one other tool. It is one file, here or a plugin, that registers one member::

    class Toy(Importer):
        name = "toy"

        def detects(self, file: ForeignFile) -> bool:
            return "toy_version" in file.fields

        def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
            run = file.validate(ToyRun, file.fields)
            yield ImportedRecord(self.name, PerformanceMetrics(ttft_s=run.ttft_s), model=run.model)

    IMPORTERS.register(Toy())

`ToyRun` is a `ForeignObject`: a pydantic model of the fields that are used. A field that is missing or of another type
becomes an error that names the file and the field. One file may contain any number of records.
"""

from __future__ import annotations

import codecs
import csv
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, Protocol, TypeVar

import yaml
from pydantic import AfterValidator, AliasPath, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from slim_eval.config import ImportConfig, option_info, require_task_files
from slim_eval.errors import ResultFileError, UsageError
from slim_eval.recognise import FP32, Marked, model_name, of_options, with_endings
from slim_eval.results.records import (
    RECORD_CLASSES,
    SCHEMA_VERSION,
    AccuracyRecord,
    Record,
    ServingLevel,
)
from slim_eval.results.store import finite, one_line
from slim_eval.schemes import DEFAULT_BASELINE
from slim_eval.stats import Statistic, batches, bootstrap_interval, resolving_count, summarize
from slim_eval.utils import safe_json
from slim_eval.utils.registry import Registry

#: Larger files are refused: parsing one takes several times its size in memory.
MAX_BYTES = 2 * 10**9
#: Above any time in ms, date in seconds or number of tokens; far larger values would overflow when they are squared.
MAX_NUMBER = 1e15

#: In seconds since 1970: smaller numbers are dates such as 20260101.
_FIRST_EPOCH = 1e9
#: Bytes in which to look for what a file is.
_BEGINNING = 2**16
_GZIP = b"\x1f\x8b"
_NAMED = 3
_SHOWN = 40  # characters of a value
_REMEDY = "measure again, or leave the file out"
_Content = TypeVar("_Content")
_STATISTICS: dict[Statistic, str] = {"mean": "{}", "median": "median_{}", "p95": "p95_{}"}
_RESAMPLES = 2000


#: Options whose value a file may lack -> what it is.
_ASKED = {
    "model": "the name of the model", "precision": "the precision at which it was measured",
    "batch_size": "the batch size", "max_new_tokens": "the output tokens per request",
}  # fmt: skip


class RefusedRecordError(ResultFileError):
    """One record of a file cannot be written."""


class MissingOptionError(UsageError):
    """A file does not contain what only the user knows."""

    def __init__(self, path: Path, options: Sequence[str]) -> None:
        """Options are fields of `ImportConfig`."""
        self.path, self.options = path, tuple(options)
        super().__init__(f"{path}: does not contain {_listed([_ASKED[name] for name in options])}", _remedy(options))

    @classmethod
    def of_all(cls, errors: Sequence[MissingOptionError]) -> UsageError:
        """One error for several files, which names every option that any of them lacks."""
        options = [name for name in _ASKED if any(name in error.options for error in errors)]
        shown = [error.cause for error in errors[:_NAMED]]
        more = [f"and {len(errors) - _NAMED} more files"] if len(errors) > _NAMED else []
        return UsageError("; ".join(shown + more), _remedy(options))


def _listed(texts: Sequence[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _remedy(options: Sequence[str]) -> str:
    flags = [option_info(name, ImportConfig.model_fields[name])["flag"] for name in options]
    flags = [f"{flag} (e.g. fp16)" if flag == "--precision" else flag for flag in flags]
    return f"give {_listed(flags)}; import files that differ in it one after the other"


@dataclass(frozen=True)
class Format:
    """A layout of a tool's files that is read: a row of the table in docs/importing.md."""

    versions: str  # of the tool: ``0.4.0 to 0.4.2``
    files: str  # what they are called: ``results_*.json``
    taken: str  # what is read from them, in a few words


class Importer(Protocol):
    """Reads the result files of one tool. Members of `IMPORTERS` subclass it, which supplies the defaults."""

    name: str  # the tool, as messages call it
    patterns: tuple[str, ...] = ("*.json",)  # file names of its results; of a folder, only these are read
    companions: tuple[str, ...] = ()  # of files that belong to a result and are read with it, never on their own
    formats: tuple[Format, ...] = ()  # what it reads, for the documentation

    def detects(self, file: ForeignFile) -> bool:
        """Whether a file is this tool's, by its content; also if the version is unknown or a field is missing."""

    def read(self, file: ForeignFile) -> Iterable[ImportedRecord]:
        """Its measurements; `ResultFileError` if it cannot be used, `UsageError` if only the user knows a value."""


IMPORTERS: Registry[Importer] = Registry("importer")


@dataclass(frozen=True)
class ForeignFile:
    """A file that another tool wrote; `ResultFileError` if it is not readable, not JSON, too large or too deep."""

    path: Path
    config: ImportConfig  # the command's options: what the user states, if the file does not
    #: Notes on values that are no measurement, which the next record takes with it.
    unmeasured: list[str] = field(default_factory=list, compare=False, repr=False)

    @functools.cached_property
    def documents(self) -> list[Any]:
        """Its JSON documents, one after the other. Most files contain one; some tools append.

        The name says if it is not JSON: a YAML file is one document, each row of a CSV file is one, of texts.
        """
        try:
            text = self._text(safe_json.read_bytes(self.path, MAX_BYTES)).strip()
        except (OSError, ValueError) as error:
            raise self._unreadable("cannot be read", error) from error
        if text and (parser := _PARSERS.get(self.path.suffix.lower())):
            try:
                return parser(text) or self._empty()
            except (ValueError, yaml.YAMLError, csv.Error, RecursionError) as error:
                raise self._unreadable(f"not readable as {self.path.suffix[1:].upper()}", error) from error
        found: list[Any] = []
        start, decoder = 0, json.JSONDecoder()
        try:
            while start < len(text):
                document, end = decoder.raw_decode(text, start)
                safe_json.refuse_depth(document)
                found.append(document)
                start = end + len(text[end:]) - len(text[end:].lstrip())
        except (ValueError, RecursionError) as error:
            reason = safe_json.too_deep() if isinstance(error, RecursionError) else error
            raise self._unreadable("not readable as JSON", reason) from error
        return found or self._empty()

    def _text(self, content: bytes) -> str:
        if content.startswith(_GZIP):
            raise ResultFileError(f"{self.path}: is compressed with gzip: decompress it first (gunzip)", _REMEDY)
        return content.decode(_encoding(content))

    @property
    def beginning(self) -> str:
        """The beginning of its text, to say what a file is that cannot be read; empty if there is none."""
        try:
            with self.path.open("rb") as stream:
                content = stream.read(_BEGINNING)
        except OSError:
            return ""
        return content.decode(_encoding(content), errors="replace")

    def _empty(self) -> NoReturn:
        raise ResultFileError(f"{self.path}: is empty", _REMEDY)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Its JSON documents, each of which must be an object or a list of objects."""
        for document in self.documents:
            contents = document if isinstance(document, list) else [document]
            yield from (self.validate(dict[str, Any], content) for content in contents)

    @functools.cached_property
    def fields(self) -> Mapping[str, Any]:
        """The first object; empty if the file cannot be read or does not begin with one. For `Importer.detects`.

        Of JSON Lines, only the first line is read: a folder may contain large files that are not results.
        """
        try:
            first = self._first_line() if self.path.suffix == ".jsonl" else None
            if first is None:
                first = self.documents[0]
        except ResultFileError:
            return {}
        if isinstance(first, list) and first:
            first = first[0]
        return first if isinstance(first, dict) else {}

    def _first_line(self) -> Any:
        """What the first line contains; None if it is not a JSON document of its own."""
        try:
            with self.path.open("rb") as stream:
                return safe_json.parse(next(safe_json.lines(stream), "").removeprefix("\ufeff"))
        except (OSError, ValueError):
            return None

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of its bytes."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def rows(self, kind: type[_Content]) -> Iterator[tuple[str, _Content]]:
        """The objects of a JSON Lines file, one at a time, each with its place for `error`: ``line 3``.

        Some tools write one list of them instead, whatever the file's name.
        """
        try:
            with self.path.open("rb") as stream:
                is_list = stream.read(1) == b"["
                stream.seek(0)
                if is_list:
                    for number, content in enumerate(self.objects(), start=1):
                        yield (place := f"[{number - 1}]"), self.validate(kind, content, place)
                    return
                for number, line in enumerate(safe_json.lines(stream, max_bytes=MAX_BYTES), start=1):
                    place = f"line {number}"
                    try:
                        content = safe_json.parse(line)
                    except ValueError as error:
                        raise self._unreadable(f"{place} is not JSON", error) from error
                    yield place, self.validate(kind, content, place)
        except (OSError, ValueError) as error:
            raise self._unreadable("cannot be read", error) from error

    def beside(self, name: str) -> ForeignFile:
        """Another file of the same folder; it may not exist."""
        return replace(self, path=self.path.with_name(name))

    def validate(self, kind: type[_Content], content: Any, place: str = "") -> _Content:
        """Content as a `ForeignObject`, or a list or dict of them; an error shows a field and part of its value.

        A number that cannot be a measurement (NaN, infinite, a negative time) is missing where the field may be, with
        a note in the record.
        """
        adapter: TypeAdapter[_Content] = _adapter(kind)  # type: ignore[arg-type]
        try:
            return adapter.validate_python(content, strict=True)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        first = next((each for each in errors if not _is_unmeasured(each["type"], each["input"])), None)
        if first is None:
            bare = content
            for each in errors:
                bare = _without(bare, each["loc"])
            try:
                found = adapter.validate_python(bare, strict=True, context=UNMEASURED)
            except ValidationError:
                first = errors[0]
            else:
                for each in errors:
                    where = (place + _steps(each["loc"])).removeprefix(".")
                    self.unmeasured.append(f"{where} is {abbreviated(each['input'])}, no measurement: missing")
                return found
        problem, value = _PROBLEMS.get(first["type"]), first["input"]
        if first["type"] == "value_error":
            problem = str(first["ctx"]["error"])
        elif problem is None:
            shown = {list: "a list", dict: "an object", type(None): "null"}.get(type(value)) or f"{value!r:.40}"
            problem = f"is {shown}, not {_EXPECTED.get(first['type'], 'in the valid range')}"
        raise self.error((place + _steps(first["loc"])).removeprefix("."), problem)

    def complete(self, samples: list[RequestSample], unknown: int) -> list[RequestSample]:
        """The samples, if no request has an unknown time; otherwise none, so that the tool's own summary is taken."""
        if unknown:
            total = unknown + len(samples)
            self.unmeasured.insert(0, f"times of {unknown} of {total} requests are unknown: numbers are of the summary")
        return [] if unknown else samples

    def error(self, field: str, problem: str) -> ResultFileError:
        """An error that names the file and a field: ``benchmarks[0].duration``."""
        where = f"field {field!r}" if field else "the document"
        return ResultFileError(f"{self.path}: {where} {problem}", _REMEDY)

    def lacks(self, **known: Any) -> MissingOptionError:
        """The error for values that only the user knows: of these fields of `ImportConfig`, those that are None."""
        names = tuple(name for name, value in known.items() if value is None and getattr(self.config, name) is None)
        return MissingOptionError(self.path, names)

    def _unreadable(self, problem: str, error: BaseException) -> ResultFileError:
        return ResultFileError(f"{self.path}: {problem} ({one_line(error)})", _REMEDY)


_adapter = functools.cache(TypeAdapter)
_MOST_UNMEASURED = 12  # notes on numbers that are no measurement, of one record
#: pydantic's type of an error -> what is wrong, or what was expected.
_PROBLEMS = {"missing": "is missing", "too_short": "is empty", "string_too_short": "is empty"}
_EXPECTED = {
    "float_type": "a number", "int_type": "a whole number", "finite_number": "a finite number", "list_type": "a list",
    "string_type": "a string", "dict_type": "an object", "model_type": "an object", "greater_than": "above 0",
}  # fmt: skip
#: The context of a validation in which None stands for a number that cannot be a measurement.
UNMEASURED = "unmeasured"
#: pydantic's types of errors that are about a number's value.
_OUT_OF_RANGE = {"finite_number", "greater_than", "greater_than_equal", "less_than_equal"}


def _is_unmeasured(kind: str, value: Any) -> bool:
    return kind in _OUT_OF_RANGE and isinstance(value, (int, float)) and not isinstance(value, bool)


def _steps(place: Iterable[int | str]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)


def _without(content: Any, place: Sequence[int | str]) -> Any:
    """A copy of what a file contains with None in one place."""
    if not place:
        return None
    step, *rest = place
    if isinstance(content, dict) and step in content:
        return {**content, step: _without(content[step], rest)}
    if isinstance(content, list) and isinstance(step, int):
        return [_without(entry, rest) if index == step else entry for index, entry in enumerate(content)]
    return content


def abbreviated(value: Any) -> str:
    """A value as a message shows it; a number of 400 digits by its first ones."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class ForeignObject(BaseModel):
    """An object of a foreign file: only the fields that are used. Others are ignored; types are not converted."""

    model_config = {"frozen": True}


def inner(path: str, default: Any = ...) -> Any:
    """A field of an object inside this one: ``inner("config.backend.model")``; required without a default."""
    return Field(default, validation_alias=AliasPath(*path.split(".")))


def _encoding(content: bytes) -> str:
    """UTF-8, or UTF-16 with a byte order mark, as PowerShell's ``>`` writes."""
    return "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _yaml(text: str) -> list[Any]:
    """A YAML document as JSON could contain it: not too deep, and without references, which make small files large."""
    depth = 0
    for event in yaml.parse(text, Loader=_PlainLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("a YAML alias (*name) is not supported: save the report as JSON")
        # The loader would end the process if it was nested deeper than the stack.
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > safe_json.MAX_DEPTH:
            raise safe_json.too_deep()
    return [yaml.load(text, Loader=_PlainLoader)]


def _csv(text: str) -> list[Any]:
    """The rows of a table whose first line names the columns."""
    return list(csv.DictReader(text.splitlines(), restkey="", restval=""))


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as plain data: dates stay texts, and values of Python's own types are read as what they contain."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def plain(self, _suffix: str, node: Any) -> Any:
        """What a node contains, without its type."""
        if isinstance(node, yaml.SequenceNode):
            return self.construct_sequence(node, deep=True)
        return self.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else node.value


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _PlainLoader.plain)
#: Ending of a file that is not JSON -> its documents.
_PARSERS: dict[str, Callable[[str], list[Any]]] = {".yaml": _yaml, ".yml": _yaml, ".csv": _csv}


def _require_success(count: int) -> int:
    if not count:
        raise ValueError("is 0: no request succeeded")
    return count


def _number_or_none(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= MAX_NUMBER else None


#: A finite number.
Number = Annotated[float, Field(allow_inf_nan=False, ge=-MAX_NUMBER, le=MAX_NUMBER)]
#: A time, rate, amount or length: a finite number from 0.
Measured = Annotated[float, Field(allow_inf_nan=False, ge=0, le=MAX_NUMBER)]
#: A finite number; None for anything else. Of settings that may also be infinite, a text or a list.
NumberOrNone = Annotated[float | None, BeforeValidator(_number_or_none)]
#: A finite number above 0.
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0, le=MAX_NUMBER)]
#: Seconds, or None; written in ms.
Seconds = Annotated[Measured | None, AfterValidator(lambda ms: None if ms is None else ms / 1000)]
#: A whole number from 0.
Count = Annotated[
    int,
    BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
    Field(ge=0, le=int(MAX_NUMBER)),
]
#: Number of requests that succeeded, at least one.
Succeeded = Annotated[Count, AfterValidator(_require_success)]
#: A setting that may be written as a text: a number that was asked for, and one that is whole.
Asked = Annotated[Measured, BeforeValidator(lambda value: plain_number(value))]
AskedCount = Annotated[Count, BeforeValidator(lambda value: plain_number(value))]
AskedOrNone = Annotated[NumberOrNone, BeforeValidator(lambda value: plain_number(value))]
#: A text that is not empty.
Text = Annotated[str, Field(min_length=1)]
#: A text; None if it is missing, null or empty.
OptionalText = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]


@dataclass(frozen=True)
class ImportedRecord:
    """One measurement of a foreign file. What the file does not contain is None."""

    tool: str  # what wrote the file, with its command: ``vllm bench serve``
    metrics: BaseModel  # its numbers, in slim-eval's units and meanings
    version: str | None = None  # of the tool
    model: str | None = None
    precision: str | None = None  # name of the scheme
    marked: Marked | None = None  # what the file says of quantization; None: no more than the name of the model does
    label: str = ""  # distinguishes it from others of the same model, scheme and benchmark: ``concurrency-8``
    config: Mapping[str, Any] = field(default_factory=dict)  # settings that it was measured with
    head: Mapping[str, Any] = field(default_factory=dict)  # other fields of `records.Metadata`: ``engine``, ``dtype``
    samples: Sequence[Mapping[str, Any]] = ()  # a row per request or item, with the columns of slim-eval's own samples
    notes: Sequence[str] = ()  # for the record, one line each
    #: The same measurement as a level of a sweep, if it is of a server under load: several become one `ServingRecord`.
    level: ServingLevel | None = None
    is_warmup: bool = False  # whether the tool marks it as a warm-up: no measurement, and not imported

    def record(self, file: ForeignFile) -> Record:
        """The record, with its origin in ``config.import``.

        Raises:
            MissingOptionError: Nothing states the model, or its scheme.
            ResultFileError: The options state a 16-bit scheme, and the file that the model is quantized.
            RefusedRecordError: Its task has the name of another file of a variant; the file's others can be imported.
        """
        marked = self.marked if self.marked is not None else of_options({}, [self.model])
        named, precision = file.config.model or self.model, self.precision or marked.name(None)
        model = None if named is None else model_name(named)
        if (stated := file.config.precision) is not None:
            if stated in (FP32, DEFAULT_BASELINE) and marked.marker:
                cause = f"{file.path}: contains {marked.marker!r}, so it was not measured at {stated} (--precision)"
                remedy = f"leave --precision out for it, or give that of {marked.marker!r}"
                raise ResultFileError(cause, remedy)
            precision = with_endings(stated, marked.endings)
        elif self.marked is None and precision == DEFAULT_BASELINE and marked.marker:
            precision = marked.scheme  # a tool that reads no marks took the 16-bit type for the scheme
        if model is None or precision is None:
            raise file.lacks(model=model, precision=precision)
        benchmark, kind = next(item for item in RECORD_CLASSES.items() if issubclass(item[1], type(self.metrics)))
        name, tool = file.path.name, self.tool
        origin = {"tool": tool, "version": self.version, "file": name, "sha256": file.sha256}
        notes = [f"imported from {name}, written by {tool} {self.version or 'of unknown version'}", *self.notes]
        unmeasured = [*dict.fromkeys(file.unmeasured)]
        notes += unmeasured[:_MOST_UNMEASURED]
        if further := len(unmeasured[_MOST_UNMEASURED:]):
            notes.append(f"{further} more notes on impossible numbers are left out")
        file.unmeasured.clear()
        if file.config.precision is None:
            notes.append(f"precision {precision} is taken from the file; --precision overrides it")
        named = file.config.base_model or self.head.get("base_model")
        base = None if named is None else model_name(named)
        head = {"schema_version": SCHEMA_VERSION, "benchmark": benchmark, "model": model, "precision": precision}
        head |= {"base_model": base} if base not in (None, model) else {}
        config = {"import": origin, benchmark: dict(self.config)}
        numbers = self.metrics.model_dump()
        if self.level is not None and self.level.num_errors:
            numbers["num_errors"] = self.level.num_errors
        record = kind(**finite({**self.head, **head, "config": config, "notes": notes, **numbers}))
        if isinstance(record, AccuracyRecord):
            try:
                require_task_files((record.task,))
            except UsageError as error:
                raise RefusedRecordError(f"{file.path}: {error.cause}: not imported", _REMEDY) from error
        return record


@dataclass(frozen=True)
class RequestSample:
    """One request or one iteration of a batch, with the columns of slim-eval's own samples; None is unknown."""

    iteration: int | None = None
    request: int | None = None
    wall_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


#: Note on what a client of a server measured.
OVER_HTTP = "measured by a client over HTTP: times include the network and waiting in the server's queue"


def request_metrics(samples: Sequence[RequestSample]) -> dict[str, Any]:
    """Fields of `PerformanceMetrics` over requests, computed as slim-eval's own performance benchmark does.

    Means, medians and p95 have 95 % intervals, from batches of consecutive requests in place of iterations.
    """
    intervals: dict[str, tuple[float, float]] = {}
    metrics: dict[str, Any] = {"intervals": intervals}
    for name, key in (("ttft_s", "ttft_s"), ("tpot_s", "tpot_s"), ("e2e_latency_s", "e2e_s")):
        summary = summarize(getattr(sample, key) for sample in samples)
        metrics[name] = summary.mean
        metrics |= {f"{part}_{name}": getattr(summary, part) for part in ("median", "p95", "p99", "std")}
        times = [time for sample in samples if (time := getattr(sample, key)) is not None]
        for statistic, column in _STATISTICS.items():
            if (found := bootstrap_interval(batches(times), statistic, resamples=_RESAMPLES)) is not None:
                intervals[column.format(name)] = (found.low, found.high)
    return metrics


def summary_metrics(
    name: str, count: int, *, mean: float | None, std: float | None, median: float | None, p95: float | None,
    p99: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Fields of `PerformanceMetrics` from a tool's own summary of a `name` like ``ttft_s`` over `count` requests.

    Times are in seconds. Percentiles of the tail are taken only if there are enough requests to resolve them. The
    tools' standard deviation is over n, slim-eval's over n - 1. No fields if the mean is unknown or 0, which is how
    these tools write "no values".
    """
    if not mean:
        return {}
    std = None if std is None or count < 2 else std * (count / (count - 1)) ** 0.5
    known = {f"p{q}_{name}": value for q, value in ((95, p95), (99, p99)) if count >= resolving_count(q)}
    return {name: mean, f"median_{name}": median, f"std_{name}": std, **known}


def own_summary(file: ForeignFile, document: Mapping[str, Any], theirs: str) -> dict[str, float | None]:
    """The summary of a time in a file of vLLM's or sglang's client, such as ``mean_ttft_ms``, in seconds."""
    keys = {part: f"{part}_{theirs}_ms" for part in ("mean", "std", "median", "p95", "p99")}
    found = file.validate(dict[str, Seconds], {key: document.get(key) for key in keys.values()})
    return {part: found.get(key) for part, key in keys.items()}


def client_metrics(
    file: ForeignFile, document: Mapping[str, Any], samples: Sequence[RequestSample], count: int, e2e: str
) -> dict[str, Any]:
    """Times of vLLM's or sglang's client: over its requests if the file has them, else its own summary of `count`.

    `e2e` is what the tool calls the end-to-end latency.
    """
    if samples:
        return request_metrics(samples)
    metrics: dict[str, Any] = {}
    for theirs, name in (("ttft", "ttft_s"), ("tpot", "tpot_s"), (e2e, "e2e_latency_s")):
        times = own_summary(file, document, theirs)
        if theirs == "tpot":
            # Requests of a single token have no TPOT, and their number is not in the file: no deviation over n - 1.
            times["std"] = None
        metrics |= summary_metrics(name, count, **times)
    return metrics


def few_samples_notes(count: int, unit: str) -> list[str]:
    """Notes on percentiles of a sample that is too small for them, in the words of the performance benchmark."""
    needed = {q: resolving_count(q) for q in (95, 99)}
    return [f"every p{q} equals the maximum: {count} {unit}, {n} needed" for q, n in needed.items() if count < n]


def utc(timestamp: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC; None if they are not a date."""
    try:
        date = None if timestamp is None else datetime.fromtimestamp(timestamp, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return None if date is None else date.isoformat(timespec="seconds")


def moment(timestamp: str | None) -> float:
    """A tool's time stamp in seconds since 1970, UTC if it has no zone; minus infinity if it is missing or no date."""
    for read in (_epoch, datetime.fromisoformat, lambda text: datetime.strptime(text, "%Y%m%d-%H%M%S")):
        try:
            date = read(timestamp or "")
            return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    return -math.inf


def _epoch(text: str) -> datetime:
    if (seconds := float(text)) < _FIRST_EPOCH:
        raise ValueError("a date in digits")
    return datetime.fromtimestamp(seconds, timezone.utc)


def plain_number(value: Any) -> Any:
    """A number in one form, however it is written: 1 for 1, 1.0 and "1"; anything else as it is."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) <= MAX_NUMBER else math.inf
    else:
        return value
    if abs(number) > MAX_NUMBER and not isinstance(value, str):
        return value
    return int(number) if number.is_integer() and abs(number) <= MAX_NUMBER else number
