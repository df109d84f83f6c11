"""Results of other tools as variants: `slim-eval import`.

`importer` describes what an importer is; every other module reads one tool. A file is recognised by its content, not by
its name. All files are read before anything is written: a file that cannot be used becomes a problem and the others are
still imported, but a value that only the user knows is requested first.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from slim_eval.config import ImportConfig
from slim_eval.errors import ResultFileError, UsageError
from slim_eval.plugins import load_plugins
from slim_eval.results.importers import (  # noqa: F401 - they register themselves
    aiperf,
    every_eval_ever,
    guidellm,
    llama_bench,
    lm_eval,
    optimum_benchmark,
    sglang,
    vllm_bench,
)
from slim_eval.results.importers.importer import (
    IMPORTERS,
    ForeignFile,
    ForeignObject,
    ImportedRecord,
    Importer,
    MissingOptionError,
    RefusedRecordError,
)
from slim_eval.results.importers.sweeps import Found, join
from slim_eval.results.importers.unread import refusal
from slim_eval.results.records import ErrorRecord, Record, ServingRecord
from slim_eval.results.store import read_record, record_name, require_writable, variant_directory, write_record
from slim_eval.utils import slug

__all__ = ["IMPORTERS", "ForeignFile", "ForeignObject", "ImportReport", "ImportedRecord", "Importer", "import_results"]

_NOTHING = "nothing was imported; docs/importing.md lists the files that can be"
_SCHEME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]*")


@dataclass(frozen=True)
class ImportReport:
    """What an import found and wrote."""

    variants: tuple[Path, ...] = ()  # folders of the variants that were written to
    paths: tuple[Path, ...] = ()  # the records
    notes: tuple[str, ...] = ()  # what a reader of the records must know, one line each; also in the records
    problems: tuple[str, ...] = ()  # files that could not be imported and why, one line each

    def raise_for_problems(self) -> None:
        """Raise a `ResultFileError` of the first problem, and how many there are, if there are any."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            remedy = f"the other results were imported: {len(self.paths)} records" if self.paths else _NOTHING
            raise ResultFileError(f"{self.problems[0]}{more}", remedy)


def importer_of(file: ForeignFile) -> Importer | None:
    """The importer that recognises a file; None if none does. The one that was registered last is asked first."""
    return next((importer for importer in reversed(list(IMPORTERS.values())) if importer.detects(file)), None)


