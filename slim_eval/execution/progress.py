"""Progress of a run on stderr: live bars on a terminal, plain lines or JSON elsewhere; and the closing table on stdout.

Everything is kept per variant, because an executor may run several at the same time. Texts are redacted before they are
laid out: a table may break a token into lines that no longer look like one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich import progress as bars
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape as escape_markup
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from slim_eval.config import DisplayConfig, LogFormat
from slim_eval.errors import RunFailedError
from slim_eval.execution import messages
from slim_eval.results.records import NoiseRecord, ObservedMetrics
from slim_eval.results.variants import Variant
from slim_eval.utils.environment import now
from slim_eval.utils.redaction import redact
from slim_eval.utils.word_table import WordTable, columns_of

if TYPE_CHECKING:
    from slim_eval.analysis.verdict import Verdict

DEFAULT = DisplayConfig()
_PLAIN_EVERY_S = 15.0
# Columns of the row of a variant, and those of its stage, its progress and the time together.
_NAME_WIDTH, _OTHERS_WIDTH = 20, 48


@dataclass(frozen=True)
class Failure:
    """A stage of a variant that failed."""

    variant: str
    stage: str
    cause: str
    remedy: str
    log: Path


@dataclass
class RunReport:
    """The results of a run."""

    output_dir: Path
    #: With the records that the run required, measured now or earlier; others in the same folders are not included.
    variants: tuple[Variant, ...] = ()
    reused: dict[Path, tuple[str, ...]] = field(default_factory=dict)  # folder -> stages that an earlier run measured
    failures: list[Failure] = field(default_factory=list)
    #: Noise floors and their files, of the models that `measure_noise` measured at least twice.
    floors: list[tuple[NoiseRecord, Path]] = field(default_factory=list)
    resumes: bool = True  # whether the same command would keep what was measured
    margin_pp: float = 1.0  # drop in accuracy that counts as equivalent
    related: tuple[Path, ...] = ()  # folders that may contain the baselines of variants, measured earlier
    with_verdict: bool = True  # whether the closing shows it

    @cached_property
    def verdict(self) -> Verdict | None:
        """What to deploy, and one verdict per variant; None if nothing was measured, or no benchmark has a baseline."""
        return None if not self.variants or self.floors else self.current_verdict()

    def current_verdict(self) -> Verdict:
        """The verdict on the variants measured so far, with the baselines that earlier runs measured."""
        from slim_eval.analysis.study import Study
        from slim_eval.analysis.verdict import verdict_of
        from slim_eval.results.store import find_results
        from slim_eval.results.variants import labelled

        known = {variant.directory for variant in self.variants}
        bases = {variant.base_model for variant in self.variants}
        earlier = [variant for folder in self.related for variant in find_results(folder).variants]
        baselines = {v.directory: v for v in earlier if v.is_baseline and v.records and v.base_model in bases}
        added = [variant for folder, variant in baselines.items() if folder not in known]
        return verdict_of(Study.read(labelled([*added, *self.variants]), margin_pp=self.margin_pp))

    def _repr_html_(self) -> str:
        """The verdict and its table, in a notebook."""
        from slim_eval.analysis.notebook import html_of

        return "" if self.verdict is None else html_of(self.verdict)

    def invalid(self) -> list[tuple[Variant, str, ObservedMetrics]]:
        """The records that do not count, with their variant and name."""
        return [
            (variant, name, record) for variant in self.variants for name, record in variant.measured.items()
            if isinstance(record, ObservedMetrics) and record.valid is False
        ]  # fmt: skip

    def raise_for_failures(self) -> None:
        """Raise `RunFailedError` if a stage failed, with the number of failed stages."""
        if count := len(self.failures):
            cause = f"{count} stage{'s' if count > 1 else ''} failed; everything else was measured and kept"
            again = "does only the missing work" if self.resumes else "measures all repeats again"
            remedy = f"see the table above and each run.log; rerunning the command {again}"
            raise RunFailedError(cause, remedy)


def escape(text: str) -> str:
    """A text with rich's markup switched off, redacted."""
    return escape_markup(redact(text))


