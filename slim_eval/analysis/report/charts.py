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
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import combinations
from typing import Any

from slim_eval.analysis.caveats import EMULATED, INVALID, LENGTH, SETTING, Kind
from slim_eval.analysis.comparability import Groups, comparable_groups, confounding
from slim_eval.analysis.figures.figure import FIGURES
from slim_eval.analysis.pareto.dominance import non_dominated
from slim_eval.analysis.report.report_tables import VERDICTS, ReportTable, shown_metrics, signed
from slim_eval.analysis.study import Study
from slim_eval.metrics import (
    ACCURACY_MEAN,
    AMORTISED,
    DISK,
    ENERGY,
    J_PER_TOKEN,
    THROUGHPUT,
    TPOT,
    WEIGHTS,
    Basis,
    Metric,
)
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Variant
from slim_eval.schemes import SCHEMES, in_order

#: Points and rows that a chart draws at most; the rest is counted in words.
MAX_POINTS, MAX_DROPS, MAX_FRONTIERS = 600, 60, 20
_DEFAULT_X = (TPOT, THROUGHPUT, AMORTISED, J_PER_TOKEN, ENERGY, WEIGHTS, DISK)
_OUTLINED = (LENGTH, INVALID, EMULATED, SETTING)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "p": "pentagon"}
# Of schemes that no table has: names from imported files.
_FURTHER_COLOURS = ("#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666")
_FURTHER_SYMBOLS = ("diamond", "triangle-down", "star", "hexagon", "pentagon", "cross")
_GREY = "#808080"  # readable on white and on black
_DIGITS = 6


@dataclass(frozen=True)
class _Axis:
    """A metric that an axis may show: a value and interval per variant in the unit shown, and the caveats on it."""

    metric: Metric
    variants: Sequence[Variant]
    values: tuple[float | None, ...]
    lows: tuple[float | None, ...]
    highs: tuple[float | None, ...]
    unusable: frozenset[int]  # places that take no part in a frontier; other outlined ones have another setting
    outlined: Mapping[int, tuple[Kind, ...]]

    @classmethod
    def of(cls, study: Study, metric: Metric) -> _Axis:
        """The axis of a metric."""
        found = [(variant, variant.estimate(metric)) for variant in study.variants]
        shown = [estimate and estimate.scaled(metric.scale) for _, estimate in found]
        marks = tuple(() if estimate is None else study.marks(variant, metric) for variant, estimate in found)
        outlined = {place: tuple(kind for kind in kinds if kind in _OUTLINED) for place, kinds in enumerate(marks)}
        ends = [(None, None) if each is None or each.interval is None else each.interval for each in shown]
        return cls(
            metric,
            study.variants,
            tuple(None if each is None else _short(each.value) for each in shown),
            tuple(_short(low) for low, _ in ends),
            tuple(_short(high) for _, high in ends),
            frozenset(place for place, kinds in outlined.items() if LENGTH in kinds or INVALID in kinds),
            {place: kinds for place, kinds in outlined.items() if kinds},
        )

    @property
    def has_intervals(self) -> bool:
        """Whether any variant has one."""
        return any(low is not None for low in self.lows)

    @cached_property
    def settings_of(self) -> str:
        """What the settings of the metric are settings of; metrics with the same answer share their groups."""
        if self.metric.basis is Basis.TASK:
            return f"task {self.metric.key}"
        own = self.metric.benchmark if self.metric.basis is Basis.OWN else None
        return f"{self.metric.basis.value} {own} {self.metric.per_run}"

    @property
    def kind(self) -> str:
        """The words for it in a note."""
        return {Basis.SPEED: "speed", Basis.ENERGY: "energy"}.get(self.metric.basis, self.metric.label)

    def embedded(self) -> dict[str, Any]:
        """What the script needs."""
        better = {"higher": ", higher is better", "lower": ", lower is better", None: ""}[self.metric.better]
        return {
            "label": self.metric.header, "title": escape(self.metric.header + better, quote=False),
            "maximise": self.metric.maximise, "values": self.values,
            "lows": self.lows if self.has_intervals else None, "highs": self.highs if self.has_intervals else None,
            "outlined": list(self.outlined),
        }  # fmt: skip


