"""The charts of the report: Plotly figures, and for each pair of metrics the frontier and what may not be compared.

The page has two charts. The trade-off shows any two metrics: the figure has one trace per precision and one per
frontier, and `trade_off` adds the numbers of every metric and the frontier of every pair, so that the script only puts
chosen numbers into traces. The drops have one row per variant and task. Colours of texts and grids come from
`page.css`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from itertools import combinations, cycle
from typing import Any, NamedTuple

from slim_eval import metrics
from slim_eval.analysis.caveats import EMULATED, INEXACT, INVALID, LENGTH, SETTING, Kind
from slim_eval.analysis.comparability import Groups, comparable_groups, confounding
from slim_eval.analysis.figures.figure import FIGURES
from slim_eval.analysis.pareto.dominance import non_dominated
from slim_eval.analysis.report.report_tables import VERDICTS, ReportTable, shown_metrics, signed, span
from slim_eval.analysis.study import Study
from slim_eval.metrics import Basis, Metric
from slim_eval.schemes import find, in_order
from slim_eval.utils.redaction import redact

#: Points and rows that a chart draws at most; the rest is counted in words.
MAX_POINTS, MAX_DROPS, MAX_FRONTIERS = 600, 60, 20
_DEFAULT_X = (
    metrics.TPOT, metrics.THROUGHPUT, metrics.AMORTISED, metrics.J_PER_TOKEN, metrics.ENERGY, metrics.WEIGHTS,
    metrics.DISK,
)  # fmt: skip
_OUTLINED = (LENGTH, INVALID, EMULATED, INEXACT, SETTING)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "p": "pentagon"}
# Of schemes that no table has: names from imported files.
_FURTHER_COLOURS = ("#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666")
_FURTHER_SYMBOLS = ("diamond", "triangle-down", "star", "hexagon", "pentagon", "cross")
_GREY = "#808080"  # readable on white and on black
_Scope = tuple[Basis, str | None, bool]
#: The groups of the variants with a number of one scope, and the group of each by its place.
_Grouped = tuple[Groups, dict[int, str]]


class _Axis:
    """A metric that an axis may show, in the unit shown: a value and interval per variant, and the caveats on it."""

    def __init__(self, study: Study, metric: Metric) -> None:
        found = [variant.estimate(metric) for variant in study.variants]
        shown = [estimate and estimate.scaled(metric.scale) for estimate in found]
        ends = [(None, None) if each is None or each.interval is None else each.interval for each in shown]
        self.metric = metric
        self.values = [None if each is None else _short(each.value) for each in shown]
        self.lows, self.highs = [_short(low) for low, _ in ends], [_short(high) for _, high in ends]
        self.has_intervals = any(low is not None for low in self.lows)
        self.outlined: dict[int, list[Kind]] = {}
        for place, variant in enumerate(study.variants):
            marks = () if found[place] is None else study.marks(variant, metric)
            if kinds := [kind for kind in marks if kind in _OUTLINED]:
                self.outlined[place] = kinds
        # Places that take no part in a frontier; other outlined ones have another setting.
        self.unusable = {place for place, kinds in self.outlined.items() if LENGTH in kinds or INVALID in kinds}
        # The words for it in a note, and what its settings are settings of: metrics of one scope share their groups.
        self.kind = {Basis.SPEED: "speed", Basis.ENERGY: "energy"}.get(metric.basis, metric.label)
        own = metric.benchmark if metric.basis is Basis.OWN else metric.key if metric.basis is Basis.TASK else None
        self.scope: _Scope = (metric.basis, own, metric.per_run)


def trade_off(study: Study, comparison: ReportTable) -> dict[str, Any]:
    """The chart of two metrics; the comparison table has the numbers of a point as texts.

    Returns:
        ``figure``: Plotly's, with styles and without numbers; ``points``: the variants; ``axes``: metric key -> its
        numbers; ``pairs``: ``key|key`` -> frontiers and places in ``notes``; ``x`` and ``y``: the metrics shown first,
        None if there are not two.
    """
    import plotly.graph_objects as go

    axes = {metric.key: _Axis(study, metric) for metric in shown_metrics(study) if study.is_measured(metric)}
    pairs, notes = _pairs(study, list(axes.values()))
    lines = max((len(entry["fronts"]) for entry in pairs.values()), default=0)
    styles = _styles(variant.precision for variant in study.variants)
    traces = [
        go.Scatter(
            mode="lines", hoverinfo="skip", opacity=0.75,
            line={"color": _GREY, "width": 1.5, "dash": _DASHES[number % len(_DASHES)]},
        )
        for number in range(lines)
    ] + [
        go.Scatter(
            mode="markers+text", name=escape(precision, quote=False), hoverinfo="text", cliponaxis=False,
            customdata=[place for place, variant in enumerate(study.variants) if variant.precision == precision],
            textposition="top center", textfont={"size": 11}, marker=marker,
        )
        for precision, marker in styles.items()
    ]  # fmt: skip
    figure = go.Figure(traces, _layout(height=500, margin={"l": 50, "r": 24, "t": 30, "b": 50}))
    figure.update_xaxes(automargin=True, zeroline=False, title_standoff=8)
    figure.update_yaxes(automargin=True, zeroline=False, title_standoff=8)
    points = []
    groups = [places for name, *places in comparison.groups if name not in ("", "Pareto", "settings")]
    columns = [column for first, last in groups for column in range(first, last + 1)]
    for variant, row in zip(study.variants, comparison.rows, strict=True):
        numbers = []  # all that the table has, with the words of their caveats
        for header, field in ((comparison.headers[n], row[n]) for n in columns):
            marks = f"[{', '.join(mark.word for mark in field.marks)}]" if field.marks else ""
            if not field.absent:
                numbers.append((header, " ".join(filter(None, (field.text, field.plus_minus, marks)))))
        points.append({"name": variant.name, "precision": variant.precision, "numbers": numbers})
    embedded = {}
    for key, axis in axes.items():
        better = f", {axis.metric.better} is better" if axis.metric.better else ""
        embedded[key] = {
            "label": axis.metric.header, "title": escape(axis.metric.header + better, quote=False),
            "maximise": axis.metric.maximise, "values": axis.values,
            "lows": axis.lows if axis.has_intervals else None, "highs": axis.highs if axis.has_intervals else None,
            "outlined": list(axis.outlined),
        }  # fmt: skip
    x = next((metric.key for metric in _DEFAULT_X if metric.key in axes), None)
    accuracies = [metric for metric in study.task_metrics if metric.is_accuracy]
    first_y = (metrics.ACCURACY_MEAN, *accuracies, metrics.DISK, *(axis.metric for axis in axes.values()))
    y = next((metric.key for metric in first_y if metric.key in axes and metric.key != x), None)
    return {
        "figure": json.loads(figure.to_json()), "points": points, "axes": embedded, "pairs": pairs, "notes": notes,
        "x": x if len(axes) > 1 else None, "y": y, "max_points": MAX_POINTS,
    }  # fmt: skip


def _pairs(study: Study, axes: Sequence[_Axis]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The frontiers of each two metrics, ordered by the first, and places of the sentences under the chart; these."""
    # Per scope the groups of the variants, and the group of each place that was measured.
    groups: dict[_Scope, _Grouped] = {}
    for scope in dict.fromkeys(axis.scope for axis in axes):
        mine = [axis for axis in axes if axis.scope == scope]
        measured = [p for p in range(len(study.variants)) if any(axis.values[p] is not None for axis in mine)]
        made = comparable_groups([study.variants[p] for p in measured], [axis.metric for axis in mine])
        groups[scope] = (made, dict(zip(measured, made.labels, strict=True)))

    @cache
    def confounded(axis: _Axis, places: tuple[int, ...]) -> str | None:
        return confounding([study.variants[place] for place in places], [axis.metric])

    pairs: dict[str, dict[str, Any]] = {}
    notes: dict[str, int] = {}
    for a, b in combinations(axes, 2):
        points = {
            place: (x, y) for place, (x, y) in enumerate(zip(a.values, b.values, strict=True))
            if x is not None and y is not None
        }  # fmt: skip
        split = [
            axis for axis in {axis.scope: axis for axis in (a, b)}.values()
            if axis.metric.basis is not Basis.FILES and len({groups[axis.scope][1][p] for p in points}) > 1
        ]  # fmt: skip
        members: dict[str, list[int]] = {}
        for place in points:
            label = ", ".join(dict.fromkeys(groups[axis.scope][1][place] for axis in split))
            members.setdefault(label, []).append(place)
        obstacles: dict[str, None] = {}
        fronts: list[tuple[str, list[int]]] = []
        if a.metric.better is None or b.metric.better is None:
            obstacles["it needs two metrics with a known better direction"] = None
            members = {}
        for label, found in members.items():
            usable = [p for p in found if p not in a.unusable and p not in b.unusable]
            why = [confounded(axis, tuple(usable)) for axis in (a, b) if axis.metric.per_length]
            if any(why):
                obstacles["; ".join(filter(None, why))] = None
            elif usable:
                optimal = non_dominated([points[p] for p in usable], [a.metric.maximise, b.metric.maximise])
                on = [place for n, place in enumerate(usable) if optimal[n]]
                name = f"frontier: {label if len(label) < 60 else f'{label[:60]}…'}" if split else "frontier"
                fronts.append((escape(name, quote=False), sorted(on, key=lambda place: points[place])))
        texts = [*_facts(study, a, b, list(points), split, groups), *(f"No frontier: {why}." for why in obstacles)]
        if fronts:
            texts.append(
                "The frontier joins the best point values of all variants; where intervals overlap, which is better is "
                "inconclusive."
            )
        if {a.metric.basis, b.metric.basis} != {Basis.FILES} and not (a.has_intervals or b.has_intervals):
            texts.append("Neither metric has an interval in these results.")
        places = [notes.setdefault(text, len(notes)) for text in texts]
        pairs[f"{a.metric.key}|{b.metric.key}"] = {"fronts": fronts[:MAX_FRONTIERS], "notes": places}
    return pairs, list(notes)


