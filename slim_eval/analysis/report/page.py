"""`report.html`: everything an analysis found, in one file that opens anywhere and asks no network.

The same results make the same file, byte for byte. Scripts stand in the file and are named in its content security
policy by their hashes, so that nothing else can run in it. The page is redacted before they are put into it: a script
must stay as it is, whatever a token looks like.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from slim_eval._version import __version__
from slim_eval.analysis.evidence import Evidence
from slim_eval.analysis.pareto.objectives import Objective
from slim_eval.analysis.summary import Section
from slim_eval.results.rows import Row, ordered_tasks
from slim_eval.results.variants import Variant
from slim_eval.utils.redaction import Redacted, redact

_ASSETS = "slim_eval.analysis.report"
_SHOWN_SENTENCES = 5  # of each heading; the rest unfolds
_EARLY_SCRIPTS, _LATE_SCRIPTS = ("theme.js", "table.js"), ("frontier.js", "charts.js")


@dataclass(frozen=True)
class ReportData:
    """What a report shows.

    Attributes:
        title: Its heading.
        rows: One a configuration, from `rows.rows_of`.
        variants: The variants of the rows, in the same order.
        evidence: Pairs, noise floors and caveats of the same variants.
        impact: Rows of `tables.quantization_impact`.
        frontier: From `objectives.frontier` over the same rows, with the groups of rows that may be compared; empty to
            leave it out.
        objectives: Of the frontier.
        findings: The summary; what has a part of its own in the report is not told twice.
        problems: Files that could not be read and benchmarks that failed, one line each.
        tasks: Tasks to show; all that were measured by default.
    """

    title: str
    rows: Sequence[Row]
    variants: Sequence[Variant]
    evidence: Evidence
    impact: Sequence[Row] = ()
    frontier: Sequence[Row] = ()
    objectives: Sequence[Objective] = ()
    findings: Sequence[Section] = ()
    problems: Sequence[str] = ()
    tasks: Sequence[str] | None = None


def report_html(data: ReportData) -> str:
    """The whole report as one HTML file.

    Raises:
        ValueError: There are not as many variants as rows.
    """
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    if len(data.variants) != len(data.rows):
        raise ValueError(
            f"a report needs one variant a row, got {len(data.variants)} variants and {len(data.rows)} rows"
        )
    scripts = {"early": _script(_EARLY_SCRIPTS), "plotly": get_plotlyjs(), "late": _script(_LATE_SCRIPTS)}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    content = _content(data)
    page = environment.from_string(_asset("page.html")).render(
        content,
        policy=_policy(*scripts.values()),
        style=_asset("page.css"),
        data=_embedded(content["charts"]),
        **{name: _place(name) for name in scripts},
    )
    return _with_scripts(redact(page), scripts)


def _place(name: str) -> str:
    """What keeps a script's place; between script tags nothing else can read like it, as texts are escaped."""
    return f"@{name}@"


def _with_scripts(page: str, scripts: Mapping[str, str]) -> Redacted:
    for name, script in scripts.items():
        page = page.replace(f"<script>{_place(name)}</script>", f"<script>{script}</script>")
    return Redacted(page)


def _content(data: ReportData) -> dict[str, Any]:
    """What the template shows."""
    from slim_eval.analysis.report import (
        charts,
        concerns,
        definitions,
        details,
        environments,
        impact,
        marks,
        overview,
        standing,
    )
    from slim_eval.analysis.report.settings import settings_of

    found = ordered_tasks(task for variant in data.variants for task in variant.accuracy)
    tasks = found if data.tasks is None else [task for task in data.tasks if task in found]
    marker = marks.Marker.of(data.rows, data.evidence)
    settings = settings_of(data.rows, tasks)
    return {
        "title": data.title,
        "version": __version__,
        "rows": data.rows,
        "tasks": tasks,
        "shown_sentences": _SHOWN_SENTENCES,
        "findings": [section for section in data.findings if not section.apart],
        "concerns": concerns.concerns(data.rows, marker, settings, data.impact, data.problems),
        "table": overview.comparison_table(data.rows, tasks, marker, data.frontier, data.objectives),
        "charts": charts.chart_data(data.rows, tasks, marker, settings),
        "standing": standing.standing(data.rows, data.frontier, data.objectives, marker),
        "standing_doubts": standing.reservations(data.rows, data.frontier, data.objectives, settings),
        "by_points": not any(row["certain"] is not None for row in data.frontier),
        "objectives": [standing.named(objective) for objective in data.objectives],
        "impact": impact.impact_table(data.impact, data.rows, tasks, marker),
        "details": details.task_details(data.rows, data.variants, tasks, marker),
        "environments": environments.environments(data.rows, data.variants),
        "configurations": environments.configurations(data.rows),
        "configuration_headers": environments.CONFIGURATION_HEADERS,
        "settings": settings,
        "noise": environments.noise_floors(data.rows, data.evidence.noise),
        "noise_headers": environments.NOISE_HEADERS,
        "notes": environments.notes(data.rows, data.variants),
        "definitions": definitions.DEFINITIONS,
    }


def _asset(name: str) -> str:
    return resources.files(_ASSETS).joinpath(name).read_text(encoding="utf-8")


def _script(names: Sequence[str]) -> str:
    return "\n".join(_asset(name) for name in names)


def _policy(*scripts: str) -> str:
    """Nothing may be fetched, and of scripts only these may run; charts carry styles and pictures of their own."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(content: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever names it holds."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
