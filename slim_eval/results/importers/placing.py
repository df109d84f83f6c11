"""Which variant a finding goes into, and writing it there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slim_eval.config import require_task_files
from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.importers.findings import Finding, Given, Source
from slim_eval.results.records import AccuracyRecord, ErrorRecord, PerformanceMetrics, PerformanceRecord
from slim_eval.results.store import read_record, record_name, variant_directory, write_record
from slim_eval.utils import slug


@dataclass(frozen=True)
class Placed:
    """A finding with its place.

    Attributes:
        finding: What was found.
        record: The record that it becomes.
        directory: The variant's folder.
    """

    finding: Finding
    record: PerformanceRecord | AccuracyRecord
    directory: Path

    @property
    def path(self) -> Path:
        """Where the record goes."""
        return self.directory / f"{record_name(self.record)}.json"

    @property
    def source(self) -> Source:
        """Where it was found."""
        return self.finding.source

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the record must know, beside where it comes from."""
        return self.record.notes[1:]


def place(findings: Sequence[Finding], given: Given, output_dir: Path) -> list[Placed]:
    """The place of each finding; several performance measurements of one variant get a folder each.

    Raises:
        UsageError: Model or precision of one is known neither from its file nor from the user, or a task has the name
            of another file.
    """
    names = [_identity(finding, given) for finding in findings]
    rivals = Counter(name for finding, name in zip(findings, names, strict=True) if _is_performance(finding))
    models = [model for model, _ in names]
    placed: list[Placed] = []
    for finding, (model, precision) in zip(findings, names, strict=True):
        several = _is_performance(finding) and rivals[model, precision] > 1
        root = output_dir / slug(finding.setting) if several else output_dir
        record = finding.record(model, precision)
        if isinstance(record, AccuracyRecord):
            require_task_files((record.task,))
        if given.precision is None:
            note = f"precision {precision} is taken from the file; --precision names another"
            record = record.model_copy(update={"notes": (*record.notes, note)})
        placed.append(Placed(finding, record, variant_directory(root, model, precision, models)))
    return placed


def write(placed: Placed, written: Mapping[Path, Placed]) -> Path:
    """Write a record and its samples.

    Args:
        placed: What and where.
        written: What this import has written so far.

    Returns:
        Path of the record.

    Raises:
        ResultFileError: There is a record already, and it is not of the same file.
    """
    path, source = placed.path, placed.source
    what = f"{record_name(placed.record)} of {placed.record.model} at {placed.record.precision}"
    if (rival := written.get(path)) is not None:
        raise ResultFileError(
            f"{source.path}: {what} is in {rival.source.path} too, measured in the same way: skipped",
            "import one of them, or each into a folder of its own",
        )
    if path.exists() and _origin(read_record(path)) != (source.tool, source.sha256):
        raise ResultFileError(
            f"{source.path}: {path} holds another measurement of {what}, which is not replaced: skipped",
            "import all files together, give another --output-dir, or remove the record",
        )
    return write_record(placed.directory, placed.record, placed.finding.samples)


def _identity(finding: Finding, given: Given) -> tuple[str, str]:
    """Model and precision; the user's word replaces the file's."""
    model, precision = given.model or finding.model, given.precision or finding.precision
    if model is None:
        raise UsageError(f"{finding.source.path}: does not say which model was measured", "give it with --model")
    if precision is None:
        raise UsageError(
            f"{finding.source.path}: does not say at which precision {model} was measured",
            "give it, e.g. --precision fp16; import files of several precisions one after the other",
        )
    return model, precision


def _is_performance(finding: Finding) -> bool:
    return isinstance(finding.metrics, PerformanceMetrics)


def _origin(record: object) -> tuple[str | None, str | None] | None:
    """Tool and file that an imported record comes from; None for one that was measured here."""
    if isinstance(record, ErrorRecord) or not isinstance(record, (PerformanceRecord, AccuracyRecord)):
        return None
    origin = (record.config or {}).get("import")
    return (origin.get("tool"), origin.get("sha256")) if isinstance(origin, dict) else None
