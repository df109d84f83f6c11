"""Figures of bars: one row per variant, one panel per metric. A text replaces a bar without a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from slim_eval.analysis.caveats import MARKS, Kind
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.layout import (
    NOT_COMPARABLE,
    NOT_MEASURED,
    SUMMARY_SIGN,
    doubtful,
    heading,
    hint_of,
)
from slim_eval.analysis.figures.rowchart import (
    HATCH,
    RowChart,
    RowPanel,
    Rows,
    at_right,
    beside,
    by_name,
    scale,
    widest,
)
from slim_eval.analysis.impact import SPEEDUPS
from slim_eval.analysis.study import Study
from slim_eval.metrics import (
    AMORTISED,
    DISK,
    E2E,
    ENERGIES,
    ENERGY,
    ENERGY_NET,
    J_PER_REQUEST,
    KV_CACHE,
    METRICS,
    PEAK_MEMORY,
    POWER,
    THROUGHPUT,
    TPOT,
    TTFT,
    WEIGHTS,
    Basis,
    Metric,
)
from slim_eval.results.variants import Estimate, Variant
from slim_eval.utils import number

WHISKERS = "Whiskers: 95 % interval."
NOT_COMPARED = (
    "not comparable: measured with different settings from the baseline, see not_comparable in quantization_impact.csv."
)
_RESERVES = (
    "vLLM reserves a fixed share of the device for weights and KV cache: its peak does not show what quantization "
    "saves. The weights do."
)
_AMORTISED = "Amortised latency: wall time of a batch / batch size, not per-request latency."


@dataclass(frozen=True)
class Bar:
    """One variant in one panel, in the panel's unit.

    Attributes:
        estimate: Value and ends of its whiskers; None if there is no value.
        marks: Kinds of caveat that concern it.
        absent: Text in place of a missing value.
        tick: A second value, drawn as a short line across the bar.
    """

    estimate: Estimate | None
    marks: frozenset[Kind] = frozenset()
    absent: str = NOT_MEASURED
    tick: float | None = None

    @property
    def reach(self) -> tuple[float, float]:
        """Least and greatest value that is drawn; 0 belongs to every bar."""
        found = [0.0] if self.tick is None else [0.0, self.tick]
        if self.estimate is not None:
            found += [self.estimate.value, *(self.estimate.interval or ())]
        return min(found), max(found)


@dataclass(frozen=True, kw_only=True)
class BarPanel(RowPanel):
    """Bars from 0.

    Attributes:
        bars: In the order of the rows.
        limit: Upper end of the scale, for shares; None for that of the data.
        reference: Where a dashed line is, for ratios.
        signed: Values may be below 0; the numbers are then in a column at the right edge.
    """

    bars: Sequence[Bar]
    limit: float | None = None
    reference: float | None = None
    signed: bool = False
    hatches: ClassVar[bool] = True

    def marks(self) -> frozenset[Kind]:
        """The marks of bars that are there."""
        return frozenset[Kind]().union(*(bar.marks for bar in self.bars if bar.estimate is not None))

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw bars, whiskers and numbers; each bar's ``gid`` is its row's."""
        self._draw_bars(axes, rows)
        low = min(bar.reach[0] for bar in self.bars)
        high = max(self.limit or 0.0, *(bar.reach[1] for bar in self.bars)) or (0.0 if low else 1.0)
        texts = [self._text(bar) for bar in self.bars]
        room = widest(texts) + 0.1
        if self.signed:
            scale(axes, low, high, 0.05, room + 0.05, width)
            axes.spines["left"].set_visible(False)  # 0 is elsewhere
        else:
            scale(axes, low, high, 0, room, width)
        for place in (0.0 if low < 0 else None, self.reference):
            if place is not None:
                axes.axvline(place, color=style.MUTED, linewidth=0.9, linestyle="-" if place == 0 else (0, (4, 3)))
        for y, bar, text in zip(rows.places, self.bars, texts, strict=True):
            muted = bar.estimate is None
            if self.signed:
                at_right(axes, y, text, muted=muted)
            else:
                beside(axes, 0.0 if muted else bar.reach[1], y, text, muted=muted, halo=self.reference is not None)

    def _text(self, bar: Bar) -> str:
        if bar.estimate is None:
            return bar.absent
        # Differences are rounded alike: + 0.0 leaves no negative zero.
        value = f"{round(bar.estimate.value, 2) + 0.0:+.2f}" if self.signed else number(bar.estimate.value)
        return f"{value} {_signs(bar.marks)}".rstrip()

    def _draw_bars(self, axes: Axes, rows: Rows) -> None:
        shown = [
            (bar, bar.estimate, y, gid, colour)
            for bar, y, gid, colour in zip(self.bars, rows.places, rows.gids, rows.row_colours, strict=True)
            if bar.estimate is not None
        ]
        if not shown:
            return
        places = [y for _, _, y, *_ in shown]
        draw_bars(axes, places, [estimate.value for _, estimate, *_ in shown])
        for patch, (bar, *_, gid, colour) in zip(axes.patches, shown, strict=True):
            patch.set(gid=gid, facecolor=colour, hatch=HATCH if doubtful(bar.marks) else None)
        known = [
            (estimate.value, y, estimate.interval) for _, estimate, y, *_ in shown if estimate.interval is not None
        ]
        if known:
            # An end on the wrong side of its value cannot be drawn as a length; it is at the value.
            lengths = [[max(v - ends[0], 0.0) for v, _, ends in known], [max(ends[1] - v, 0.0) for v, _, ends in known]]
            axes.errorbar(
                [v for v, *_ in known], [y for _, y, _ in known], xerr=lengths, linestyle="none", color=style.TEXT,
                elinewidth=0.8, capsize=2, capthick=0.8, zorder=3,
            )  # fmt: skip
        ticks = [(bar.tick, y) for bar, _, y, *_ in shown if bar.tick is not None]
        if ticks:
            axes.plot(*zip(*ticks, strict=True), linestyle="none", zorder=3, gid="tick", **_TICK)


