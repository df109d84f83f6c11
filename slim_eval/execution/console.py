"""What commands leave on the terminal: tables and paths on stdout, for pipes; warnings and failures on stderr.

Texts are redacted before they are laid out: a table may break a token into lines that look like none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from slim_eval.results.variants import Variant
from slim_eval.utils import number
from slim_eval.utils.redaction import redact

if TYPE_CHECKING:
    from slim_eval.analysis import AnalysisReport
    from slim_eval.analysis.compare.folders import ComparisonReport
    from slim_eval.analysis.recommend.outcome import Recommendation
    from slim_eval.config import CompareConfig
    from slim_eval.results.importers import ImportReport
    from slim_eval.results.records import NoiseRecord

#: No stage is reused.
NONE_REUSED: Mapping[Path, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True)
class Failure:
    """A stage of a variant that made no number."""

    variant: str
    stage: str
    cause: str
    remedy: str
    log: Path


def escape(text: str) -> str:
    """A text as rich shows it letter by letter, redacted."""
    return escape_markup(redact(text))


def show_variants(
    variants: Sequence[Variant], failures: Sequence[Failure], reused: Mapping[Path, Sequence[str]] = NONE_REUSED
) -> None:
    """The closing table on stdout, one row a variant, with what earlier runs measured; failures on stderr."""
    if variants:
        from slim_eval.analysis.study import Study
        from slim_eval.analysis.tables.terminal import comparison_table

        out = Console(highlight=False)
        out.print(comparison_table(Study.of(variants), reused=[_reused(variant, reused) for variant in variants]))
        for variant in variants:
            out.print(f"results: {variant.directory}", markup=False, soft_wrap=True)
        count, total = sum(map(len, reused.values())), sum(len(variant.records) for variant in variants)
        if count:
            out.print(f"reused {count} of {total} stages; --force measures them again", markup=False, soft_wrap=True)
    if failures:
        errors = Console(stderr=True, highlight=False)
        table = Table("cell", "stage", "cause", "remedy", title="Failed", title_style="bold red", show_lines=True)
        for failure in failures:
            table.add_row(*map(escape, (failure.variant, failure.stage, failure.cause, failure.remedy)))
        errors.print(table)


def _reused(variant: Variant, reused: Mapping[Path, Sequence[str]]) -> str:
    """Which of a variant's numbers an earlier run measured."""
    stages = reused.get(variant.directory, ())
    return "all" if stages and len(stages) == len(variant.records) else ", ".join(stages)


def show_advice(advice: Recommendation, *, as_json: bool = False) -> None:
    """A recommendation on stdout: in words with a table, or as JSON."""
    if as_json:
        from slim_eval.analysis.recommend.outcome import to_json

        Console(highlight=False).file.write(to_json(advice))
    else:
        from slim_eval.analysis.recommend.wording import renderable

        Console(highlight=False).print(renderable(advice))


def show_analysis(report: AnalysisReport, *, table: bool = True) -> None:
    """The comparison table, if wanted, and the paths of what an analysis wrote, on stdout; its warnings on stderr."""
    errors = Console(stderr=True, highlight=False)
    for text in (*report.problems, *report.warnings):
        errors.print(redact(f"warning: {text}"), style="yellow", markup=False, soft_wrap=True)
    out = Console(highlight=False)
    if table:
        from slim_eval.analysis.tables.terminal import comparison_table

        out.print(comparison_table(report.study))
    for path in report.paths:
        out.print(f"wrote {path}", markup=False, soft_wrap=True)


def show_comparison(report: ComparisonReport, config: CompareConfig) -> None:
    """A comparison on stdout, in the format that was asked for."""
    from slim_eval.analysis.compare import formats as writings

    if config.as_json or config.as_markdown:
        sys.stdout.write(writings.to_json(report) if config.as_json else writings.to_markdown(report))
    else:
        Console(highlight=False).print(writings.renderable(report))


def show_noise(floors: Sequence[tuple[NoiseRecord, Path]]) -> None:
    """The noise floor of each model on stdout, and where it was written."""
    out = Console(highlight=False)
    for record, path in floors:
        out.print(_noise_table(record))
        out.print(f"wrote {path}", markup=False, soft_wrap=True)


def _noise_table(record: NoiseRecord) -> Table:
    runs = max((len(entry.values) for entry in (*record.metrics.values(), *record.tasks.values())), default=0)
    title = f"{record.model} {record.precision}: the same variant, measured {runs} times"
    columns = ("metric", *(f"run {index + 1}" for index in range(runs)), "noise floor")
    table = Table(*columns, title=title, title_justify="left")
    for key, entry in record.metrics.items():
        floor = "-" if entry.floor is None else f"±{entry.floor * 100:.2f} %"
        table.add_row(key, *("-" if value is None else number(value) for value in entry.values), floor)
    for task, entry in record.tasks.items():
        floor = f"±{entry.floor:.2f} pp, {record.flips[task] * 100:.2f} % flips"
        table.add_row(task, *("-" if value is None else f"{value * 100:.2f} %" for value in entry.values), floor)
    return table


def show_import(report: ImportReport) -> None:
    """What an import wrote, to stdout; what to know of it, and what could not be imported, to stderr."""
    out, err = Console(highlight=False), Console(stderr=True, highlight=False)
    for path in report.paths:
        out.print(escape(str(path)), soft_wrap=True)
    for note in report.notes:
        err.print(f"note: {escape(note)}", soft_wrap=True)
    for problem in report.problems:
        err.print(f"[red]not imported[/]: {escape(problem)}", soft_wrap=True)
