"""Figures of servers under load: a curve per variant with its 95 % band, and where the curves of variants cross."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.artist import Artist
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from slim_eval.analysis.crossover import MetricCrossover, crossovers_of
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.figure import FIGURES, Figure
from slim_eval.analysis.figures.layout import hint_of, open_page, size_of
from slim_eval.analysis.figures.numbers import ends
from slim_eval.analysis.loads import asked
from slim_eval.analysis.study import Study
from slim_eval.metrics import GOODPUT, J_PER_TOKEN, THROUGHPUT, TPOT, TTFT, Metric
from slim_eval.results.records import ServingLevel
from slim_eval.results.variants import Estimate, Variant
from slim_eval.utils import number

_MAX_PANELS = 12
_MAX_ROWS = 40
_SIZE = (3.6, 2.5)
_BAND = 0.18


@dataclass(frozen=True)
class _Place:
    """A variant at one of its loads."""

    level: ServingLevel
    load: float
    view: Variant


def _places(variant: Variant, *, rates: bool) -> list[_Place]:
    """A variant at its loads of one kind, the lowest first; those on the way down again are left out."""
    found = []
    for level in variant.serving.levels if variant.serving is not None else ():
        view = variant.at(level)
        rate, concurrency = asked(view)
        size = rate if rates else (concurrency if rate is None else None)
        if size is not None and level.metadata.get("direction") != "down":
            found.append(_Place(level, size, view))
    return sorted(found, key=lambda place: place.load)


def _by_model(study: Study) -> dict[tuple[str, bool], list[tuple[Variant, list[_Place]]]]:
    """Model and kind of load -> its variants at two loads or more."""
    found: dict[tuple[str, bool], list[tuple[Variant, list[_Place]]]] = {}
    for variant in study.variants:
        for rates in (False, True):
            places = _places(variant, rates=rates)
            if len(places) > 1:
                found.setdefault((variant.base_model, rates), []).append((variant, places))
    return dict(list(found.items())[:_MAX_PANELS])


def _unit(rates: bool) -> str:
    return "requests per second" if rates else "concurrent requests"


def _curves(
    title: str, study: Study, y: Sequence[Metric], x: Metric | None, notes: Sequence[str] = ()
) -> MplFigure | None:
    """One panel per model and metric; over the load, or over another metric."""
    panels = []
    for (model, rates), members in _by_model(study).items():
        for metric in y:
            drawn = [
                (variant, points) for variant, places in members if len(points := _points(places, metric, x)) > 1
            ]  # fmt: skip
            if drawn:
                panels.append((model, rates, metric, drawn))
    if not panels:
        return None
    looks = style.looks(variant.precision for *_, drawn in panels for variant, _ in drawn)
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=name)
        for name, (colour, marker) in looks.items()
    ]
    captions = [(f"{model.rsplit('/', 1)[-1]}: {metric.title}", hint_of(metric)) for model, _, metric, _ in panels]
    columns = min(len(panels), 2)
    band = "Band: 95 % interval. Hollow: the level is invalid (saturated, or the client or the host was the limit)."
    numbers = [
        {"model": variant.name, "precision": variant.precision, "load": point.load, "unit of the load": _unit(rates),
         **({} if x is None else {x.header: point.x}), "metric": metric.header, "value": point.y, **ends(point.ends),
         "valid": point.valid}
        for _, rates, metric, drawn in panels for variant, points in drawn for point in points
    ]  # fmt: skip
    figure, axes_list = open_page(
        title, handles, (band, *notes), captions, columns, _SIZE, left=0.75, gap=0.85, right=0.25, head=0.35, foot=0.5,
        numbers=numbers,
    )  # fmt: skip
    for axes, (_, rates, metric, drawn) in zip(axes_list, panels, strict=True):
        for variant, points in drawn:
            colour, marker = looks[variant.precision]
            xs, ys = [point.x for point in points], [point.y for point in points]
            axes.plot(xs, ys, color=colour, linewidth=1.4, zorder=3, gid=f"{variant.name}|{variant.precision}")
            for point in points:
                face = colour if point.valid else "white"
                axes.plot(
                    point.x, point.y, marker=marker, markersize=4.5, color=colour, markerfacecolor=face, zorder=4
                )  # fmt: skip
                if x is not None:
                    axes.annotate(
                        f"{point.load:g}", (point.x, point.y), xytext=(3, 4), textcoords="offset points",
                        fontsize=style.SMALL_SIZE - 1, color=style.MUTED,
                    )  # fmt: skip
            known = [point for point in points if point.ends is not None]
            if len(known) > 1:
                axes.fill_between(
                    [point.x for point in known], [point.ends[0] for point in known if point.ends],
                    [point.ends[1] for point in known if point.ends], color=colour, alpha=_BAND, linewidth=0, zorder=2,
                )  # fmt: skip
        if x is None:
            axes.set_xscale("log", base=2)
            ticks = sorted({point.x for _, points in drawn for point in points})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(_unit(rates) if x is None else x.header)
        axes.set_ylabel(metric.header)
        axes.set_ylim(bottom=0)
        axes.grid(True)
    return figure


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    ends: tuple[float, float] | None
    load: float
    valid: bool


def _points(places: Iterable[_Place], y: Metric, x: Metric | None) -> list[_Point]:
    found = []
    for place in places:
        up = place.view.estimate(y)
        across: Estimate | None = Estimate(place.load) if x is None else place.view.estimate(x)
        if up is None or across is None:
            continue
        shown = up.scaled(y.scale)
        across = across if x is None else across.scaled(x.scale)
        found.append(_Point(across.value, shown.value, shown.interval, place.load, place.level.valid is not False))
    return found


def _latency_throughput(title: str, study: Study) -> MplFigure | None:
    note = "Small numbers: the load, as requests in flight or per second."
    return _curves(title, study, (TPOT, TTFT), THROUGHPUT, (note,))


def _over_load(metric: Metric) -> Callable[[str, Study], MplFigure | None]:
    def draw(title: str, study: Study) -> MplFigure | None:
        return _curves(title, study, (metric,), None)

    return draw


def crossover_rows(study: Study) -> list[tuple[str, MetricCrossover]]:
    """Every metric of each variant against its baseline: the name of the variant, and where they cross."""
    found: list[tuple[str, MetricCrossover]] = []
    for variant in study.variants:
        base = study.baseline(variant)
        if base is not None and base is not variant and len(found) < _MAX_ROWS:
            found += [(f"{variant.label} against {base.precision}", each) for each in crossovers_of(base, variant)]
    return found[:_MAX_ROWS]


def _crossing_numbers(words: str, each: MetricCrossover) -> Iterable[dict[str, object]]:
    """Who is better at each load, then the crossovers."""
    names = {"B": words.split(" against ")[0], "A": words.rsplit(" ", 1)[-1], None: "no difference seen"}
    head = {"variants": words, "metric": each.metric.header}
    for load, better in zip(each.loads, each.better, strict=True):
        yield {**head, "load": load, "unit of the load": each.unit, "better": names[better]}
    for crossing in each.crossings:
        span = ends((crossing.interval.low, crossing.interval.high))
        yield {**head, "load": crossing.load, "unit of the load": each.unit, "better": "crossover", **span}


def _crossover_map(title: str, study: Study) -> MplFigure | None:
    """Each metric as a row: who is better at which load, in the colour of the scheme, and the crossover."""
    rows = crossover_rows(study)
    if not rows:
        return None
    precisions = [variant.precision for variant in study.variants]
    looks = style.looks(precisions)
    handles: list[Artist] = [
        Line2D([], [], linestyle="none", marker="s", color=looks[name][0], markersize=6, label=f"{name} better")
        for name in looks
        if any(name in words.replace(" against ", " ").split() for words, _ in rows)
    ]
    handles += [
        Line2D([], [], linestyle="none", marker="s", color=style.GRID, markersize=6, label="no difference seen"),
        Line2D([], [], color=style.TEXT, marker="|", markersize=9, linewidth=1.6, label="crossover, 95 %"),
    ]
    labels = [f"{words}: {each.metric.label}" for words, each in rows]
    left = 0.2 + max(size_of(label, style.SMALL_SIZE)[0] for label in labels)
    notes = [
        "Squares: a load at which one is better with confidence. A crossover is named only between two such loads."
    ]
    figure, (axes,) = open_page(
        title, handles, notes, [("", "")], 1, (4.4, 0.24 * len(rows) + 0.2), left=left, gap=0, right=0.9, head=0.1,
        foot=0.5, numbers=[row for words, each in rows for row in _crossing_numbers(words, each)],
    )  # fmt: skip
    for place, (words, each) in enumerate(rows):
        y = len(rows) - 1 - place
        other, base = words.split(" against ")[0].split()[-1], words.rsplit(" ", 1)[-1]
        colours = {"A": looks[base][0], "B": looks.get(other, (style.MUTED, ""))[0], None: style.GRID}
        for load, better in zip(each.loads, each.better, strict=True):
            axes.plot(load, y, marker="s", markersize=6, color=colours[better], linestyle="none", zorder=2)
        for crossing in each.crossings:
            ends = [crossing.interval.low, crossing.interval.high]
            axes.plot(ends, [y, y], color=style.TEXT, linewidth=1.6, zorder=3)
            axes.plot(crossing.load, y, marker="|", markersize=10, markeredgewidth=1.6, color=style.TEXT, zorder=4)
        text = ", ".join(number(crossing.load) for crossing in each.crossings) or "none"
        axes.annotate(
            text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=style.SMALL_SIZE,
            color=style.TEXT,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), labels[::-1])
    axes.set_xscale("log", base=2)
    ticks = sorted({load for _, each in rows for load in each.loads})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(" or ".join(dict.fromkeys(each.unit for _, each in rows)))
    axes.grid(True, axis="x")
    return figure


for _name, _title, _draw in (
    ("latency_throughput", "Latency against throughput under load: right and down is better", _latency_throughput),
    ("goodput_by_load", "Goodput by load: higher is better", _over_load(GOODPUT)),
    ("energy_by_load", "Energy per output token by load: lower is better", _over_load(J_PER_TOKEN)),
    ("crossover_map", "Who is better at which load, and where one overtakes the other", _crossover_map),
):
    FIGURES.register(Figure(_name, _title, partial(_draw, _title)))