_TICK: dict[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 2.2, "color": style.TEXT}


def draw_bars(
    axes: Axes, places: Sequence[float], values: Sequence[float], left: Sequence[float] | None = None
) -> None:
    """Horizontal bars at places that rise downwards, one patch each, in their order."""
    more = {} if left is None else {"left": left}
    # A row without a neighbour has no distance that seaborn could take the height from: it is 0.82 rows in any case.
    sns.barplot(
        x=values, y=places, orient="h", native_scale=True, errorbar=None, color=style.MUTED, saturation=1, ax=axes,
        edgecolor="white", linewidth=0.4, zorder=2, **more,
    )  # fmt: skip
    for patch, y in zip(axes.patches[-len(places) :], places, strict=True):
        patch.set(y=y - 0.41, height=0.82)


def _signs(marks: frozenset[Kind]) -> str:
    return "".join(kind.sign for kind in MARKS if kind in marks)


def metric_panel(metric: Metric, study: Study, variants: Sequence[Variant], **words: str) -> BarPanel:
    """Bars of a metric; `words` replace its title or hint."""
    share = metric.basis is Basis.TASK and metric.unit == "%"
    axis = metric.unit or metric.label
    if metric.basis is Basis.TASK:
        axis = f"{axis} ({lm_eval_metric(metric, study)})"
    return BarPanel(
        title=words.get("title") or heading(metric), hint=words.get("hint") or hint_of(metric), axis=axis,
        limit=100 if share else None, bars=[metric_bar(metric, study, variant) for variant in variants],
    )  # fmt: skip


def metric_bar(metric: Metric, study: Study, variant: Variant) -> Bar:
    """The bar of a variant's number."""
    estimate = variant.estimate(metric)
    if estimate is None:
        return Bar(None)
    return Bar(estimate.scaled(metric.scale), frozenset(study.marks(variant, metric)))


def lm_eval_metric(task: Metric, study: Study) -> str:
    """How lm-eval calls a task's headline metric; several if the variants differ."""
    records = (variant.accuracy.get(task.key) for variant in study.variants)
    names = ((record.metric or "metric unknown").removesuffix(",none") for record in records if record is not None)
    return " or ".join(dict.fromkeys(names))