def trade_off(study: Study, comparison: ReportTable) -> dict[str, Any]:
    """The chart of two metrics.

    Args:
        study: What was measured.
        comparison: The comparison table, from which the numbers of a point are taken as texts.

    Returns:
        ``figure``: Plotly's, with styles and without numbers; ``points``: the variants; ``axes``: metric key -> its
        numbers; ``pairs``: ``key|key`` -> frontiers and places in ``notes``; ``x`` and ``y``: the metrics shown first,
        None if there are not two.
    """
    import plotly.graph_objects as go

    axes = {m.key: _Axis.of(study, m) for m in shown_metrics(study) if study.is_measured(m)}
    pairs = _Pairs(study, list(axes.values()))
    found = {f"{a.metric.key}|{b.metric.key}": pairs.pair(a, b) for a, b in combinations(axes.values(), 2)}
    lines = max((len(entry["fronts"]) for entry in found.values()), default=0)
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
            textposition="top center", textfont={"size": 11}, marker=_marker(colour, symbol),
        )
        for precision, (colour, symbol) in styles.items()
    ]  # fmt: skip
    figure = go.Figure(traces, _layout(height=500, margin={"l": 50, "r": 24, "t": 30, "b": 50}))
    figure.update_xaxes(automargin=True, zeroline=False, title_standoff=8)
    figure.update_yaxes(automargin=True, zeroline=False, title_standoff=8)
    first_y = (ACCURACY_MEAN, *study.task_metrics, DISK, *(axis.metric for axis in axes.values()))
    x = next((metric.key for metric in _DEFAULT_X if metric.key in axes), None)
    return {
        "figure": json.loads(figure.to_json()),
        "points": [
            {"name": variant.name, "precision": variant.precision, "numbers": _numbers(comparison, place)}
            for place, variant in enumerate(study.variants)
        ],
        "axes": {key: axis.embedded() for key, axis in axes.items()},
        "pairs": found,
        "notes": list(pairs.notes),
        "x": x if len(axes) > 1 else None,
        "y": next((metric.key for metric in first_y if metric.key in axes and metric.key != x), None),
        "max_points": MAX_POINTS,
    }  # fmt: skip


@dataclass(frozen=True)
class _Pairs:
    """Finds the frontiers of pairs of metrics; what pairs share is worked out once."""

    study: Study
    axes: Sequence[_Axis]

    @cached_property
    def notes(self) -> dict[str, int]:
        """Sentences of all pairs, each once, with their places."""
        return {}

    @cached_property
    def groups(self) -> dict[str, tuple[Groups, dict[int, str]]]:
        """Per kind of settings the groups of the variants, and the group of each place that was measured."""
        kinds: dict[str, list[_Axis]] = {}
        for axis in self.axes:
            kinds.setdefault(axis.settings_of, []).append(axis)
        found = {}
        for kind, members in kinds.items():
            places = [p for p in range(len(self.study.variants)) if any(axis.values[p] is not None for axis in members)]
            made = comparable_groups([self.study.variants[p] for p in places], [axis.metric for axis in members])
            found[kind] = (made, dict(zip(places, made.labels, strict=True)))
        return found

    @cached_property
    def _confounding(self) -> dict[tuple[str, tuple[int, ...]], str | None]:
        return {}

    def pair(self, a: _Axis, b: _Axis) -> dict[str, Any]:
        """The frontiers of two metrics, ordered by the first, and the sentences under the chart, by their places."""
        points: dict[int, tuple[float, float]] = {
            place: (x, y) for place, (x, y) in enumerate(zip(a.values, b.values, strict=True))
            if x is not None and y is not None
        }  # fmt: skip
        places = list(points)
        kinds = {axis.settings_of: axis for axis in (a, b) if axis.metric.basis is not Basis.FILES}
        split = {k: axis for k, axis in kinds.items() if len({self.groups[k][1][p] for p in places}) > 1}
        members: dict[str, list[int]] = {}
        for place in places:
            members.setdefault(", ".join(dict.fromkeys(self.groups[k][1][place] for k in split)), []).append(place)
        obstacles: dict[str, None] = {}
        fronts: list[tuple[str, list[int]]] = []
        if a.metric.better is None or b.metric.better is None:
            obstacles["it needs two metrics with a known better direction"] = None
            members = {}
        for label, found in members.items():
            usable = [p for p in found if p not in a.unusable and p not in b.unusable]
            why = self._confounded(a, b, usable)
            if why:
                obstacles[why] = None
            elif usable:
                optimal = non_dominated([points[p] for p in usable], [a.metric.maximise, b.metric.maximise])
                on = [place for n, place in enumerate(usable) if optimal[n]]
                name = f"frontier: {label if len(label) < 60 else f'{label[:60]}…'}" if split else "frontier"
                fronts.append((escape(name, quote=False), sorted(on, key=lambda place: points[place])))
        texts = [*self._facts(a, b, places, split), *(f"No frontier: {why}." for why in obstacles)]
        if fronts:
            texts.append(
                "The frontier joins the best point values of all variants; where intervals overlap, which is better is "
                "inconclusive."
            )
        if kinds and not (a.has_intervals or b.has_intervals):
            texts.append("Neither metric has an interval in these results.")
        return {
            "fronts": fronts[:MAX_FRONTIERS],
            "notes": [self.notes.setdefault(text, len(self.notes)) for text in texts],
        }

    def _facts(self, a: _Axis, b: _Axis, places: Sequence[int], split: dict[str, _Axis]) -> Iterable[str]:
        missing, drawn = len(self.study.variants) - len(places), set(places)
        yield f"{len(places)} variant{'' if len(places) == 1 else 's'} with both metrics" + (
            f"; {missing} without one of them {'is' if missing == 1 else 'are'} not drawn." if missing else "."
        )
        if len(places) > MAX_POINTS:
            yield f"At most {MAX_POINTS} points are drawn: all on a frontier, and an even selection of the others."
        if split:
            count = len({tuple(self.groups[k][1][p] for k in split) for p in places})
            apart = "; ".join(f"{axis.kind}: {'; '.join(self.groups[k][0].differences)}" for k, axis in split.items())
            yield f"They were measured in {count} settings that are not compared with each other ({apart})."
        unknown = dict.fromkeys(
            axis.kind for axis in (a, b)
            if axis.metric.basis not in (Basis.FILES, Basis.LOADED)
            and not any(self.groups[axis.settings_of][0].settings)
        )  # fmt: skip
        if unknown and len(places) > 1:
            yield f"The settings of {' and '.join(unknown)} were not recorded, so comparability is unknown."
        marks = dict.fromkeys(mark for axis in (a, b) for p in axis.outlined if p in drawn for mark in axis.outlined[p])
        if marks:
            yield f"An outlined point is {' or '.join(mark.word for mark in marks)}: see the legend of the table."

    def _confounded(self, a: _Axis, b: _Axis, places: Sequence[int]) -> str | None:
        found = []
        for axis in (a, b):
            if axis.metric.per_length:
                key = (axis.metric.key, tuple(places))
                if key not in self._confounding:
                    chosen = [self.study.variants[place] for place in places]
                    self._confounding[key] = confounding(chosen, [axis.metric])
                found.append(self._confounding[key])
        return "; ".join(filter(None, found)) or None


