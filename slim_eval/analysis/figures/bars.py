"""Figures of bars: one row per variant, one panel per metric. A text replaces a bar without a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from slim_eval import metrics
from slim_eval.analysis.caveats import MARKS, Kind
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.layout import NOT_COMPARABLE, NOT_MEASURED, SUMMARY_SIGN, doubtful, heading, hint_of
from slim_eval.analysis.figures.numbers import Numbers, ends, words_of
from slim_eval.analysis.figures.rowchart import HATCH, Row, RowPanel, beside, by_name, draw_rows, scale
from slim_eval.analysis.impact import SPEEDUPS
from slim_eval.analysis.study import Study
from slim_eval.metrics import METRICS, Basis, Metric
from slim_eval.results.variants import Estimate, Interval, Variant
from slim_eval.utils import number

_TICK: dict[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 2.2, "color": style.TEXT}
_TICK_LABEL = "idle, engine loaded"
_NOT_COMPARED = (
    "not comparable: measured with different settings from the baseline, see not_comparable in quantization_impact.csv."
)
_RESERVES = (
    "vLLM reserves a fixed share of the device for weights and KV cache: its peak does not show what quantization "
    "saves. The weights do."
)
_SCORES = "Task scores by model and precision: each panel says which direction is better"
_AMORTISED = "Amortised latency: wall time of a batch / batch size, not per-request latency."


@dataclass(frozen=True)
class Part:
    """One part of every bar: its name in the legend, the share of white in its colour, and its hatch."""

    name: str
    tint: float = 0.0
    hatch: str | None = None


@dataclass(frozen=True)
class Bar:
    """One variant in one panel, in the panel's unit.

    Attributes:
        values: One per part of the panel, on top of each other; None for an unknown or empty one.
        interval: Ends of its whiskers.
        marks: Kinds of caveat that concern it.
        absent: Text in place of a missing value.
        tick: A second value, drawn as a short line across the bar.
        sign: Shown beside the number, after the signs of the marks.
    """

    values: Sequence[float | None] = (None,)
    interval: Interval | None = None
    marks: frozenset[Kind] = frozenset()
    absent: str = NOT_MEASURED
    tick: float | None = None
    sign: str = ""

    @classmethod
    def of(cls, estimate: Estimate | None, marks: Iterable[Kind] = (), absent: str = NOT_MEASURED) -> Bar:
        """The bar of a number with whiskers; None has a text in its place."""
        return cls(absent=absent) if estimate is None else cls((estimate.value,), estimate.interval, frozenset(marks))

    @property
    def total(self) -> float | None:
        """Sum of the known parts; None if none is known."""
        known = [value for value in self.values if value is not None]
        return sum(known) if known else None

    @property
    def reach(self) -> tuple[float, float]:
        """Least and greatest value that is drawn; 0 belongs to every bar."""
        found = [0.0, self.total or 0.0, self.tick or 0.0, *(self.interval or ())]
        return min(found), max(found)


@dataclass(frozen=True, kw_only=True)
class BarPanel(RowPanel):
    """Bars from 0.

    Attributes:
        bars: In the order of the rows.
        parts: What each bar consists of, in shades of its scheme's colour; a bar of one part is hatched if in doubt.
        limit: Upper end of the scale, for shares; None for that of the data.
        reference: Where a dashed line is, for ratios.
        signed: Values may be below 0; the numbers are then in a column at the right edge.
        whiskers: What the whiskers are.
        note: A further note.
    """

    bars: Sequence[Bar]
    parts: Sequence[Part] = (Part(""),)
    limit: float | None = None
    reference: float | None = None
    signed: bool = False
    whiskers: str = "Whiskers: 95 % interval."
    note: str = ""

    def marks(self) -> frozenset[Kind]:
        """The marks of bars that are there."""
        return frozenset[Kind]().union(*(bar.marks for bar in self.bars if bar.total is not None))

    def is_hatched(self) -> bool:
        """Whether a bar is in doubt; bars of several parts are not hatched for it."""
        return len(self.parts) == 1 and bool(doubtful(self.marks()))

    def numbers(self, row: int) -> Sequence[Numbers]:
        """The bar's value, or its parts and their sum; its whiskers and its tick; why there is none."""
        bar = self.bars[row]
        parts = {part.name: value for part, value in zip(self.parts, bar.values, strict=True) if part.name}
        note = bar.absent if bar.total is None else words_of(bar.marks)
        if bar.sign and bar.total is not None:
            note = ", ".join(filter(None, (note, "replaces a number that was not recorded")))
        return [{**parts, "value": bar.total, **ends(bar.interval), _TICK_LABEL: bar.tick, "note": note}]

    def handles(self) -> list[Artist]:
        """Entries for the parts that any bar has, in grey, for the colour is the scheme's; for ticks."""
        used = [part for part, values in zip(self.parts, zip(*(b.values for b in self.bars), strict=True), strict=True)
                if part.name and any(value is not None for value in values)]  # fmt: skip
        handles: list[Artist] = [
            Patch(facecolor=style.tint("#404040", part.tint), edgecolor="white", hatch=part.hatch, label=part.name)
            for part in used
        ]
        if any(bar.tick is not None for bar in self.bars):
            handles.append(Line2D([], [], linestyle="none", label=_TICK_LABEL, **_TICK))
        return handles

    def notes(self) -> Sequence[str]:
        """What whiskers and missing bars mean, and the further note."""
        whiskers = self.whiskers if any(bar.interval for bar in self.bars) else ""
        refused = _NOT_COMPARED if any(bar.absent == NOT_COMPARABLE for bar in self.bars) else ""
        return whiskers, refused, self.note

    def draw(self, axes: Axes, rows: Sequence[Row], width: float) -> None:
        """Draw bars, whiskers and numbers; a bar's ``gid`` is its row's, a part's ``{row's gid}|{part}``."""
        lefts = [0.0] * len(rows)
        for index, part in enumerate(self.parts):
            shown = [(i, value) for i, bar in enumerate(self.bars) if (value := bar.values[index]) is not None]
            bars = axes.barh(
                [rows[i].y for i, _ in shown], [value for _, value in shown], 0.82, [lefts[i] for i, _ in shown],
                color=[style.tint(rows[i].colour, part.tint) for i, _ in shown], edgecolor="white", linewidth=0.4,
                zorder=2,
            )  # fmt: skip
            for patch, (i, value) in zip(bars, shown, strict=True):
                doubt = len(self.parts) == 1 and doubtful(self.bars[i].marks)
                patch.set(gid=f"{rows[i].gid}|{part.name}".rstrip("|"), hatch=HATCH if doubt else part.hatch)
                lefts[i] += value
        known = [
            (value, row.y, bar.interval) for value, row, bar in zip(lefts, rows, self.bars, strict=True) if bar.interval
        ]
        if known:
            # An end on the wrong side of its value cannot be drawn as a length; it is at the value.
            lengths = [[max(v - ends[0], 0.0) for v, _, ends in known], [max(ends[1] - v, 0.0) for v, _, ends in known]]
            axes.errorbar(
                [v for v, *_ in known], [y for _, y, _ in known], xerr=lengths, linestyle="none", color=style.TEXT,
                elinewidth=0.8, capsize=2, capthick=0.8, zorder=3,
            )  # fmt: skip
        for row, bar in zip(rows, self.bars, strict=True):
            if bar.tick is not None:
                axes.plot([bar.tick], [row.y], linestyle="none", zorder=3, gid="tick", **_TICK)
        low = min(bar.reach[0] for bar in self.bars)
        high = max(self.limit or 0.0, *(bar.reach[1] for bar in self.bars)) or (0.0 if low else 1.0)
        texts = [self._text(bar) for bar in self.bars]
        scale(axes, low, high, width, texts, 0.05 if self.signed else 0.0)
        axes.spines["left"].set_visible(not self.signed)  # 0 is elsewhere
        for place in (0.0 if low < 0 else None, self.reference):
            if place is not None:
                axes.axvline(place, color=style.MUTED, linewidth=0.9, linestyle="-" if place == 0 else (0, (4, 3)))
        for row, bar, text in zip(rows, self.bars, texts, strict=True):
            x = None if self.signed else bar.reach[1]
            beside(axes, x, row.y, text, muted=bar.total is None, halo=self.reference is not None)

    def _text(self, bar: Bar) -> str:
        if bar.total is None:
            return bar.absent
        # Differences are rounded alike: + 0.0 leaves no negative zero.
        value = f"{round(bar.total, 2) + 0.0:+.2f}" if self.signed else number(bar.total)
        return f"{value} {''.join(kind.sign for kind in MARKS if kind in bar.marks)}{bar.sign}".rstrip()