def _draw_metrics(choose: Callable[[Study], Sequence[Metric]], title: str, study: Study) -> MplFigure | None:
    """One panel per metric that at least one variant has."""
    metrics = [metric for metric in choose(study) if study.is_measured(metric)]
    if not metrics:
        return None
    variants = by_name(study.variants)
    reserved = _reserves(study) if PEAK_MEMORY in metrics else "none"
    panels = [
        metric_panel(metric, study, variants, **(_PEAK_WORDS[reserved] if metric is PEAK_MEMORY else {}))
        for metric in metrics
    ]
    notes = [WHISKERS] if _have_whiskers(panels) else []
    notes += [_AMORTISED] if AMORTISED in metrics else []
    notes += [] if reserved == "none" else [_RESERVES]
    return RowChart(title, variants, panels, notes).draw()


def _have_whiskers(panels: Sequence[RowPanel]) -> bool:
    found = (bar.estimate for panel in panels if isinstance(panel, BarPanel) for bar in panel.bars)
    return any(estimate is not None and estimate.interval is not None for estimate in found)


_PEAK_WORDS = {
    "none": {},
    "some": {"hint": "vLLM: reserved; others: needed"},
    "all": {"title": "Reserved by the engine (peak)", "hint": "set by the engine, not by the model's need"},
}


def _reserves(study: Study) -> str:
    """Whether the peak memory of none, some or all variants is what the engine reserved.

    vLLM reserves; it also made the published files, which name no engine. Records do not say whether theirs did.
    """
    found = {v.engine in (None, "vllm") for v in study.variants if v.number(PEAK_MEMORY) is not None}
    return "some" if len(found) == 2 else "all" if found == {True} else "none"


_SPEEDUP_TITLES = {
    "per_token_speedup": "By throughput",
    "tpot_speedup": "By time per output token (TPOT)",
    "speedup": "By amortised latency",
}


def _draw_speedups(title: str, study: Study) -> MplFigure | None:
    """Ratios to the baseline."""
    variants = [variant for variant in by_name(study.variants) if not variant.is_baseline]
    panels = []
    for name, words in _SPEEDUP_TITLES.items():
        found = [_speedup_bar(name, study, variant) for variant in variants]
        if any(bar.estimate is not None for bar in found):
            panels.append(
                BarPanel(title=words, hint="higher is better", axis="ratio to the baseline (1: equally fast)",
                         bars=found, reference=1.0)
            )  # fmt: skip
    if not panels:
        return None
    refused = any(bar.absent == NOT_COMPARABLE for panel in panels for bar in panel.bars)
    notes = [*([WHISKERS] if _have_whiskers(panels) else []), *([NOT_COMPARED] if refused else [])]
    return RowChart(title, variants, panels, notes).draw()


def _speedup_bar(name: str, study: Study, variant: Variant) -> Bar:
    impact, metric = study.impact(variant), SPEEDUPS[name]
    ratio = None if impact is None else impact.speedups.get(name)
    if ratio is not None:
        return Bar(ratio, frozenset(study.marks(variant, metric)))
    return Bar(None, absent=absent_words(study, variant, metric))


def absent_words(study: Study, variant: Variant, metric: Metric) -> str:
    """What is in place of a missing comparison: it may have been refused though both sides were measured."""
    base = study.baseline(variant)
    refused = base is not None and variant.number(metric) is not None and base.number(metric) is not None
    return NOT_COMPARABLE if refused else NOT_MEASURED


def _draw_power(title: str, study: Study) -> MplFigure | None:
    """Mean power with its least and greatest sample, and the power of the idle device."""
    variants = by_name(study.variants)
    if not study.is_measured(POWER):
        return None
    bars = [_power_bar(study, variant) for variant in variants]
    panel = BarPanel(title=heading(POWER), hint="at equal speed; for energy per token, see energy_comparison",
                     axis=POWER.unit, bars=bars)  # fmt: skip
    handles: list[Artist] = []
    if any(bar.tick is not None for bar in bars):
        handles.append(Line2D([], [], linestyle="none", label="idle, engine loaded", **_TICK))
    notes = ["Whiskers: smallest and largest sample of the window."] if _have_whiskers([panel]) else []
    return RowChart(title, variants, [panel], notes, handles).draw()