def import_results(config: ImportConfig) -> ImportReport:
    """Write what other tools measured as variants below a folder; what `slim-eval import` does.

    Several loads of one server (requests at several rates) become the levels of one `ServingRecord`. Several
    measurements of another benchmark, model and scheme get a folder each, named after what distinguishes them. What is
    alone is written into the variant itself, beside the accuracies. A record of another origin is never replaced.

    Raises `UsageError`, before anything is written, if a path does not exist or contains no result file, an option is
    invalid, or a file does not contain what only the user knows: model, scheme, batch size.
    """
    load_plugins()
    if config.precision is not None and not _SCHEME_NAME.fullmatch(config.precision):
        remedy = "give fp16, int8, int4 or another short name"
        raise UsageError(f"--precision {config.precision!r} is not a name", remedy)
    if config.model is not None and not config.model.strip():
        raise UsageError("--model: no value was given", "give the name of the model")
    require_writable(config.output_dir, "--output-dir")
    read: list[Found] = []
    problems: list[str] = []
    skipped: list[str] = []  # files of a folder that are seldom results, such as a table or a configuration
    missing: list[MissingOptionError] = []
    tools = f"slim-eval imports results of {', '.join(IMPORTERS)}"
    for path in _files(config.paths, tools):
        file, importer = ForeignFile(path, config), None
        try:
            importer = importer_of(file)
            if importer is None:
                raise ResultFileError(f"{path}: {refusal(file.documents[0], file.fields, tools)}")
            made = []
            for imported in importer.read(file):
                try:
                    made.append((imported, imported.record(file)))
                except RefusedRecordError as error:
                    problems.append(error.cause)
            read += [Found(path, imported, record, place) for place, (imported, record) in enumerate(made)]
        except MissingOptionError as error:
            missing.append(error)
        except ResultFileError as error:
            is_other = importer is None and path not in config.paths and path.suffix != ".json"
            wanted = skipped if is_other else problems
            wanted.append(error.cause + (f" (read as a result of {importer.name})" if importer else ""))
    if missing:
        raise MissingOptionError.of_all(missing)
    joined = join(read)
    problems += joined.problems
    found = [(each.source, each.imported, each.record) for each in joined.found]
    rivals = Counter((record.model, record.precision, record_name(record)) for _, _, record in found)
    models = [record.model for _, _, record in found]
    written: dict[Path, tuple[Path, Record]] = {}
    for source, imported, record in found:
        name = record_name(record)
        is_one_of_several = imported.label and rivals[record.model, record.precision, name] > 1
        root = config.output_dir / slug(imported.label) if is_one_of_several else config.output_dir
        path = variant_directory(root, record.model, record.precision, models) / f"{name}.json"
        what = f"{name} of {record.model} at {record.precision}"
        try:
            if path in written:
                problems.append(f"{source}: {what} is also in {written[path][0]}, measured in the same way: skipped")
            elif path.exists() and not _replaces(record, read_record(path)):
                remedy = "; import all files of a sweep at once" if imported.level is not None else ""
                text = f"{path} contains another measurement of {what}: not replaced, skipped{remedy}"
                problems.append(f"{source}: {text}")
            else:
                written[write_record(path.parent, record, imported.samples)] = (source, record)
        except ResultFileError as error:
            problems.append(error.cause)
    folders = dict.fromkeys(path.parent for path in written)
    notes: dict[str, dict[str, None]] = {}  # each once, with the files that it is about
    for source, record in written.values():
        for note in record.notes[1:]:  # the first one of a record is where it comes from
            notes.setdefault(note, {})[source.name] = None
        for level in record.levels if isinstance(record, ServingRecord) else ():
            for note in level.notes:
                notes.setdefault(note, {})[f"{level.source or source.name}: {level.label}"] = None
    lines = [
        f"{next(iter(names))}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
        for note, names in notes.items()
    ]
    return ImportReport(tuple(folders), tuple(written), (*lines, *joined.notes, *skipped), tuple(problems))


def _files(paths: Iterable[Path], tools: str) -> list[Path]:
    """The files to read, each once."""
    patterns = {pattern for importer in IMPORTERS.values() for pattern in importer.patterns}
    companions = {pattern for importer in IMPORTERS.values() for pattern in importer.companions}
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: does not exist", "name result files, or folders that contain them")
        names = [file for file in sorted(path.rglob("*")) if any(fnmatch(file.name, p) for p in patterns)]
        below = [file for file in names if file.is_file() and not any(fnmatch(file.name, p) for p in companions)]
        if not below and path.is_dir():
            raise UsageError(f"{path}: contains no result file", tools)
        found |= {os.path.realpath(file): file for file in (below if path.is_dir() else [path])}
    return list(found.values())


def _replaces(new: Record, old: Record | ErrorRecord) -> bool:
    """Whether a record is of the same origin as one that exists, or a sweep contains all of that one's levels."""
    if isinstance(new, ServingRecord) and isinstance(old, ServingRecord) and _origin(old) is not None:
        return {level.sha256 for level in old.levels} <= {level.sha256 for level in new.levels}
    return _origin(new) == _origin(old)


def _origin(record: Record | ErrorRecord) -> tuple[Any, Any] | None:
    """Tool and file that an imported record comes from; None for one that was measured here."""
    origin = (record.config or {}).get("import")
    return (origin.get("tool"), origin.get("sha256")) if isinstance(origin, dict) else None