def _facts(
    study: Study, a: _Axis, b: _Axis, places: Sequence[int], split: Sequence[_Axis], groups: Mapping[_Scope, _Grouped]
) -> Iterable[str]:
    """What the two metrics of a chart show: how many variants, in which settings of `split`, and what is outlined."""
    missing, drawn = len(study.variants) - len(places), set(places)
    yield f"{len(places)} variant{'' if len(places) == 1 else 's'} with both metrics" + (
        f"; {missing} without one of them {'is' if missing == 1 else 'are'} not drawn." if missing else "."
    )
    if len(places) > MAX_POINTS:
        yield f"At most {MAX_POINTS} points are drawn: all on a frontier, and an even selection of the others."
    if split:
        count = len({tuple(groups[axis.scope][1][p] for axis in split) for p in places})
        apart = "; ".join(f"{axis.kind}: {'; '.join(groups[axis.scope][0].differences)}" for axis in split)
        yield f"They were measured in {count} settings that are not compared with each other ({apart})."
    unknown = dict.fromkeys(
        axis.kind for axis in (a, b)
        if axis.metric.basis not in (Basis.FILES, Basis.LOADED) and not any(groups[axis.scope][0].settings)
    )  # fmt: skip
    if unknown and len(places) > 1:
        yield f"The settings of {' and '.join(unknown)} were not recorded, so comparability is unknown."
    marks = dict.fromkeys(mark for axis in (a, b) for p in axis.outlined if p in drawn for mark in axis.outlined[p])
    if marks:
        yield f"An outlined point is {' or '.join(mark.word for mark in marks)}: see the legend of the table."