def _power_bar(study: Study, variant: Variant) -> Bar:
    value, record = variant.number(POWER), variant.energy
    if value is None or record is None:
        return Bar(None)
    low, high = record.min_power_watts, record.max_power_watts
    ends = None if low is None or high is None else (low, high)
    return Bar(Estimate(value, ends), frozenset(study.marks(variant, POWER)), tick=record.idle_power_watts)


# Stacks: what a number consists of. Parts are shades of the scheme's own colour.


@dataclass(frozen=True)
class Part:
    """One part of every stack: its name in the legend, the share of white in its colour, and its hatch."""

    name: str
    tint: float
    hatch: str | None = None


@dataclass(frozen=True)
class Stack:
    """One variant: a value per part in the panel's unit, None for an unknown or empty one; marks; a further sign."""

    values: Sequence[float | None]
    marks: frozenset[Kind] = frozenset()
    sign: str = ""

    @property
    def total(self) -> float | None:
        """Sum of the known parts; None if none is known."""
        known = [value for value in self.values if value is not None]
        return sum(known) if known else None

    @property
    def text(self) -> str:
        """The text beside it."""
        return NOT_MEASURED if self.total is None else f"{number(self.total)} {_signs(self.marks)}{self.sign}".rstrip()


@dataclass(frozen=True, kw_only=True)
class StackPanel(RowPanel):
    """Stacks from 0, in the order of the rows."""

    parts: Sequence[Part]
    stacks: Sequence[Stack]

    def marks(self) -> frozenset[Kind]:
        """The marks of stacks that are there."""
        return frozenset[Kind]().union(*(stack.marks for stack in self.stacks if stack.total is not None))

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw the stacks with their totals; a part's ``gid`` is ``{name}|{precision}|{part}``."""
        lefts = [0.0] * len(self.stacks)
        for index, part in enumerate(self.parts):
            shown = [(row, value) for row, s in enumerate(self.stacks) if (value := s.values[index]) is not None]
            if not shown:
                continue
            bars = axes.barh(
                [rows.places[row] for row, _ in shown], [value for _, value in shown], 0.82,
                [lefts[row] for row, _ in shown], edgecolor="white", linewidth=0.4, zorder=2, hatch=part.hatch,
                color=[style.tint(rows.row_colours[row], part.tint) for row, _ in shown],
            )  # fmt: skip
            for patch, (row, value) in zip(bars, shown, strict=True):
                patch.set_gid(f"{rows.gids[row]}|{part.name}")
                lefts[row] += value
        scale(axes, 0, max(lefts) or 1.0, 0, widest([stack.text for stack in self.stacks]) + 0.1, width)
        for y, left, stack in zip(rows.places, lefts, self.stacks, strict=True):
            beside(axes, left, y, stack.text, muted=stack.total is None)

    def handles(self) -> list[Artist]:
        """Entries of the legend for the parts that any stack has, in grey: the colour is the scheme's."""
        return [
            Patch(facecolor=style.tint("#404040", part.tint), edgecolor="white", hatch=part.hatch, label=part.name)
            for i, part in enumerate(self.parts) if any(stack.values[i] is not None for stack in self.stacks)
        ]  # fmt: skip


_ENERGY_PARTS = (Part("above idle", 0.0), Part("idle", 0.6), Part("not split: idle power unknown", 0.25, ".."))
_MEMORY_PARTS = (Part("weights", 0.0), Part("KV cache", 0.55), Part("rest of the peak", 0.8, "..."))