def metric_panel(
    metric: Metric, study: Study, variants: Sequence[Variant], *, title: str = "", hint: str = "", note: str = ""
) -> BarPanel:
    """Bars of a metric; words replace those of the metric."""
    axis = metric.unit or metric.label
    if metric.basis is Basis.TASK:
        axis = f"{axis} ({lm_eval_metric(metric, study)})" if metric.is_share else lm_eval_metric(metric, study)
    found = [(variant, variant.estimate(metric)) for variant in variants]
    return BarPanel(
        title=title or heading(metric), hint=hint or hint_of(metric), note=note, axis=axis,
        limit=100 if metric.is_share else None,
        bars=[Bar.of(e and e.scaled(metric.scale), study.marks(variant, metric)) for variant, e in found],
    )  # fmt: skip


def lm_eval_metric(task: Metric, study: Study) -> str:
    """How lm-eval calls a task's headline metric; several if the variants differ."""
    records = (variant.accuracy.get(task.key) for variant in study.variants)
    names = ((record.metric or "metric unknown").removesuffix(",none") for record in records if record is not None)
    return " or ".join(dict.fromkeys(names))


def _draw_metrics(choose: Callable[[Study], Sequence[Metric]], title: str, study: Study) -> MplFigure | None:
    """One panel per metric that at least one variant has."""
    variants = by_name(study.variants)
    words = {metrics.AMORTISED: {"note": _AMORTISED}, metrics.PEAK_MEMORY: _peak_words(study)}
    shown = [metric for metric in choose(study) if study.is_measured(metric)]
    if any(metric.basis is Basis.TASK and not metric.is_accuracy for metric in shown):
        title = _SCORES
    return draw_rows(
        title, variants, [metric_panel(metric, study, variants, **words.get(metric, {})) for metric in shown]
    )


