"""A report of the doctor on stdout: lines for people, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from slim_eval._version import __version__
from slim_eval.doctor.findings import Finding, Report, State
from slim_eval.utils.redaction import redact, redact_all

_MARKS = {State.OK: ("✓", "green"), State.WARNING: ("!", "yellow"), State.PROBLEM: ("✗", "red")}


def show(report: Report, *, as_json: bool = False) -> None:
    """Print a report. Lines are not broken, so that a command can be copied."""
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
    """The report for people: sections of findings in columns, what mends a gap below it, and the verdict."""
    width = max((len(finding.name) for finding in report.findings), default=0)
    for section in report.sections:
        yield Text(section.title, style="bold")
        for finding in section.findings:
            yield from _finding(finding, width)
    yield Text()
    yield _verdict(report)


def _finding(finding: Finding, width: int) -> Iterator[Text]:
    mark, colour = _MARKS[finding.state]
    yield Text.assemble("  ", (mark, colour), f" {finding.name:<{width}}  {redact(finding.text)}")
    if finding.remedy:
        yield Text(f"    {'':<{width}}  fix: {redact(finding.remedy)}", style="dim")


def _verdict(report: Report) -> Text:
    gaps = sum(finding.state is State.WARNING for finding in report.findings)
    if report.problems:
        count = len(report.problems)
        return Text(f"{count} problem{'s' if count > 1 else ''}: slim-eval run would not work here", style="red")
    note = f"; {gaps} warning{'s' if gaps > 1 else ''}" if gaps else ""
    return Text(f"slim-eval run works here{note}", style="green")