def _draw_energy_parts(title: str, study: Study) -> MplFigure | None:
    """Energy of a request and the share that the device would have drawn idle; beside it the whole window."""
    variants = by_name(study.variants)
    panels: list[RowPanel] = []
    handles: list[Artist] = []
    if study.is_measured(J_PER_REQUEST):
        stacks = [Stack(_energy_parts(v), frozenset(study.marks(v, J_PER_REQUEST))) for v in variants]
        panel = StackPanel(title=heading(J_PER_REQUEST), hint=hint_of(J_PER_REQUEST), axis=J_PER_REQUEST.unit,
                           parts=_ENERGY_PARTS, stacks=stacks)  # fmt: skip
        handles = panel.handles()
        panels.append(panel)
    if study.is_measured(ENERGY):
        panels.append(metric_panel(ENERGY, study, variants, hint="depends on the amount of work measured"))
    notes = [WHISKERS] if _have_whiskers(panels) else []
    return RowChart(title, variants, panels, notes, handles).draw() if panels else None


def _energy_parts(variant: Variant) -> tuple[float | None, float | None, float | None]:
    request, gross, net = (variant.number(metric) for metric in (J_PER_REQUEST, ENERGY, ENERGY_NET))
    if request is None or not gross or net is None or not 0 <= net <= gross:
        return None, None, request
    return request * net / gross, request * (1 - net / gross), None


def _draw_memory_parts(title: str, study: Study) -> MplFigure | None:
    """Weights, KV cache, and the rest of the peak, on top of each other."""
    variants = by_name(study.variants)
    stacks = [_memory_stack(study, variant) for variant in variants]
    if all(stack.total is None for stack in stacks):
        return None
    panel = StackPanel(title="Memory of the serving process", hint="weights: lower is better; KV cache: more requests",
                       axis=WEIGHTS.unit, parts=_MEMORY_PARTS, stacks=stacks)  # fmt: skip
    notes = [] if _reserves(study) == "none" else [_RESERVES]
    if any(stack.sign for stack in stacks):
        notes.append(f"{SUMMARY_SIGN} loaded weights were not recorded: their size on disk is shown instead")
    return RowChart(title, variants, [panel], notes, panel.handles()).draw()


def _memory_stack(study: Study, variant: Variant) -> Stack:
    loaded, cache, peak, disk = (
        None if (value := variant.number(metric)) is None else metric.in_unit(value)
        for metric in (WEIGHTS, KV_CACHE, PEAK_MEMORY, DISK)
    )
    weights = disk if loaded is None else loaded
    if cache is None and peak is None and loaded is None:
        return Stack((None, None, None))
    rest = None if peak is None or weights is None else peak - weights - (cache or 0.0)
    sign = SUMMARY_SIGN if loaded is None and weights is not None else ""
    parts = (weights, cache, rest if rest is not None and rest > 0 else None)
    return Stack(parts, frozenset(study.marks(variant, WEIGHTS)), sign)


def _own(study: Study) -> list[Metric]:
    """The metrics of benchmarks that plugins added."""
    return [metric for metric in METRICS.values() if metric.basis is Basis.OWN]


_BARS: tuple[tuple[str, str, Callable[[Study], Sequence[Metric]]], ...] = (
    ("latency_comparison", "Latency by model and precision: lower is better", lambda _: (AMORTISED, TTFT, TPOT, E2E)),
    ("memory_comparison", "Memory by model and precision: smaller weights are better",
     lambda _: (DISK, WEIGHTS, PEAK_MEMORY)),
    ("energy_comparison", "Energy per work done, by model and precision: lower is better", lambda _: ENERGIES),
    ("accuracy_comparison", "Accuracy by model and precision: higher is better", lambda study: study.task_metrics),
    ("throughput_comparison", "Throughput by model and precision: higher is better", lambda _: (THROUGHPUT,)),
    ("other_metrics", "Metrics of further benchmarks, by model and precision", _own),
)  # fmt: skip
for _name, _title, _choose in _BARS:
    add_figure(_name, _title, partial(_draw_metrics, _choose))
add_figure("speedup_by_model", "Speed-up over the baseline, by model and precision: higher is better", _draw_speedups)
add_figure(
    "energy_consumption", "Energy of a request and of the whole window: lower is better per request",
    _draw_energy_parts,
)  # fmt: skip
add_figure("power_consumption", "Power by model and precision: lower is better at equal speed", _draw_power)
add_figure("memory_breakdown", "Parts of the memory in use: smaller weights are better", _draw_memory_parts)