def drops(study: Study) -> dict[str, Any]:
    """The chart of accuracy lost on the same items.

    Returns:
        ``figure``: Plotly's, one trace per precision, with the number of the row as ``customdata``; ``rows``: of each
        the place of its variant, its task, its label and its verdict; ``note``: how to read it.
    """
    import plotly.graph_objects as go

    rows: list[dict[str, Any]] = []
    points: dict[str, list[dict[str, Any]]] = {}
    margins: set[float] = set()
    edges: list[float] = []
    for place, variant in enumerate(study.variants):
        for pair in study.paired.get(variant.directory, ()):
            drop = pair.drop_pp
            if drop is None or pair.task not in study.tasks:
                continue
            name = escape(f"{variant.label}, {pair.task}", quote=False)
            verdict = VERDICTS[pair.verdict].word if pair.verdict in VERDICTS else "no verdict"
            low, high = pair.interval_pp or (drop, drop)
            lines = [
                f"<b>{name}</b>",
                f"drop {signed(drop)} pp ({span(pair.interval_pp)})",
                f"{verdict}, margin {pair.margin_pp:g} pp"
                + ("" if pair.num_items is None else f", {pair.num_items:,} items"),
                f"unpaired, from {pair.interval_from}" if pair.unpaired else "",
                f"needs about {pair.items_needed:,} items" if pair.items_needed is not None else "",
                f"{pair.flips * 100:.1f} % of the answers flipped" if pair.flips is not None else "",
                f"p = {pair.p_value_holm:.2g}, corrected" if pair.p_value_holm is not None else "",
            ]
            label = f"{name}<br><b>{verdict}</b>"
            points.setdefault(variant.precision, []).append({
                "customdata": len(rows), "y": label, "x": _short(drop), "above": _short(high - drop),
                "below": _short(drop - low), "hovertext": "<br>".join(filter(None, lines)),
            })  # fmt: skip
            rows.append({"place": place, "task": pair.task, "label": label, "verdict": verdict})
            margins |= {pair.margin_pp} if pair.margin_pp is not None else set()
            edges += [low, high]
    figure = go.Figure(layout=_layout(margin={"l": 20, "r": 20, "t": 30, "b": 50}))
    for precision, marker in _styles(points).items():
        columns = {key: [point[key] for point in points[precision]] for key in points[precision][0]}
        ends = {"array": columns.pop("above"), "arrayminus": columns.pop("below")}
        bars = {"type": "data", "symmetric": False, "color": marker["color"], "thickness": 1.6, "width": 4, **ends}
        name = escape(precision, quote=False)
        figure.add_scatter(mode="markers", name=name, hoverinfo="text", error_x=bars, marker=marker, **columns)
    if rows:
        edges += [end for margin in margins for end in (margin, -margin)]
        room = 0.08 * (max(edges) - min(edges) or 1)
        low, high = min(edges) - room, max(edges) + room
        figure.update_xaxes(
            title="accuracy lost against the baseline, pp (right is worse)", title_standoff=8, range=[low, high],
            zeroline=True, zerolinewidth=1.5, automargin=True,
        )  # fmt: skip
        for margin in sorted(margins)[:1]:
            band = {"x0": low, "x1": margin, "fillcolor": "rgba(0,140,90,.12)", "line_width": 0}
            figure.add_vrect(**band, layer="below")
            figure.add_vline(margin, line={"color": _GREY, "width": 1, "dash": "dash"}, layer="below")
    figure.update_yaxes(type="category", automargin=True, showgrid=False, zeroline=False)
    note = (
        f"Dashed: the margin of {' or '.join(f'{margin:g}' for margin in sorted(margins))} pp. An interval within the "
        "tinted part is equivalent; one right of 0 and not within it is degraded, if the corrected p-value agrees; any "
        "other is inconclusive."
    )
    return {"figure": json.loads(figure.to_json()), "rows": rows, "note": note, "max_rows": MAX_DROPS}


