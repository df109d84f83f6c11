"""Per task and per subject: accuracy with its interval, what changed beneath it, and how it was asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_eval.analysis.report.marks import Marker
from slim_eval.analysis.report.numbers import (
    ABSENT,
    PERCENT,
    PERCENT_DECIMALS,
    Value,
    counted,
    figure,
    finite,
    interval_of,
    measured,
    signed,
    valued,
    words,
)
from slim_eval.analysis.report.overview import task_scales
from slim_eval.analysis.rules import BASELINE
from slim_eval.results.records import AccuracyRecord
from slim_eval.results.rows import Row
from slim_eval.results.variants import Variant

#: Models whose subjects are shown for one task; `complete_results.json` has all.
MAX_MODELS = 40
_HEADERS = (
    "model", "precision", "{}", "drop on the same items, pp", "answers that flipped", "verdict",
    "KL of the answers, nats", "items", "few-shot", "limit", "chat template", "version", "metric", "other metrics",
)  # fmt: skip


@dataclass(frozen=True)
class Subjects:
    """The subjects of a task for one model: a row a subject, and for each precision its accuracy and its change."""

    name: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class TaskDetail:
    """One task.

    Attributes:
        task: Its name.
        headers: Of its rows; a column that no configuration fills is left out.
        rows: One a configuration that measured it.
        absent: Headers of the columns left out.
        subjects: One a model whose record has subjects.
        left_out: Models with subjects that are not shown.
    """

    task: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    absent: tuple[str, ...]
    subjects: tuple[Subjects, ...]
    left_out: int


def task_details(
    rows: Sequence[Row], variants: Sequence[Variant], tasks: Sequence[str], marker: Marker
) -> list[TaskDetail]:
    """Every task that any configuration measured."""
    scales = task_scales(rows, tasks)
    made = []
    for task in tasks:
        taken = [(row, variant) for row, variant in zip(rows, variants, strict=True) if task in variant.accuracy]
        if not taken:
            continue
        label, scale = scales[task]
        models: dict[str, list[tuple[Row, AccuracyRecord]]] = {}
        for row, variant in taken:
            if variant.accuracy[task].subtasks:
                models.setdefault(row["name"], []).append((row, variant.accuracy[task]))
        shown = list(models.items())[:MAX_MODELS]
        made.append(
            TaskDetail(
                task,
                *_known(
                    [header.format(label) for header in _HEADERS],
                    [_line(row, variant.accuracy[task], task, scale, marker) for row, variant in taken],
                ),
                tuple(_subjects(name, found, scale) for name, found in shown),
                len(models) - len(shown),
            )
        )
    return made


def _known(
    headers: Sequence[str], lines: Sequence[tuple[Value, ...]]
) -> tuple[tuple[str, ...], tuple[tuple[Value, ...], ...], tuple[str, ...]]:
    """The columns in which anything is known, and the headers of the others."""
    kept = [n for n in range(len(headers)) if not all(line[n].absent for line in lines)]
    return (
        tuple(headers[n] for n in kept),
        tuple(tuple(line[n] for n in kept) for line in lines),
        tuple(header for n, header in enumerate(headers) if n not in kept),
    )


def _line(row: Row, record: AccuracyRecord, task: str, scale: float, marker: Marker) -> tuple[Value, ...]:
    # Older records have neither a limit nor a count: whether all items were asked is not known.
    everything = None if record.num_items is None else "all items"
    limit = everything if record.limit is None else f"{record.limit:,} a subtask"
    return (
        words(row["name"]),
        words(row["precision"]),
        measured(row, task, scale, marker.of_task(row, task)),
        *_paired(row, task, marker),
        counted(record.num_items),
        counted(record.num_fewshot),
        words(limit),
        words(None if record.apply_chat_template is None else ("yes" if record.apply_chat_template else "no")),
        words(record.task_versions.get(task)),
        words(record.metric),
        Value("; ".join(_others(record)) or "none"),
    )


def _paired(row: Row, task: str, marker: Marker) -> tuple[Value, Value, Value, Value]:
    """Drop, flips, verdict and KL divergence; words where there are none."""
    pair = marker.pair(row, task)
    if row["precision"] == BASELINE:
        return (Value("baseline", absent=True), *(Value("", absent=True),) * 3)
    if pair is None or pair.drop_pp is None:
        why = "" if pair is None else pair.refused or ""
        return (Value("not paired", title=why, absent=True), ABSENT, ABSENT, ABSENT)
    flips = ABSENT if pair.flips is None else Value(
        f"{pair.flips * 100:.1f} %", title=f"{pair.lost} lost, {pair.gained} gained", sort=pair.flips
    )  # fmt: skip
    kl = finite(pair.answer_kl)
    return (
        _drop(pair.drop_pp, pair.interval_pp),
        flips,
        words(pair.verdict),
        ABSENT if kl is None else Value(figure(kl), sort=kl),
    )


def _drop(drop_pp: float, interval_pp: tuple[float, float] | None) -> Value:
    if interval_pp is None:
        return Value(signed(drop_pp), "(no interval)", sort=drop_pp)
    low, high = interval_pp
    return Value(signed(drop_pp), f"({signed(low)} to {signed(high)})", sort=drop_pp)


def _others(record: AccuracyRecord) -> Iterable[str]:
    """The metrics beside the headline one; without their standard errors."""
    for key, value in record.metrics.items():
        if key != record.metric and "_stderr," not in key:
            yield f"{key} {figure(value) if value is not None else 'not a number'}"


def _subjects(name: str, found: Sequence[tuple[Row, AccuracyRecord]], scale: float) -> Subjects:
    names = list(dict.fromkeys(subject for _, record in found for subject in record.subtasks))
    headers = ["subject", "items"]
    base = next((record for row, record in found if row["precision"] == BASELINE), None)
    for row, record in found:
        headers.append(row["precision"])
        if base is not None and record is not base:
            headers.append(f"{row['precision']} - {BASELINE}")
    return Subjects(name, tuple(headers), tuple(_subject(subject, found, base, scale) for subject in names))


def _subject(
    subject: str, found: Sequence[tuple[Row, AccuracyRecord]], base: AccuracyRecord | None, scale: float
) -> tuple[Value, ...]:
    items = {finite(record.subtasks.get(subject, {}).get("num_items")) for _, record in found} - {None}
    fields = [
        words(subject),
        counted(next(iter(items))) if len(items) == 1 else words("differ" if items else None),
    ]
    before = None if base is None else _score(base, subject)[0]
    decimals = PERCENT_DECIMALS if scale == PERCENT else None
    for _, record in found:
        value, error = _score(record, subject)
        entry = {"accuracy": value, "accuracy_stderr": error}
        ends = interval_of(entry, "accuracy")
        fields.append(
            ABSENT
            if value is None
            else valued(value * scale, ends and (ends[0] * scale, ends[1] * scale), (), decimals)
        )
        if base is not None and record is not base:
            change = None if value is None or before is None else (value - before) * scale
            fields.append(ABSENT if change is None else Value(signed(change), sort=change))
    return tuple(fields)


def _score(record: AccuracyRecord, subject: str) -> tuple[float | None, float | None]:
    """The headline metric of a subject and its standard error."""
    entry: Mapping[str, Any] = record.subtasks.get(subject, {})
    metric = record.metric or ""
    return finite(entry.get(metric)), finite(entry.get(metric.replace(",", "_stderr,", 1)))