def drops(study: Study) -> dict[str, Any]:
    """The chart of accuracy lost on the same items.

    Returns:
        ``figure``: Plotly's, one trace per precision, with the number of the row as ``customdata``; ``rows``: of each
        the place of its variant, its task and its label; ``note``: how to read it.
    """
    import plotly.graph_objects as go

    found = [
        (place, variant, pair, pair.drop_pp)
        for place, variant in enumerate(study.variants)
        for pair in study.paired.get(variant.directory, ())
        if pair.drop_pp is not None and pair.task in study.tasks
    ]
    labels = [
        escape(f"{variant.label}, {pair.task}", quote=False) + f"<br><b>{_verdict(pair)}</b>"
        for _, variant, pair, _ in found
    ]
    figure = go.Figure(layout=_layout(margin={"l": 20, "r": 20, "t": 30, "b": 50}))
    for precision, (colour, symbol) in _styles(variant.precision for _, variant, *_ in found).items():
        mine = [n for n, (_, variant, *_) in enumerate(found) if variant.precision == precision]
        ends = [found[n][2].interval_pp or (found[n][3], found[n][3]) for n in mine]
        values = [found[n][3] for n in mine]
        figure.add_scatter(
            mode="markers", name=escape(precision, quote=False), customdata=mine, y=[labels[n] for n in mine],
            x=[_short(value) for value in values], hoverinfo="text",
            hovertext=[_drop_hover(found[n][1], found[n][2], found[n][3]) for n in mine],
            error_x={
                "type": "data", "symmetric": False, "color": colour, "thickness": 1.6, "width": 4,
                "array": [_short(high - value) for (_, high), value in zip(ends, values, strict=True)],
                "arrayminus": [_short(value - low) for (low, _), value in zip(ends, values, strict=True)],
            },
            marker=_marker(colour, symbol),
        )  # fmt: skip
    margins = sorted({pair.margin_pp for _, _, pair, _ in found if pair.margin_pp is not None})
    if found:
        edges = [*margins, *(-margin for margin in margins)]
        edges += [end for _, _, pair, drop in found for end in (pair.interval_pp or (drop,))]
        room = 0.08 * (max(edges) - min(edges) or 1)
        low, high = min(edges) - room, max(edges) + room
        figure.update_xaxes(
            title="accuracy lost against the baseline, pp (right is worse)", title_standoff=8, range=[low, high],
            zeroline=True, zerolinewidth=1.5, automargin=True,
        )  # fmt: skip
        for margin in margins[:1]:
            band = {"x0": low, "x1": margin, "fillcolor": "rgba(0,140,90,.12)", "line_width": 0}
            figure.add_vrect(**band, layer="below")
            figure.add_vline(margin, line={"color": _GREY, "width": 1, "dash": "dash"}, layer="below")
    figure.update_yaxes(type="category", automargin=True, showgrid=False, zeroline=False)
    return {
        "figure": json.loads(figure.to_json()),
        "rows": [
            {"place": place, "task": pair.task, "label": label}
            for (place, _, pair, _), label in zip(found, labels, strict=True)
        ],
        "note": f"Dashed: the margin of {' or '.join(f'{margin:g}' for margin in margins)} pp. An interval within the "
        "tinted part is equivalent; one right of 0 and not within it is degraded, if the corrected p-value agrees; any "
        "other is inconclusive.",
        "max_rows": MAX_DROPS,
    }  # fmt: skip


