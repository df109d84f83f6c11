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
from slim_eval.results.importers.reruns import apart, settings
from slim_eval.results.importers.sweeps import Found, join
from slim_eval.results.importers.unread import refusal, refusal_of_text
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
                what = refusal_of_text(file.beginning) or refusal(file.documents[0], file.fields, tools)
                raise ResultFileError(f"{path}: {what}")
            made = []
            for imported in importer.read(file):
                try:
                    made.append((imported, imported.record(file)))
                except RefusedRecordError as error:
                    problems.append(error.cause)
            covers = frozenset({file.sha256}) if made else frozenset()
            read += [Found(path, imported, record, place, covers) for place, (imported, record) in enumerate(made)]
        except MissingOptionError as error:
            missing.append(error)
        except ResultFileError as error:
            is_other = importer is None and path not in config.paths and path.suffix != ".json"
            wanted = skipped if is_other else problems
            wanted.append(error.cause + (f" (read as a result of {importer.name})" if importer else ""))
    if missing:
        raise MissingOptionError.of_all(missing)
    joined = apart(join(read))
    counts = Counter(_place(each.record) for each in joined.found)
    # One scheme measured in several ways moves all of its model: a variant stays beside its baseline.
    several = {(model, name) for (model, _, name), count in counts.items() if count > 1}
    models = [each.record.model for each in joined.found]
    written: dict[Path, tuple[Path, Record]] = {}
    for each in joined.found:
        source, imported, record = each.source, each.imported, each.record
        name = record_name(record)
        is_labelled = imported.label and (record.model, name) in several
        root = config.output_dir / slug(imported.label) if is_labelled else config.output_dir
        path = variant_directory(root, record.model, record.precision, models) / f"{name}.json"
        what = f"{name} of {record.model} at {record.precision}"
        try:
            if path in written:
                text = f"{what} would be stored as that of {written[path][0]} is: skipped; give another --output-dir"
                problems.append(f"{source}: {text}")
            elif path.exists() and not _replaces(each, old := read_record(path)):
                problems.append(f"{source}: {path} contains another measurement of {what}{_which_stands(each, old)}")
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


def _place(record: Record) -> tuple[str, str, str]:
    return record.model, record.precision, record_name(record)


def _replaces(new: Found, old: Record | ErrorRecord) -> bool:
    """Whether every file that an imported record is of was read again: nothing that it contains is lost."""
    origin = _origin(old)
    if origin is None:
        return False
    if isinstance(old, ServingRecord):
        return {level.sha256 for level in old.levels} <= new.covers
    return origin.get("sha256") in new.covers


def _which_stands(new: Found, old: Record | ErrorRecord) -> str:
    """Which measurement stands that is not replaced, and how both can be imported."""
    origin = _origin(old)
    if origin is None or isinstance(old, ErrorRecord):
        return ", made by slim-eval: not replaced, skipped; give another --output-dir"
    when = f" of {old.timestamp}" if old.timestamp else ""
    stands = f", from {origin.get('file')}{when}: that one stands, this one is skipped; "
    if isinstance(old, ServingRecord) or new.imported.level is not None:
        return f"{stands}import all files of a sweep at once"
    if isinstance(old, ErrorRecord) or settings(old, str(origin.get("tool"))) == settings(
        new.record, new.imported.tool
    ):
        return f"{stands}import both files in one command, and the newest stands"
    return f"{stands}they differ in settings: import both files at once into a new --output-dir, which keeps both"


def _origin(record: Record | ErrorRecord) -> dict[str, Any] | None:
    """Where an imported record comes from; None for one that was measured here."""
    origin = (record.config or {}).get("import")
    return origin if isinstance(origin, dict) else None
