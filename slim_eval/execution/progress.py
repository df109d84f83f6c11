"""How a run tells what it does: live bars on a terminal, plain lines or JSON elsewhere. It all goes to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, TypeVar

from rich.console import Console
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
from rich.text import Text

from slim_eval.config import DisplayConfig, LogFormat
from slim_eval.execution import messages
from slim_eval.execution.console import NONE_REUSED, Failure, escape, show_variants
from slim_eval.results.variants import Variant
from slim_eval.utils.environment import now
from slim_eval.utils.redaction import redact

DEFAULT = DisplayConfig()

_PLAIN_EVERY_S = 15.0
_NOTHING = "nothing to do"
_T = TypeVar("_T")


class Display(Protocol):
    """Where the evaluator shows what it is doing."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def variant(self, number: int, total: int, name: str, stages: Sequence[str]) -> None:
        """A variant begins, `number` of `total`."""
        ...

    def handle(self, event: Any) -> None:
        """Show an event of a worker."""
        ...

    def note(self, text: str) -> None:
        """Show a line."""
        ...

    def chatter(self, line: str) -> None:
        """A line that a worker or its engine printed; called from other threads."""
        ...

    def close(
        self,
        variants: Sequence[Variant],
        failures: Sequence[Failure],
        reused: Mapping[Path, Sequence[str]] = NONE_REUSED,
    ) -> None:
        """Show the closing table, and what failed; `reused` names stages of earlier runs, by the variant's folder."""
        ...


def open_display(config: DisplayConfig = DEFAULT) -> Display:
    """Live bars where stderr is a terminal, plain lines where it is not; or what was asked for."""
    console = Console(stderr=True, highlight=False)
    if config.log_format is LogFormat.JSON:
        return JsonDisplay(console.file, config)
    # Bars and an engine's chatter do not go together.
    if console.is_terminal and not config.verbose and not config.quiet:
        return LiveDisplay(console)
    return PlainDisplay(console, config)


class _Unframed:
    """A display that neither begins nor ends with anything."""

    def __enter__(self: _T) -> _T:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class PlainDisplay(_Unframed):
    """One line for each thing that happens, and now and then one for how far a stage is: for logs and CI.

    With `quiet` only what failed, with `verbose` what engines print, too.
    """

    def __init__(self, console: Console, config: DisplayConfig = DEFAULT) -> None:
        self._console = console
        self._config = config
        self._head = ""
        self._since: dict[str, float] = {}
        self._last = 0.0

    def variant(self, number: int, total: int, name: str, stages: Sequence[str]) -> None:
        """Begin a variant."""
        self._head = f"[{number}/{total}] {name}"
        self._since.clear()
        self._line(f"{self._head}: {', '.join(stages) or _NOTHING}")

    def handle(self, event: Any) -> None:
        """Print a line for an event."""
        clock = time.monotonic()
        if isinstance(event, messages.Started):
            self._since[event.stage] = self._last = clock
            self._line(f"{self._head}: {event.stage} …")
        elif isinstance(event, messages.Advanced):
            if clock - self._last >= _PLAIN_EVERY_S:
                self._last = clock
                self._line(f"{self._head}: {event.stage} {_far(event)} {event.unit}")
        elif isinstance(event, messages.Finished):
            self._line(f"{self._head}: {event.stage} {_took(self._since.get(event.stage), clock)}")
        elif isinstance(event, messages.Failed):
            self._line(f"{self._head}: {event.stage} FAILED: {event.cause}", always=True)
        else:
            self.note(event.text)

    def note(self, text: str) -> None:
        """Print a line."""
        self._line(f"note: {text}")

    def chatter(self, line: str) -> None:
        """Print it, where that was asked for."""
        if self._config.verbose:
            self._line(line)

    def close(
        self,
        variants: Sequence[Variant],
        failures: Sequence[Failure],
        reused: Mapping[Path, Sequence[str]] = NONE_REUSED,
    ) -> None:
        """Print the closing table, and what failed."""
        show_variants(variants, failures, reused)

    def _line(self, text: str, *, always: bool = False) -> None:
        if always or not self._config.quiet:
            self._console.print(redact(text), markup=False, soft_wrap=True)