@dataclass(frozen=True)
class PluginFigure:
    """A figure that a plugin registered: Plotly's as a dictionary, or a PNG as a data URL."""

    title: str
    chart: dict[str, Any] | None
    image: str | None


def plugin_figures(study: Study) -> list[PluginFigure]:
    """The figures of plugins that have data; slim-eval's own are left out, as the charts above have their numbers."""
    made = []
    for figure in FIGURES.values():
        if not figure.in_report:
            continue
        if figure.chart is not None:
            chart = figure.chart(study)
            made += [] if chart is None else [PluginFigure(figure.title, json.loads(chart.to_json()), None)]
        else:
            from slim_eval.analysis.figures.drawing import png  # with matplotlib, which few reports need

            content = png(figure, study)
            if content is not None:
                image = f"data:image/png;base64,{base64.b64encode(content).decode()}"
                made.append(PluginFigure(figure.title, None, image))
    return made


def _styles(precisions: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Precision -> colour and symbol; those without a table entry take the further ones in turn."""
    found: dict[str, tuple[str, str]] = {}
    further = 0
    for name in in_order(precisions):
        if name in SCHEMES:
            found[name] = (SCHEMES[name].colour, _SYMBOLS.get(SCHEMES[name].marker, "diamond"))
        else:
            colour = _FURTHER_COLOURS[further % len(_FURTHER_COLOURS)]
            found[name] = (colour, _FURTHER_SYMBOLS[further % len(_FURTHER_SYMBOLS)])
            further += 1
    return found


def _marker(colour: str, symbol: str) -> dict[str, Any]:
    return {"color": colour, "symbol": symbol, "size": 11, "line": {"color": _GREY, "width": 1}}


def _layout(**changes: Any) -> Any:
    """The layout of both charts; an exported image has dark text on white, on the page the style sheet decides."""
    import plotly.graph_objects as go

    return go.Layout(
        template=go.layout.Template(), paper_bgcolor="white", plot_bgcolor="rgba(0,0,0,0)", hovermode="closest",
        font={"color": "#1d2329", "size": 13, "family": "system-ui, sans-serif"},
        xaxis={"gridcolor": "#e4e7eb", "linecolor": "#e4e7eb"}, yaxis={"gridcolor": "#e4e7eb", "linecolor": "#e4e7eb"},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"size": 12}},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"}, **changes,
    )  # fmt: skip


def _numbers(comparison: ReportTable, place: int) -> list[tuple[str, str]]:
    """All numbers of a variant as they are in the table, with the words of their caveats."""
    made = []
    for group in comparison.groups:
        for column in range(group.first, group.last + 1) if group.name not in ("", "Pareto", "settings") else ():
            field = comparison.rows[place][column]
            if not field.absent:
                marks = f"[{', '.join(mark.word for mark in field.marks)}]" if field.marks else ""
                made.append((comparison.headers[column], " ".join(filter(None, (field.text, field.plus_minus, marks)))))
    return made


def _verdict(pair: PairedTask) -> str:
    return VERDICTS[pair.verdict].word if pair.verdict in VERDICTS else "no verdict"


def _drop_hover(variant: Variant, pair: PairedTask, drop_pp: float) -> str:
    ends = pair.interval_pp
    interval = "no interval" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"
    lines = [
        f"<b>{escape(f'{variant.label}, {pair.task}', quote=False)}</b>",
        f"drop {signed(drop_pp)} pp ({interval})",
        f"{_verdict(pair)}, margin {pair.margin_pp:g} pp, {pair.num_items:,} items",
        f"needs about {pair.items_needed:,} items" if pair.items_needed is not None else "",
        f"{pair.flips * 100:.1f} % of the answers flipped" if pair.flips is not None else "",
        f"p = {pair.p_value_holm:.2g}, corrected" if pair.p_value_holm is not None else "",
    ]
    return "<br>".join(filter(None, lines))


def _short(value: float | None) -> float | None:
    """As many digits as a chart can show."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")
