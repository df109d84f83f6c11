"""Findings of the doctor, in sections; what they mean for a run; the report as lines for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rich.console import Console
from rich.text import Text

from slim_eval._version import __version__
from slim_eval.errors import NotReadyError
from slim_eval.utils.redaction import redact, redact_all


class Status(str, Enum):
    """Effect of a finding on a run: it works, it works in a degraded way, or it would not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


OK, WARNING, PROBLEM = Status.OK, Status.WARNING, Status.PROBLEM
_MARKS = {OK: ("✓", "green"), WARNING: ("!", "yellow"), PROBLEM: ("✗", "red")}


@dataclass(frozen=True)
class CheckResult:
    """One thing that was examined, its effect on a run, and the result in one line."""

    name: str
    state: Status
    text: str
    remedy: str | None = None  # as a command if there is one; None if nothing needs fixing


@dataclass(frozen=True)
class Report:
    """Everything the doctor found, by section."""

    sections: Mapping[str, Sequence[CheckResult]]

    def of(self, state: Status) -> list[CheckResult]:
        """The findings with this effect on a run."""
        return [finding for section in self.sections.values() for finding in section if finding.state is state]

    def raise_for_problems(self) -> None:
        """Raise a `NotReadyError` with the names of the problems if a run would not work."""
        if problems := self.of(PROBLEM):
            names = ", ".join(finding.name for finding in problems)
            raise NotReadyError(f"slim-eval run would not work here: {names}", "apply the fixes listed above")


def show(report: Report, *, as_json: bool = False) -> None:
    """Print a report on stdout. Lines are not wrapped, so that a command can be copied."""
    if as_json:
        sys.stdout.write(to_json(report))
        return
    out = Console(highlight=False)
    for line in to_lines(report):
        out.print(line, soft_wrap=True)


def to_json(report: Report) -> str:
    """The report for machines: `works`, and every finding with its section."""
    findings = [
        {"section": title, "name": each.name, "state": each.state.value, "text": each.text, "remedy": each.remedy}
        for title, section in report.sections.items()
        for each in section
    ]
    content = {"slim_eval": __version__, "works": not report.of(PROBLEM), "findings": findings}
    return json.dumps(redact_all(content), indent=2, ensure_ascii=False) + "\n"


def to_lines(report: Report) -> Iterator[Text]:
    """The report for people: sections of findings in columns, each fix below its finding, and the verdict."""
    width = max((len(finding.name) for section in report.sections.values() for finding in section), default=0)
    for title, section in report.sections.items():
        yield Text(title, style="bold")
        for finding in section:
            yield Text.assemble("  ", _MARKS[finding.state], f" {finding.name:<{width}}  {redact(finding.text)}")
            if finding.remedy:
                yield Text(f"    {'':<{width}}  fix: {redact(finding.remedy)}", style="dim")
    yield Text()
    if count := len(report.of(PROBLEM)):
        yield Text(f"{count} problem{'s' if count > 1 else ''}: slim-eval run would not work here", style="red")
    else:
        warnings = len(report.of(WARNING))
        note = f"; {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
        yield Text(f"slim-eval run works here{note}", style="green")