class Display:
    """Where a run shows its progress; a context manager. Methods may be called from several threads."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def begin(self, variant: str, number: int, total: int, stages: Sequence[str]) -> None:
        """Show that a variant, `number` of `total`, begins, and which stages it still needs."""

    def handle(self, variant: str, event: messages.Event) -> None:
        """Show an event of a variant's worker."""

    def end(self, variant: str) -> None:
        """Show that a variant is finished."""

    def note(self, text: str) -> None:
        """Show a line about the whole run."""
        self.handle("", messages.Note(text=text))

    def chatter(self, variant: str, line: str) -> None:
        """Show a line that a variant's worker or its engine printed."""

    def close(self, report: RunReport) -> None:
        """Show noise floors and the closing table on stdout, with the numbers of earlier runs marked.

        Failed stages are shown on stderr.
        """
        self._show_floors(report)
        if report.variants:
            from slim_eval.analysis.caveats import busy_hosts
            from slim_eval.analysis.study import Study
            from slim_eval.analysis.tables.terminal import comparison_table

            reused = [report.reused.get(variant.directory, ()) for variant in report.variants]
            totals = [len(variant.records) for variant in report.variants]
            marks = [
                "all" if 0 < len(stages) == total else ", ".join(stages)
                for stages, total in zip(reused, totals, strict=True)
            ]
            out = Console(highlight=False)
            out.print(comparison_table(Study.of(report.variants), reused=marks))
            lines = [
                f"invalid, does not count: {name} of {variant.label}: {record.invalidity}"
                for variant, name, record in report.invalid()
            ]
            if lines:
                lines.append("rerunning the command measures what is invalid again")
            lines += [f"busy host: {each.text} ({', '.join(each.variants)})" for each in busy_hosts(report.variants)]
            lines.append(_where(report))
            if count := sum(map(len, reused)):
                lines.append(f"reused {count} of {sum(totals)} stages; --force measures them again")
            for line in lines:
                out.print(line, markup=False, soft_wrap=True)
        if report.failures:
            headers = ("variant", "stage", "cause", "remedy")
            rows = [[redact(getattr(failed, name)) for name in headers] for failed in report.failures]
            table = WordTable(columns_of(headers, rows), title="Failed", sections=range(1, len(report.failures)))
            Console(stderr=True, highlight=False).print(table)
        if report.with_verdict and report.verdict is not None:
            from slim_eval.analysis.tables import verdict_table

            Console(highlight=False).print(verdict_table.renderable(report.verdict))

    def _show_floors(self, report: RunReport) -> None:
        out = Console(highlight=False)
        for record, path in report.floors:
            from slim_eval.analysis.tables.terminal import noise_table

            out.print(noise_table(record))
            out.print(f"wrote {path}", markup=False, soft_wrap=True)


def _where(report: RunReport) -> str:
    """One line with the folder of the results."""
    first, *others = [variant.directory for variant in report.variants]
    return f"results: {report.output_dir} ({1 + len(others)} variants)" if others else f"results: {first}"


def open_display(config: DisplayConfig = DEFAULT, at_a_time: int = 1) -> Display:
    """Live bars if stderr is a terminal, plain lines if not, or what the config requires.

    `at_a_time` is how many variants may run at the same time.
    """
    console = Console(stderr=True, highlight=False)
    if config.log_format is LogFormat.JSON:
        return JsonDisplay(console.file, config, Tally() if at_a_time > 1 else None)
    # Bars and the output of engines would overwrite each other.
    if console.is_terminal and not config.verbose and not config.quiet:
        return LiveDisplay(console) if at_a_time == 1 else ManyDisplay(console)
    return PlainDisplay(console, config, Tally() if at_a_time > 1 else None)


class Tally:
    """How far a run of many variants is, in one line; thread-safe enough for a display."""

    def __init__(self) -> None:
        self.total = 0
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.failed: set[tuple[str, str]] = set()  # variant and stage; one that another node does again is removed
        self._said = time.monotonic()

    def begin(self, variant: str, total: int) -> None:
        """A variant begins."""
        self.total = total
        self.running.add(variant)

    def end(self, variant: str) -> None:
        """A variant is finished."""
        self.running.discard(variant)
        self.done.add(variant)

    def note(self, variant: str, event: messages.Event) -> None:
        """A stage failed, or was done after all."""
        if isinstance(event, messages.Failed):
            self.failed.add((variant, event.stage))
        elif isinstance(event, messages.Finished):
            self.failed.discard((variant, event.stage))

    def __str__(self) -> str:
        count = len(self.failed)
        failed = f", {count} stage{'s' * (count > 1)} failed" if count else ""
        return f"{len(self.done)} of {self.total} variants done, {len(self.running)} running{failed}"

    def is_due(self) -> bool:
        """Whether the line was last shown long enough ago; it is then taken as shown now."""
        if is_due := time.monotonic() - self._said >= _PLAIN_EVERY_S:
            self._said = time.monotonic()
        return is_due


