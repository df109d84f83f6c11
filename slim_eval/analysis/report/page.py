"""`report.html`: everything an analysis found, in one file that opens anywhere and makes no request.

The same results make the same file, byte for byte. The scripts are part of the file and are named in its content
security policy by their hashes, so that no other script can run. The page is redacted before they are inserted: a
script must not be changed, whatever a token looks like. docs/decisions/020-report.md and
043-scripts-of-the-report.md say why each library is embedded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from slim_eval._version import __version__
from slim_eval.analysis.findings import Section
from slim_eval.analysis.pareto.frontier import Frontier
from slim_eval.analysis.study import Study
from slim_eval.analysis.verdict import Verdict
from slim_eval.utils.redaction import Redacted, redact


def report_html(
    study: Study,
    frontiers: Sequence[Frontier] = (),
    sections: Sequence[Section] = (),
    problems: Sequence[str] = (),
    title: str = "slim-eval",
    verdict: Verdict | None = None,
) -> str:
    """The whole report as one HTML file, with the frontiers of the study under a heading.

    Sections of findings with a part of their own in the report are not repeated. `problems` has a line for each file
    that could not be read and each benchmark that failed. The verdict is made here if it is not given.
    """
    from jinja2 import Environment, StrictUndefined

    from slim_eval.analysis.report import cards, charts, provenance, report_tables
    from slim_eval.analysis.verdict import verdict_of

    verdict = verdict or verdict_of(study)

    comparison = report_tables.comparison_table(study, frontiers)
    plugin_figures = charts.plugin_figures(study)
    plugin_charts = [figure.chart for figure in plugin_figures if figure.chart is not None]
    drawn = {
        "trade_off": charts.trade_off(study, comparison),
        "drops": charts.drops(study),
        "plugins": plugin_charts,
    }
    settings = provenance.settings_of(study)
    content: dict[str, Any] = {
        "title": title,
        "version": __version__,
        "study": study,
        "verdict": verdict,
        "cards": cards.cards_of(verdict),
        "word_tone": cards.word_tone,
        "findings": [section for section in sections if not section.apart],
        "caveats": provenance.report_caveats(study, settings, problems),
        "comparison": comparison,
        "standings": [
            (found, report_tables.standings(study, found), report_tables.standing_caveats(found)) for found in frontiers
        ],
        "by_points": report_tables.by_points,
        "charts": drawn,
        "plugin_figures": plugin_figures,
        "impact": report_tables.impact_table(study),
        "details": report_tables.task_details(study),
        "environments": provenance.environments(study),
        "variants": provenance.variants_table(study),
        "settings": settings,
        "noise": provenance.noise_floors(study),
        "noise_remarks": provenance.noise_remarks(study),
        "notes": provenance.notes(study),
    }
    scripts = {
        "early": _asset("theme.js"),
        "plotly": _plotly(plugin_charts),
        "datatables": _asset("vendor/dataTables.min.js"),
        "late": f"{_asset('table.js')}\n{_asset('charts.js')}",
    }
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts.values())
    # Nothing may be fetched, and of scripts only these may run; charts carry styles and pictures of their own.
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    policy = (
        f"default-src 'none'; script-src {allowed}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    # JSON that cannot end the script element around it, whatever names it contains.
    data = json.dumps(drawn, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_asset("page.html"))
    page = template.render(content, policy=policy, style=_asset("page.css"), data=data, scripts=list(scripts))
    images = [figure for figure in plugin_figures if figure.image is not None]
    parts = scripts | {f"image{number}": str(figure.image) for number, figure in enumerate(images)}
    parts |= {f"table{number}": str(figure.table) for number, figure in enumerate(images)}
    # No other text can look like the placeholder of a script, an image or a table, as texts are escaped.
    place = re.compile(r"(?<=<script>)@(\w+)@(?=</script>)|(?<=(?:src|ref)=\")@(\w+)@(?=\")")
    return Redacted(place.sub(lambda match: parts[match[1] or match[2]], redact(page)))


@cache
def _asset(name: str) -> str:
    return resources.files("slim_eval.analysis.report").joinpath(name).read_text(encoding="utf-8")


def _plotly(charts_of_plugins: Sequence[Mapping[str, Any]]) -> str:
    """plotly.js: the basic bundle in this package, a quarter of the whole one, which has what slim-eval's charts use.

    The whole one of the installed plotly is embedded if a chart of a plugin has another kind of trace, or if that
    plotly is of another major version than the bundle.
    """
    from plotly.offline import get_plotlyjs, get_plotlyjs_version

    basic = _asset("vendor/plotly-basic.min.js")
    version, kinds = plotly_bundle()
    wanted = {trace.get("type", "scatter") for chart in charts_of_plugins for trace in chart["data"]}
    if wanted <= kinds and version.split(".")[0] == get_plotlyjs_version().split(".")[0]:
        return basic
    return str(get_plotlyjs())


@cache
def plotly_bundle() -> tuple[str, frozenset[str]]:
    """Version of plotly.js in this package, and the kinds of trace that it can draw."""
    script = _asset("vendor/plotly-basic.min.js")
    kinds = frozenset(re.findall(r'moduleType:"trace",name:"(\w+)"', script))
    return script[: script.index("\n*/")].partition(" v")[2].split()[0], kinds