class JsonDisplay(_Unframed):
    """One JSON object a line for each thing that happens, for programs: events with their time and variant."""

    def __init__(self, stream: IO[str], config: DisplayConfig) -> None:
        self._stream = stream
        self._config = config
        self._variant: str | None = None

    def variant(self, number: int, total: int, name: str, stages: Sequence[str]) -> None:
        """Begin a variant."""
        self._variant = name
        self._write("cell", number=number, total=total, stages=list(stages))

    def handle(self, event: Any) -> None:
        """Write an event; of how far a stage is only with `verbose`."""
        content = event.model_dump(mode="json", exclude_none=True)
        kind = content.pop("event")
        if kind == "failed" or not (self._config.quiet or (kind == "advanced" and not self._config.verbose)):
            self._write(kind, **content)

    def note(self, text: str) -> None:
        """Write a line of text."""
        if not self._config.quiet:
            self._write("note", text=text)

    def chatter(self, line: str) -> None:
        """Write it, where that was asked for."""
        if self._config.verbose:
            self._write("log", text=line)

    def close(
        self,
        variants: Sequence[Variant],
        failures: Sequence[Failure],
        reused: Mapping[Path, Sequence[str]] = NONE_REUSED,
    ) -> None:
        """The closing table is for people: only where the results are, and what failed."""
        self._variant = None
        self._write(
            "closed",
            results=[str(variant.directory) for variant in variants],
            failures=[{**asdict(failure), "log": str(failure.log)} for failure in failures],
        )

    def _write(self, event: str, **content: Any) -> None:
        line = {"time": now(), "event": event, **({"cell": self._variant} if self._variant else {}), **content}
        self._stream.write(redact(json.dumps(line, ensure_ascii=False)) + "\n")
        self._stream.flush()


class LiveDisplay:
    """A bar for the variants and one for the stage that runs, with rate and time left; finished stages scroll up."""

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

    def variant(self, number: int, total: int, name: str, stages: Sequence[str]) -> None:
        """Begin a variant."""
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
        if isinstance(event, messages.Started):
            self._clear_stage()
            self._since = time.monotonic()
            self._stage = self._progress.add_task(f"  {escape(event.stage)}", total=None, unit="")
        elif isinstance(event, messages.Advanced):
            if self._stage is not None:
                self._progress.update(self._stage, completed=event.done, total=event.total, unit=event.unit)
        elif isinstance(event, messages.Finished):
            took = _took(self._since if self._stage is not None else None, time.monotonic())
            self._clear_stage()
            self._progress.console.print(f"  [green]✓[/] {escape(event.stage)} [dim]{took}[/]")
        elif isinstance(event, messages.Failed):
            self._clear_stage()
            self._progress.console.print(f"  [red]✗[/] {escape(event.stage)}: {escape(event.cause)}", soft_wrap=True)
        else:
            self.note(event.text)

    def note(self, text: str) -> None:
        """Show a line above the bars."""
        self._progress.console.print(f"  [dim]{escape(text)}[/]", soft_wrap=True)

    def chatter(self, line: str) -> None:
        """It stays in the log."""

    def close(
        self,
        variants: Sequence[Variant],
        failures: Sequence[Failure],
        reused: Mapping[Path, Sequence[str]] = NONE_REUSED,
    ) -> None:
        """Take the bars away and show the closing table, and what failed."""
        self._progress.stop()
        show_variants(variants, failures, reused)

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


def _far(event: messages.Advanced) -> str:
    return str(event.done) if event.total is None else f"{event.done}/{event.total}"


def _took(since: float | None, clock: float) -> str:
    return "already there" if since is None else f"done in {clock - since:.1f} s"