class PlainDisplay(Display):
    """One line per event, and for the progress of a stage every 15 s; with `quiet` only failures.

    With a `tally`, of many variants at the same time, progress is one line for all of them, and a note that concerns
    many is shown once.
    """

    def __init__(self, console: Console, config: DisplayConfig = DEFAULT, tally: Tally | None = None) -> None:
        self._console = console
        self._config = config
        self._tally = tally
        self._noted: set[str] = set()
        self._heads: dict[str, str] = {}
        self._started: dict[tuple[str, str], float] = {}
        self._advanced: dict[str, float] = {}

    def begin(self, variant: str, number: int, total: int, stages: Sequence[str]) -> None:
        """Print a line."""
        self._heads[variant] = f"[{number}/{total}] {variant}"
        if self._tally is not None:
            self._tally.begin(variant, total)
        self._print(f"{self._heads[variant]}: {', '.join(stages) or 'nothing to do'}")

    def handle(self, variant: str, event: messages.Event) -> None:
        """Print a line for the event, unless it only reports progress and the last such line is recent."""
        clock, head = time.monotonic(), self._heads.get(variant)
        if self._tally is not None:
            self._tally.note(variant, event)
        if isinstance(event, messages.Started):
            self._started[variant, event.stage] = self._advanced[variant] = clock
            self._print(f"{head}: {event.stage} …")
        elif isinstance(event, messages.Advanced):
            if self._tally is not None:
                if self._tally.is_due():
                    self._print(str(self._tally))
            elif clock - self._advanced.get(variant, 0.0) >= _PLAIN_EVERY_S:
                self._advanced[variant] = clock
                of_total = "" if event.total is None else f"/{event.total}"
                self._print(f"{head}: {event.stage} {event.done}{of_total} {event.unit}")
        elif isinstance(event, messages.Finished):
            self._print(f"{head}: {event.stage} {_duration(self._started.get((variant, event.stage)))}")
        elif isinstance(event, messages.Failed):
            self._print(f"{head}: {event.stage} FAILED: {event.cause}", always=True)
        elif isinstance(event, messages.Note):
            if self._tally is None:
                self._print(f"note: {event.text}")
            elif event.text not in self._noted:
                self._noted.add(event.text)
                self._print(f"{head}: {event.text}" if head else f"note: {event.text}")

    def chatter(self, variant: str, line: str) -> None:
        """Print the line with --verbose, and of many variants with its own."""
        if self._config.verbose:
            self._print(line if self._tally is None else f"{self._heads.get(variant, variant)} | {line}")

    def end(self, variant: str) -> None:
        """Print how far a run of many variants is."""
        if self._tally is not None:
            self._tally.end(variant)
            self._print(str(self._tally))

    def _print(self, text: str, *, always: bool = False) -> None:
        if always or not self._config.quiet:
            self._console.print(redact(text), markup=False, soft_wrap=True)


