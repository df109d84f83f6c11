"""What the doctor finds: findings in sections, and what they mean for a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from slim_eval.errors import NotReadyError


class State(str, Enum):
    """How a finding bears on a run: it works, it works with a loss, it would not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        state: How it bears on a run.
        text: What was found, in one line.
        remedy: What mends it, the command where there is one; None where there is nothing to mend.
    """

    name: str
    state: State
    text: str
    remedy: str | None = None


@dataclass(frozen=True)
class Section:
    """Findings about one subject."""

    title: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Report:
    """Everything the doctor found."""

    sections: tuple[Section, ...]

    @property
    def findings(self) -> Iterator[Finding]:
        """All findings, section by section."""
        for section in self.sections:
            yield from section.findings

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What stands in the way of a run."""
        return tuple(finding for finding in self.findings if finding.state is State.PROBLEM)

    def raise_for_problems(self) -> None:
        """Raise where a run would not work.

        Raises:
            NotReadyError: Naming what stands in its way.
        """
        if self.problems:
            names = ", ".join(finding.name for finding in self.problems)
            raise NotReadyError(f"slim-eval run would not work here: {names}", "see what mends each, above")
