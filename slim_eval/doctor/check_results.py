"""Findings of the doctor, in sections; what they mean for a run; the report as lines for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
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


@dataclass(frozen=True)
class CheckResult:
    """One thing that was examined.

    Attributes:
        name: What was examined.
        state: Its effect on a run.
        text: The result, in one line.
        remedy: The fix, as a command if there is one; None if nothing needs fixing.
    """

    name: str
    state: Status
    text: str
    remedy: str | None = None


@dataclass(frozen=True)
class CheckSection:
    """Findings about one subject."""

    title: str
    findings: tuple[CheckResult, ...]


@dataclass(frozen=True)
class Report:
    """Everything the doctor found."""

    sections: tuple[CheckSection, ...]

    @property
    def findings(self) -> Iterator[CheckResult]:
        """All findings, section by section."""
        for section in self.sections:
            yield from section.findings

    @property
    def problems(self) -> tuple[CheckResult, ...]:
        """Findings that prevent a run."""
        return tuple(finding for finding in self.findings if finding.state is Status.PROBLEM)

    def raise_for_problems(self) -> None:
        """Raise if a run would not work.

        Raises:
            NotReadyError: With the names of the problems.
        """
        if self.problems:
            names = ", ".join(finding.name for finding in self.problems)
            raise NotReadyError(f"slim-eval run would not work here: {names}", "see the fix of each above")


_MARKS = {Status.OK: ("✓", "green"), Status.WARNING: ("!", "yellow"), Status.PROBLEM: ("✗", "red")}


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
    content = {
        "slim_eval": __version__,
        "works": not report.problems,
        "findings": [
            {
                "section": section.title,
                "name": finding.name,
                "state": finding.state.value,
                "text": finding.text,
                "remedy": finding.remedy,
            }
            for section in report.sections
            for finding in section.findings
        ],
    }
    return json.dumps(redact_all(content), indent=2, ensure_ascii=False) + "\n"


def to_lines(report: Report) -> Iterator[Text]:
    """The report for people: sections of findings in columns, each fix below its finding, and the verdict."""
    width = max((len(finding.name) for finding in report.findings), default=0)
    for section in report.sections:
        yield Text(section.title, style="bold")
        for finding in section.findings:
            mark, colour = _MARKS[finding.state]
            yield Text.assemble("  ", (mark, colour), f" {finding.name:<{width}}  {redact(finding.text)}")
            if finding.remedy:
                yield Text(f"    {'':<{width}}  fix: {redact(finding.remedy)}", style="dim")
    yield Text()
    warnings = sum(finding.state is Status.WARNING for finding in report.findings)
    if count := len(report.problems):
        yield Text(f"{count} problem{'s' if count > 1 else ''}: slim-eval run would not work here", style="red")
    else:
        note = f"; {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
        yield Text(f"slim-eval run works here{note}", style="green")
