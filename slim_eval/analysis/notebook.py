"""What a notebook shows of a result: the verdict and a table of the variants, in HTML that needs nothing else."""

from __future__ import annotations

from html import escape

from slim_eval.analysis.tables.verdict_table import HEADERS
from slim_eval.analysis.verdict import Verdict
from slim_eval.utils.redaction import redact


def html_of(verdict: Verdict) -> str:
    """The answer, the sentences below it, and one row per variant."""
    parts = [f"<p><b>{escape(verdict.answer)}</b></p>"]
    listed = [f"<li>{escape(text)}</li>" for text in verdict.asked]
    listed += [f"<li>{escape(heading)}: {escape(text)}</li>" for heading, text in verdict.parts]
    parts += [f"<ul>{''.join(listed)}</ul>"] if listed else []
    head = "".join(f"<th>{escape(header)}</th>" for header in (*HEADERS, "reason"))
    rows = []
    for each in verdict.variants:
        effects = ["" if each.is_reference else each.effect(of).shown for of in HEADERS[2:]]
        cells = "".join(f"<td>{escape(text)}</td>" for text in (each.label, each.word.value, *effects, each.reason))
        rows.append(f"<tr>{cells}</tr>")
    parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
    return redact("".join(parts))
