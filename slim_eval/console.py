"""What a user sees while a run goes on, and at its end: live bars on a terminal, plain lines elsewhere.

Progress goes to stderr; the closing table and the paths of what was written go to stdout, for pipes. Texts are redacted
before they are laid out: a table may break a token into lines that look like none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from slim_eval import protocol
from slim_eval.redaction import redact
from slim_eval.results import Cell
from slim_eval.utils import number

if TYPE_CHECKING:
    from slim_eval.analysis import AnalysisReport
    from slim_eval.analysis.advice import Advice
    from slim_eval.comparison.folders import ComparisonReport
    from slim_eval.config import CompareConfig
    from slim_eval.importers import ImportReport
    from slim_eval.records import NoiseRecord

#: No stage is reused.
NONE_REUSED: Mapping[Path, Sequence[str]] = MappingProxyType({})

_PLAIN_EVERY_S = 15.0
_NOTHING = "nothing to do"


@dataclass(frozen=True)
class Failure:
    """A stage of a cell that made no number."""

    cell: str
    stage: str
    cause: str
    remedy: str
    log: Path


class Display(Protocol):
    """Where the evaluator shows what it is doing."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def cell(self, number: int, total: int, name: str, stages: Sequence[str]) -> None:
        """A cell begins, `number` of `total`."""
        ...

    def handle(self, event: Any) -> None:
        """Show an event of a worker."""
        ...

    def note(self, text: str) -> None:
        """Show a line."""
        ...

    def close(
        self, cells: Sequence[Cell], failures: Sequence[Failure], reused: Mapping[Path, Sequence[str]] = NONE_REUSED
    ) -> None:
        """Show the closing table, and what failed; `reused` names stages of earlier runs, by the cell's folder."""
        ...


def escape(text: str) -> str:
    """A text as rich shows it letter by letter, redacted."""
    return escape_markup(redact(text))


def open_display() -> Display:
    """Live bars where stderr is a terminal, plain lines where it is not."""
    console = Console(stderr=True, highlight=False)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class PlainDisplay:
    """One line for each thing that happens, and now and then one for how far a stage is: for logs and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._head = ""
        self._since: dict[str, float] = {}
        self._last = 0.0

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def cell(self, number: int, total: int, name: str, stages: Sequence[str]) -> None:
        """Begin a cell."""
        self._head = f"[{number}/{total}] {name}"
        self._line(f"{self._head}: {', '.join(stages) or _NOTHING}")

    def handle(self, event: Any) -> None:
        """Print a line for an event."""
        clock = time.monotonic()
        if isinstance(event, protocol.Started):
            self._since[event.stage] = self._last = clock
            self._line(f"{self._head}: {event.stage} …")
        elif isinstance(event, protocol.Advanced):
            if clock - self._last >= _PLAIN_EVERY_S:
                self._last = clock
                self._line(f"{self._head}: {event.stage} {event.done}/{event.total} {event.unit}")
        elif isinstance(event, protocol.Finished):
            self._line(f"{self._head}: {event.stage} {_took(self._since.get(event.stage), clock)}")
        elif isinstance(event, protocol.Failed):
            self._line(f"{self._head}: {event.stage} FAILED: {event.cause}")
        else:
            self.note(event.text)

    def note(self, text: str) -> None:
        """Print a line."""
        self._line(f"note: {text}")

    def close(
        self, cells: Sequence[Cell], failures: Sequence[Failure], reused: Mapping[Path, Sequence[str]] = NONE_REUSED
    ) -> None:
        """Print the closing table, and what failed."""
        show_cells(cells, failures, reused)

    def _line(self, text: str) -> None:
        self._console.print(redact(text), markup=False, soft_wrap=True)


class LiveDisplay:
    """A bar for the cells and one for the stage that runs, with rate and time left; finished stages scroll up."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            _CountColumn(),
            _RateColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._overall: TaskID | None = None
        self._stage: TaskID | None = None
        self._name = ""
        self._since = 0.0

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def cell(self, number: int, total: int, name: str, stages: Sequence[str]) -> None:
        """Begin a cell."""
        self._name = name
        description = f"[bold]{escape(name)}[/]"
        if self._overall is None:
            self._overall = self._progress.add_task(description, total=total, unit="cells")
        self._progress.update(self._overall, completed=number - 1, description=description)
        self._progress.console.print(
            f"[bold]{escape(name)}[/] ({number} of {total}): {escape(', '.join(stages)) or _NOTHING}"
        )

    def handle(self, event: Any) -> None:
        """Bring the bars up to date."""
        if isinstance(event, protocol.Started):
            self._clear_stage()
            self._since = time.monotonic()
            self._stage = self._progress.add_task(f"  {escape(event.stage)}", total=None, unit="")
        elif isinstance(event, protocol.Advanced):
            if self._stage is not None:
                self._progress.update(self._stage, completed=event.done, total=event.total, unit=event.unit)
        elif isinstance(event, protocol.Finished):
            took = _took(self._since if self._stage is not None else None, time.monotonic())
            self._clear_stage()
            self._progress.console.print(f"  [green]✓[/] {escape(event.stage)} [dim]{took}[/]")
        elif isinstance(event, protocol.Failed):
            self._clear_stage()
            self._progress.console.print(f"  [red]✗[/] {escape(event.stage)}: {escape(event.cause)}", soft_wrap=True)
        else:
            self.note(event.text)

    def note(self, text: str) -> None:
        """Show a line above the bars."""
        self._progress.console.print(f"  [dim]{escape(text)}[/]", soft_wrap=True)

    def close(
        self, cells: Sequence[Cell], failures: Sequence[Failure], reused: Mapping[Path, Sequence[str]] = NONE_REUSED
    ) -> None:
        """Take the bars away and show the closing table, and what failed."""
        self._progress.stop()
        show_cells(cells, failures, reused)

    def _clear_stage(self) -> None:
        if self._stage is not None:
            self._progress.remove_task(self._stage)
            self._stage = None


