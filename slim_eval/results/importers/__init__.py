"""Results of other tools as variants: lm-eval, ``vllm bench``, guidellm.

A file is recognised by its fields, not by its name. Nothing is written before every file has been read: a file that
cannot be used becomes a problem and leaves the others standing, and what only the user can say is asked for first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.importers import guidellm, lm_eval_results, vllm_bench
from slim_eval.results.importers.findings import Finding, Given, Source
from slim_eval.results.importers.placing import Placed, place, write
from slim_eval.results.importers.reading import Fields, load
from slim_eval.results.store import require_writable

__all__ = ["Format", "ImportReport", "detect", "import_results"]

_KNOWN = "known: lm-eval's results_*.json, vllm bench latency, throughput and serve, guidellm's benchmarks.json"
_PRECISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Format(str, Enum):
    """What wrote a file."""

    LM_EVAL = "lm-eval"
    VLLM_LATENCY = "vllm bench latency"
    VLLM_THROUGHPUT = "vllm bench throughput"
    VLLM_SERVE = "vllm bench serve"
    GUIDELLM = "guidellm"


#: Fields that only one tool writes together.
_MARKS = {
    Format.LM_EVAL: {"results", "configs", "n-shot"},
    Format.GUIDELLM: {"benchmarks"},
    Format.VLLM_LATENCY: {"avg_latency", "latencies"},
    Format.VLLM_THROUGHPUT: {"elapsed_time", "num_requests"},
    Format.VLLM_SERVE: {"request_throughput", "completed"},
}


def _one(read: Callable[[Fields, Source, Given], Finding]) -> Callable[[Fields, Source, Given], list[Finding]]:
    return lambda fields, source, given: [read(fields, source, given)]


_READERS: Mapping[Format, Callable[[Fields, Source, Given], list[Finding]]] = {
    Format.LM_EVAL: lm_eval_results.results,
    Format.GUIDELLM: guidellm.report,
    Format.VLLM_LATENCY: _one(vllm_bench.latency),
    Format.VLLM_THROUGHPUT: _one(vllm_bench.throughput),
    Format.VLLM_SERVE: _one(vllm_bench.serve),
}


@dataclass(frozen=True)
class ImportReport:
    """What an import found and wrote.

    Attributes:
        output_dir: Where the variants are.
        variants: Folders of the variants that were written to.
        paths: The records.
        notes: What a reader of the records must know, one line each; also in the records.
        problems: Files that could not be imported and why, one line each.
    """

    output_dir: Path
    variants: tuple[Path, ...] = ()
    paths: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def raise_for_problems(self) -> None:
        """Raise where something could not be imported.

        Raises:
            ResultFileError: Naming the first problem, and how many there are.
        """
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise ResultFileError(f"{self.problems[0]}{more}", "what could be imported was imported and is kept")


def detect(content: Any) -> Format | None:
    """What wrote a JSON document, by its fields; None where they are of none of the known formats."""
    if not isinstance(content, dict):
        return None
    return next((kind for kind, marks in _MARKS.items() if marks <= content.keys()), None)


def import_results(
    paths: Sequence[Path],
    output_dir: Path,
    *,
    model: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
) -> ImportReport:
    """Write what other tools measured as variants below a folder.

    Of a folder every ``*.json`` file at any depth is read. Several performance measurements of one model and precision
    (requests at several rates) get a folder each, named for what tells them apart; a single one stands in the variant
    itself, beside the accuracies. A record of another origin is never replaced.

    Args:
        paths: Result files, or folders that hold them.
        output_dir: Where variants are written.
        model: Name of the model, in place of that in the files.
        precision: str, in place of what the files say; they seldom say it.
        batch_size: Concurrent requests, where a file does not say it.
        max_new_tokens: Output tokens of every request, where a file does not say it.

    Raises:
        UsageError: A path does not exist or holds no JSON file, a value cannot be, `output_dir` cannot be written, or a
            file does not say what only the user can: model, precision, batch size. Nothing was written.
    """
    given = Given(model, precision, batch_size, max_new_tokens)
    _check(given)
    require_writable(output_dir, "--output-dir")
    problems: list[str] = []
    findings: list[Finding] = []
    for path in _files(paths):
        try:
            findings += _read(path, given)
        except ResultFileError as error:
            problems.append(error.cause)
    written: dict[Path, Placed] = {}
    for placed in place(findings, given, output_dir):
        try:
            written[write(placed, written)] = placed
        except ResultFileError as error:
            problems.append(error.cause)
    return ImportReport(
        output_dir,
        variants=tuple(dict.fromkeys(path.parent for path in written)),
        paths=tuple(written),
        notes=tuple(dict.fromkeys(f"{p.source.path.name}: {note}" for p in written.values() for note in p.notes)),
        problems=tuple(problems),
    )


def _check(given: Given) -> None:
    if given.precision is not None and not _PRECISION.fullmatch(given.precision):
        raise UsageError(f"--precision {given.precision!r} is no name", "use fp16, int8, int4 or another short name")
    if given.model is not None and not given.model.strip():
        raise UsageError("--model: nothing was given", "name the model")
    for option, value in (("--batch-size", given.batch_size), ("--max-new-tokens", given.max_new_tokens)):
        if value is not None and value < 1:
            raise UsageError(f"{option} {value}: is below 1", "give the value that was measured with")


def _files(paths: Iterable[Path]) -> list[Path]:
    """The files to read, each once; what belongs to another file is read with that one."""
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            below = [file for file in sorted(path.rglob("*.json")) if not file.name.endswith(vllm_bench.SIDECAR_SUFFIX)]
            if not below:
                raise UsageError(f"{path}: holds no .json file", _KNOWN)
        elif path.is_file():
            below = [path]
        else:
            raise UsageError(f"{path}: does not exist", "name result files, or folders that hold them")
        found |= {Path(os.path.realpath(file)): file for file in below}
    return list(found.values())


def _read(path: Path, given: Given) -> list[Finding]:
    """Every finding of a file."""
    documents, digest = load(path)
    findings: list[Finding] = []
    for document in documents:
        if (kind := detect(document)) is None:
            raise ResultFileError(f"{path}: {_unknown(document)}", _KNOWN)
        findings += _READERS[kind](Fields(path, document), Source(path, digest, kind.value), given)
    return findings


def _unknown(document: Any) -> str:
    """Why a document is of no known format, with the fields that are nearest to one."""
    if not isinstance(document, dict):
        return "holds no JSON object; a file of arguments is read along with the result beside it"
    if "schema_version" in document:
        return "field 'schema_version': this is slim-eval's own; `slim-eval analyze` reads it as it is"
    kind, marks = max(_MARKS.items(), key=lambda item: (len(item[1] & document.keys()), -len(item[1])))
    if marks & document.keys():
        return (
            f"field {min(marks - document.keys())!r} is missing: like a file of {kind.value}, but of no known version"
        )
    names = ", ".join(map(repr, list(document)[:5]))
    return f"of no known format; its first fields are {names}" if names else "holds an empty JSON object"