class JsonDisplay(Display):
    """One JSON object per line, for programs: events with their time and, under the key ``cell``, their variant.

    With a `tally`, of many variants at the same time, ``progress`` says how many are done and running.
    """

    def __init__(self, stream: IO[str], config: DisplayConfig, tally: Tally | None = None) -> None:
        self._stream = stream
        self._config = config
        self._tally = tally
        self._lock = threading.Lock()

    def begin(self, variant: str, number: int, total: int, stages: Sequence[str]) -> None:
        """Write a line."""
        if self._tally is not None:
            self._tally.begin(variant, total)
        self._write("cell", variant, number=number, total=total, stages=list(stages))

    def handle(self, variant: str, event: messages.Event) -> None:
        """Write the event; reports of progress only with --verbose."""
        content = event.model_dump(mode="json", exclude_none=True)
        kind = content.pop("event")
        if kind == "failed" or not (self._config.quiet or (kind == "advanced" and not self._config.verbose)):
            self._write(kind, variant, **content)
        if self._tally is not None:
            self._tally.note(variant, event)
            if kind == "advanced" and self._tally.is_due():
                self._write_tally(self._tally)

    def end(self, variant: str) -> None:
        """Write how far a run of many variants is."""
        if self._tally is not None:
            self._tally.end(variant)
            self._write_tally(self._tally)

    def _write_tally(self, tally: Tally) -> None:
        if not self._config.quiet:
            done, running = len(tally.done), len(tally.running)
            self._write("progress", done=done, running=running, total=tally.total, failed=len(tally.failed))

    def chatter(self, variant: str, line: str) -> None:
        """Write the line with --verbose."""
        if self._config.verbose:
            self._write("log", variant, text=line)

    def close(self, report: RunReport) -> None:
        """Write where the results are, and what failed; programs need no closing table."""
        self._show_floors(report)
        failures = [
            {"cell": one.variant, "stage": one.stage, "cause": one.cause, "remedy": one.remedy, "log": str(one.log)}
            for one in report.failures
        ]
        invalid = [
            {"cell": variant.label, "stage": name, "reasons": list(record.invalid_reasons)}
            for variant, name, record in report.invalid()
        ]
        results = [str(variant.directory) for variant in report.variants]
        verdict = report.verdict
        self._write(
            "closed", results=results, failures=failures, invalid=invalid,
            verdict=None if verdict is None else verdict.to_json(),
        )  # fmt: skip

    def _write(self, event: str, variant: str | None = None, **content: Any) -> None:
        line = {"time": now(), "event": event, **({"cell": variant} if variant else {}), **content}
        with self._lock:
            self._stream.write(redact(json.dumps(line, ensure_ascii=False)) + "\n")
            self._stream.flush()


class LiveDisplay(Display):
    """A bar for the finished variants and one per running stage, with rate and time left; finished stages scroll up."""

    def __init__(self, console: Console) -> None:
        left = (bars.SpinnerColumn(finished_text=" "), bars.TextColumn("{task.description}"))
        right = (bars.BarColumn(bar_width=30), _CountColumn(), bars.TimeRemainingColumn(compact=True))
        self._progress = bars.Progress(*left, *right, console=console, transient=True)
        self._overall: bars.TaskID | None = None
        self._stages: dict[str, tuple[bars.TaskID, float]] = {}  # variant -> bar and start of its running stage

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, variant: str, number: int, total: int, stages: Sequence[str]) -> None:
        """Print a line above the bars."""
        self._progress.start()
        if self._overall is None:
            self._overall = self._progress.add_task("", total=total, unit="variants")
        self._progress.update(self._overall, description=f"[bold]{escape(variant)}[/]")
        self._print(f"[bold]{escape(variant)}[/] ({number} of {total}): {escape(', '.join(stages)) or 'nothing to do'}")

    def handle(self, variant: str, event: messages.Event) -> None:
        """Update the bar of the running stage; print a line above the bars when the stage ends."""
        if isinstance(event, messages.Note):
            self._print(f"  [dim]{escape(event.text)}[/]")
        elif isinstance(event, messages.Advanced):
            if variant in self._stages:
                bar, _ = self._stages[variant]
                self._progress.update(bar, completed=event.done, total=event.total, unit=event.unit)
        elif not isinstance(event, (messages.Chosen, messages.Kept)):
            before = self._stages.pop(variant, None)
            if before is not None:
                self._progress.remove_task(before[0])
            if isinstance(event, messages.Started):
                bar = self._progress.add_task(f"  {escape(event.stage)}", total=None, unit="")
                self._stages[variant] = bar, time.monotonic()
            elif isinstance(event, messages.Finished):
                duration = _duration(None if before is None else before[1])
                self._print(f"  [green]✓[/] {escape(event.stage)} [dim]{duration}[/]")
            else:
                self._print(f"  [red]✗[/] {escape(event.stage)}: {escape(event.cause)}")

    def end(self, variant: str) -> None:
        """Advance the bar of the variants."""
        if self._overall is not None:
            self._progress.advance(self._overall)

    def close(self, report: RunReport) -> None:
        """Remove the bars, then show the closing table and the failed stages."""
        self._progress.stop()
        super().close(report)

    def _print(self, markup: str) -> None:
        self._progress.console.print(markup, soft_wrap=True)