class _CountColumn(ProgressColumn):
    """How far: done, total and the unit."""

    def render(self, task: Task) -> Text:
        """The count; empty while the total is not known."""
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f} {task.fields['unit']}")


class _RateColumn(ProgressColumn):
    """Units a second, of the stage that runs."""

    def render(self, task: Task) -> Text:
        """The rate; empty while there is none."""
        if not task.speed or not task.fields["unit"] or task.fields["unit"] == "cells":
            return Text("")
        return Text(f"{task.speed:.1f}/s", style="dim")


def _took(since: float | None, clock: float) -> str:
    return "already there" if since is None else f"done in {clock - since:.1f} s"


def show_cells(
    cells: Sequence[Cell], failures: Sequence[Failure], reused: Mapping[Path, Sequence[str]] = NONE_REUSED
) -> None:
    """The closing table on stdout, one row a cell, with what earlier runs measured; failures on stderr."""
    if cells:
        from slim_eval.analysis.terminal import comparison_table
        from slim_eval.rows import rows_of

        out = Console(highlight=False)
        out.print(comparison_table(rows_of(cells), reused=[_reused(cell, reused) for cell in cells]))
        for cell in cells:
            out.print(f"results: {cell.directory}", markup=False, soft_wrap=True)
        count, total = sum(map(len, reused.values())), sum(len(cell.records) for cell in cells)
        if count:
            out.print(f"reused {count} of {total} stages; --force measures them again", markup=False, soft_wrap=True)
    if failures:
        errors = Console(stderr=True, highlight=False)
        table = Table("cell", "stage", "cause", "remedy", title="Failed", title_style="bold red", show_lines=True)
        for failure in failures:
            table.add_row(*map(escape, (failure.cell, failure.stage, failure.cause, failure.remedy)))
        errors.print(table)


def _reused(cell: Cell, reused: Mapping[Path, Sequence[str]]) -> str:
    """Which of a cell's numbers an earlier run measured."""
    stages = reused.get(cell.directory, ())
    return "all" if stages and len(stages) == len(cell.records) else ", ".join(stages)


def show_advice(advice: Advice, *, as_json: bool = False) -> None:
    """A recommendation on stdout: in words with a table, or as JSON."""
    if as_json:
        from slim_eval.analysis.advice import to_json

        Console(highlight=False).file.write(to_json(advice))
    else:
        from slim_eval.analysis.advice_text import renderable

        Console(highlight=False).print(renderable(advice))


def show_analysis(report: AnalysisReport, *, table: bool = True) -> None:
    """The comparison table, if wanted, and the paths of what an analysis wrote, on stdout; its warnings on stderr."""
    errors = Console(stderr=True, highlight=False)
    for text in (*report.problems, *report.warnings):
        errors.print(redact(f"warning: {text}"), style="yellow", markup=False, soft_wrap=True)
    out = Console(highlight=False)
    if table:
        from slim_eval.analysis.terminal import comparison_table

        out.print(comparison_table(report.rows, within_noise=report.within_noise))
    for path in report.paths:
        out.print(f"wrote {path}", markup=False, soft_wrap=True)


def show_comparison(report: ComparisonReport, config: CompareConfig) -> None:
    """A comparison on stdout, in the format that was asked for."""
    from slim_eval.comparison import report as writings

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
    title = f"{record.model} {record.precision}: the same cell, measured {runs} times"
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