class PluginFigure(NamedTuple):
    """A figure of a plugin: a chart or an image."""

    name: str  # of its files
    title: str
    chart: dict[str, Any] | None = None  # Plotly's
    image: str | None = None  # a PNG as a data URL
    table: str | None = None  # the numbers of the image as CSV, as a data URL


def plugin_figures(study: Study) -> list[PluginFigure]:
    """The figures of plugins that have data.

    Those of slim-eval itself are left out, as the charts above have their numbers.
    """
    made: list[PluginFigure] = []
    for figure in (figure for figure in FIGURES.values() if figure.in_report):
        if figure.chart is not None:
            chart = figure.chart(study)
            if chart is not None:
                made.append(PluginFigure(figure.name, figure.title, chart=json.loads(chart.to_json())))
        else:
            from slim_eval.analysis.figures.drawing import png  # with matplotlib, which few reports need

            drawn = png(figure, study)
            if drawn is not None:
                image, table = drawn
                # Redacted here: base64 hides from the redaction of the page what it must replace.
                url = _data_url("text/csv", redact(table).encode()) if table else None
                made.append(PluginFigure(figure.name, figure.title, None, _data_url("image/png", image), url))
    return made


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _styles(precisions: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Precision -> Plotly's marker; those without a table entry take the further colours and symbols in turn."""
    colours, symbols = cycle(_FURTHER_COLOURS), cycle(_FURTHER_SYMBOLS)
    found = {}
    for name in in_order(precisions):
        scheme = find(name)
        colour = scheme.colour if scheme else next(colours)
        symbol = _SYMBOLS.get(scheme.marker, "diamond") if scheme else next(symbols)
        found[name] = {"color": colour, "symbol": symbol, "size": 11, "line": {"color": _GREY, "width": 1}}
    return found


def _layout(**changes: Any) -> Any:
    """The layout of both charts; an exported image has dark text on white, on the page the style sheet decides."""
    import plotly.graph_objects as go

    axis = {"gridcolor": "#e4e7eb", "linecolor": "#e4e7eb"}
    return go.Layout(
        template=go.layout.Template(), paper_bgcolor="white", plot_bgcolor="rgba(0,0,0,0)", hovermode="closest",
        font={"color": "#1d2329", "size": 13, "family": "system-ui, sans-serif"}, xaxis=axis, yaxis=axis,
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"size": 12}},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"}, **changes,
    )  # fmt: skip


def _short(value: float | None) -> float | None:
    """As many digits as a chart can show."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