def _peak_words(study: Study) -> dict[str, str]:
    """What a panel of peak memory must say where the peak of some or all variants is what the engine reserved.

    vLLM reserves; it also made the published files, which name no engine. Records do not say whether theirs did.
    """
    reserved = {v.engine in (None, "vllm") for v in study.variants if v.number(metrics.PEAK_MEMORY) is not None}
    if True not in reserved:
        return {}
    if False in reserved:
        return {"hint": "vLLM: reserved; others: needed", "note": _RESERVES}
    hint = "set by the engine, not by the model's need"
    return {"title": "Reserved by the engine (peak)", "hint": hint, "note": _RESERVES}


def _draw_speedups(title: str, study: Study) -> MplFigure | None:
    """Ratios to the baseline."""
    variants = [variant for variant in by_name(study.variants) if not variant.is_baseline]
    panels = []
    for name, words in (
        ("per_token_speedup", "By throughput"),
        ("tpot_speedup", "By time per output token (TPOT)"),
        ("speedup", "By amortised latency"),
    ):
        metric, bars = SPEEDUPS[name], []
        for variant in variants:
            impact = study.impact(variant)
            ratio = impact.speedups.get(name) if impact is not None else None
            bars.append(Bar.of(ratio, study.marks(variant, metric), absent_words(study, variant, metric)))
        if any(bar.total is not None for bar in bars):
            axis = "ratio to the baseline (1: equally fast)"
            panels.append(BarPanel(title=words, hint="higher is better", axis=axis, bars=bars, reference=1.0))
    return draw_rows(title, variants, panels)


def absent_words(study: Study, variant: Variant, metric: Metric) -> str:
    """What is in place of a missing comparison: it may have been refused though both sides were measured."""
    base = study.baseline(variant)
    refused = base is not None and variant.number(metric) is not None and base.number(metric) is not None
    return NOT_COMPARABLE if refused else NOT_MEASURED


def _draw_power(title: str, study: Study) -> MplFigure | None:
    """Mean power with its least and greatest sample, and the power of the idle device."""
    power, bars = metrics.POWER, []
    variants = by_name(study.variants)
    for variant in variants:
        value, record = variant.number(power), variant.energy
        if value is None or record is None:
            bars.append(Bar())
            continue
        low, high = record.min_power_watts, record.max_power_watts
        ends = None if low is None or high is None else (low, high)
        bars.append(Bar((value,), ends, frozenset(study.marks(variant, power)), tick=record.idle_power_watts))
    panel = BarPanel(
        title=heading(power), hint="at equal speed; for energy per token, see energy_comparison", axis=power.unit,
        bars=bars, whiskers="Whiskers: smallest and largest sample of the window.",
    )  # fmt: skip
    return draw_rows(title, variants, [panel] if study.is_measured(power) else [])


