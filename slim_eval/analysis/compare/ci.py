"""The outcome of `--fail-if` for continuous integration: a JUnit file, and a summary on GitHub's page of the job."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as XML

from slim_eval.analysis.compare.folders import ComparisonReport
from slim_eval.analysis.compare.formats import to_markdown
from slim_eval.analysis.compare.gate import Decision
from slim_eval.errors import GateFailedError, GateUndecidedError, SlimEvalError, UsageError
from slim_eval.results.store import one_line
from slim_eval.utils import write_text
from slim_eval.utils.redaction import redact

#: The file to which a step of a GitHub job appends Markdown.
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
#: Element of a test case whose condition is met (exit 3) or inconclusive (exit 4); none of one that is not met.
_ELEMENTS = {Decision.HOLDS: "failure", Decision.UNDECIDED: "skipped"}
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, conditions: Sequence[str], outcome: ComparisonReport | SlimEvalError) -> None:
    """Write one test case per condition and pair of variants; of a comparison that failed, an error per condition."""
    suite = XML.Element("testsuite", name="slim-eval compare")
    if isinstance(outcome, SlimEvalError):
        for condition in conditions:
            error = XML.SubElement(_case(suite, condition), "error", message=_text(outcome.cause))
            error.text = _text(str(outcome))
    else:
        for found in outcome.outcomes:
            case, words = _case(suite, found.condition.text + found.where), f"{found.decision.value}: {found.reason}"
            if found.decision in _ELEMENTS:
                XML.SubElement(case, _ELEMENTS[found.decision], message=_text(words)).text = _text(words)
            else:
                XML.SubElement(case, "system-out").text = _text(words)
    suite.set("tests", str(len(suite)))
    for count, name in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(len(suite.findall(f"testcase/{name}"))))
    root = XML.Element("testsuites")
    root.append(suite)
    XML.indent(root)
    try:
        write_text(path, XML.tostring(root, encoding="unicode", xml_declaration=True) + "\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"--junit {path}: cannot be written ({one_line(error)})", "name another file") from error


def _case(suite: XML.Element, name: str) -> XML.Element:
    return XML.SubElement(suite, "testcase", classname="slim-eval.compare", name=_text(name))


def _text(value: str) -> str:
    """A text as XML can contain it: without control characters, and redacted before it is escaped."""
    return _NOT_IN_XML.sub("�", redact(value))


def summary_file() -> Path:
    """The file of GitHub's summary; a `UsageError` outside of a job."""
    if not (name := os.environ.get(SUMMARY_VARIABLE)):
        remedy = "use it in a job of GitHub Actions; elsewhere: --markdown"
        raise UsageError(f"--github-summary: {SUMMARY_VARIABLE} is not set", remedy)
    return Path(name)


def append_summary(path: Path, report: ComparisonReport) -> None:
    """Append the answer, then the comparison, as Markdown."""
    answer = "**Passed**: no condition is met" if report.outcomes else ""
    try:
        report.raise_for_conditions()
    except (GateFailedError, GateUndecidedError) as error:
        answer = f"**{'Failed' if isinstance(error, GateFailedError) else 'Inconclusive'}**: {error.cause}"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(redact("\n\n".join(filter(None, ("\n# slim-eval compare", answer, to_markdown(report))))))
    except (OSError, ValueError) as error:
        raise UsageError(f"{SUMMARY_VARIABLE}={path}: cannot be written ({one_line(error)})", "check it") from error