class ManyDisplay(Display):
    """Many variants at the same time: a row per running one, a bar for all, and a line above per finished variant."""

    def __init__(self, console: Console) -> None:
        self._tally = Tally()
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._numbers: dict[str, int] = {}
        self._noted: set[str] = set()
        self._began = time.monotonic()
        self._console = console
        self._live = Live(console=console, transient=True, refresh_per_second=4, get_renderable=self._render)

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin(self, variant: str, number: int, total: int, stages: Sequence[str]) -> None:
        """Add a row; a variant with nothing to do gets none."""
        with self._lock:
            self._tally.begin(variant, total)
            if stages:
                self._rows[variant] = _Row()
        self._live.start()

    def handle(self, variant: str, event: messages.Event) -> None:
        """Update the row; print failures, and each note once."""
        if isinstance(event, messages.Note):
            with self._lock:
                is_new = event.text not in self._noted
                self._noted.add(event.text)
            if is_new:
                self._print(f"[dim]{escape(f'{variant}: ' if variant else '')}{escape(event.text)}[/]")
            return
        with self._lock:
            row = self._rows.get(variant)
            if row is not None and isinstance(event, (messages.Started, messages.Advanced)):
                if row.stage != event.stage:
                    row.stage, row.since, row.done, row.total, row.unit = event.stage, time.monotonic(), 0, None, ""
                if isinstance(event, messages.Advanced):
                    row.done, row.total, row.unit = event.done, event.total, event.unit
            self._tally.note(variant, event)
        if isinstance(event, messages.Failed):
            self._print(f"[red]✗[/] {escape(variant)}: {escape(event.stage)}: {escape(event.cause)}")

    def end(self, variant: str) -> None:
        """Replace the row by a line above."""
        with self._lock:
            row = self._rows.pop(variant, None)
            self._tally.end(variant)
            has_failed = any(name == variant for name, _ in self._tally.failed)
        if row is not None:
            mark = "[red]✗[/]" if has_failed else "[green]✓[/]"
            self._print(f"{mark} {escape(variant)} [dim]{_clock(time.monotonic() - row.begun)}[/]")

    def close(self, report: RunReport) -> None:
        """Remove the rows, then show the closing table and the failed stages."""
        self._live.stop()
        super().close(report)

    def _print(self, markup: str) -> None:
        self._console.print(markup, soft_wrap=True)

    def _render(self) -> Group:
        """The rows that fit into the terminal, and the bar."""
        now = time.monotonic()
        table = Table.grid(padding=(0, 1), expand=True)
        for_name = max(_NAME_WIDTH, self._console.width - _OTHERS_WIDTH)
        table.add_column(no_wrap=True, overflow="ellipsis", width=for_name)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
        table.add_column(no_wrap=True, justify="right")
        with self._lock:
            rows, tally = list(self._rows.items()), self._tally
            room = max(1, self._console.size.height - 4)
            for variant, row in rows[:room]:
                table.add_row(
                    _shortened(variant, for_name), escape(row.stage), escape(row.progress), _clock(now - row.since)
                )
            hidden = len(rows) - room
            # Finished stages of what still runs count nothing: a variant is done or not.
            bar = ProgressBar(total=max(1, tally.total), completed=len(tally.done), width=20)
            text = f"{tally}, {_clock(now - self._began)}"
        more = [Text(f"… and {hidden} more", style="dim")] if hidden > 0 else []
        summary = Table.grid(padding=(0, 1))
        summary.add_row(bar, text)
        return Group(table, *more, summary)


@dataclass
class _Row:
    """What is shown of a running variant."""

    stage: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""
    since: float = field(default_factory=time.monotonic)  # of the stage
    begun: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> str:
        """How far the stage is."""
        if self.total is None:
            return f"{self.done} {self.unit}" if self.unit else "…"
        return f"{self.done}/{self.total} {self.unit}"


def _shortened(variant: str, width: int) -> Text:
    """The name of a variant, its model cut if it is too long: models have long names, and differ in their scheme."""
    model, space, scheme = redact(variant).partition(" ")
    name = Text(model)
    name.truncate(max(1, width - cell_len(space + scheme)), overflow="ellipsis")
    return name.append(space + scheme)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _CountColumn(bars.ProgressColumn):
    """Done, total and unit, and units per second of a stage; empty while unknown."""

    def render(self, task: bars.Task) -> Text:
        unit = task.fields["unit"]
        count = "" if task.total is None else f"{task.completed:.0f}/{task.total:.0f} {unit}"
        return Text(f"{count} {task.speed:.1f}/s" if task.speed and unit not in ("", "variants") else count)


def _duration(started: float | None) -> str:
    return "already there" if started is None else f"done in {time.monotonic() - started:.1f} s"