def _draw_energy_parts(title: str, study: Study) -> MplFigure | None:
    """Energy of a request and the share that the device would have drawn idle; beside it the whole window."""
    per_request, variants = metrics.J_PER_REQUEST, by_name(study.variants)
    bars, panels = [], []
    for variant in variants:
        request, gross, net = map(variant.number, (per_request, metrics.ENERGY, metrics.ENERGY_NET))
        parts: tuple[float | None, ...] = None, None, request
        if request is not None and gross and net is not None and 0 <= net <= gross:
            parts = request * net / gross, request * (1 - net / gross), None
        bars.append(Bar(parts, marks=frozenset(study.marks(variant, per_request))))
    if study.is_measured(per_request):
        names = Part("above idle"), Part("idle", 0.6), Part("not split: idle power unknown", 0.25, "..")
        panels.append(BarPanel(title=heading(per_request), hint=hint_of(per_request), axis=per_request.unit, bars=bars,
                               parts=names))  # fmt: skip
    if study.is_measured(metrics.ENERGY):
        panels.append(metric_panel(metrics.ENERGY, study, variants, hint="depends on the amount of work measured"))
    return draw_rows(title, variants, panels)


def _draw_memory_parts(title: str, study: Study) -> MplFigure | None:
    """Weights, KV cache, and the rest of the peak, on top of each other."""
    names = Part("weights"), Part("KV cache", 0.55), Part("rest of the peak", 0.8, "...")
    variants, bars = by_name(study.variants), []
    for variant in variants:
        loaded, cache, peak, disk = (
            None if (value := variant.number(metric)) is None else metric.in_unit(value)
            for metric in (metrics.WEIGHTS, metrics.KV_CACHE, metrics.PEAK_MEMORY, metrics.DISK)
        )
        if cache is None and peak is None and loaded is None:
            bars.append(Bar((None,) * len(names)))
            continue
        weights = disk if loaded is None else loaded
        rest = None if peak is None or weights is None else peak - weights - (cache or 0.0)
        parts = weights, cache, rest if rest is not None and rest > 0 else None
        sign = SUMMARY_SIGN if loaded is None and weights is not None else ""
        bars.append(Bar(parts, marks=frozenset(study.marks(variant, metrics.WEIGHTS)), sign=sign))
    panel = BarPanel(
        title="Memory of the serving process", hint="weights: lower is better; KV cache: more requests",
        axis=metrics.WEIGHTS.unit, bars=bars, parts=names, note=_peak_words(study).get("note", ""),
    )  # fmt: skip
    disk_only = f"{SUMMARY_SIGN} loaded weights were not recorded: their size on disk is shown instead"
    notes = [disk_only] if any(bar.sign for bar in bars) else []
    return draw_rows(title, variants, [panel] if any(bar.total is not None for bar in bars) else [], notes)


_BARS: tuple[tuple[str, str, Callable[[Study], Sequence[Metric]]], ...] = (
    ("latency_comparison", "Latency by model and precision: lower is better",
     lambda _: (metrics.AMORTISED, metrics.TTFT, metrics.TPOT, metrics.E2E)),
    ("memory_comparison", "Memory by model and precision: smaller weights are better",
     lambda _: (metrics.DISK, metrics.WEIGHTS, metrics.PEAK_MEMORY)),
    ("energy_comparison", "Energy per work done, by model and precision: lower is better", lambda _: metrics.ENERGIES),
    ("accuracy_comparison", "Accuracy by model and precision: higher is better", lambda study: study.task_metrics),
    ("throughput_comparison", "Throughput by model and precision: higher is better", lambda _: (metrics.THROUGHPUT,)),
    ("other_metrics", "Metrics of further benchmarks, by model and precision",
     lambda _: [metric for metric in METRICS.values() if metric.basis is Basis.OWN]),
)  # fmt: skip
for _name, _title, _choose in _BARS:
    add_figure(_name, _title, partial(_draw_metrics, _choose))
add_figure("speedup_by_model", "Speed-up over the baseline, by model and precision: higher is better", _draw_speedups)
add_figure(
    "energy_consumption", "Energy of a request and of the whole window: lower is better per request", _draw_energy_parts
)
add_figure("power_consumption", "Power by model and precision: lower is better at equal speed", _draw_power)
add_figure("memory_breakdown", "Parts of the memory in use: smaller weights are better", _draw_memory_parts)
