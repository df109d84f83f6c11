"""Figures of bars: which panels they have, and what stands in them. One function a kind of figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.bars import Bar, BarPanel
from slim_eval.analysis.figures.marks import NOT_COMPARABLE, NOT_MEASURED, SUMMARY_SIGN
from slim_eval.analysis.figures.measures import DISK, J_REQUEST, PEAK, POWER, WEIGHTS, WINDOW
from slim_eval.analysis.figures.plotdata import Configuration, Measure, PlotData, groups_of, measured
from slim_eval.analysis.figures.rowchart import RowChart, RowPanel, row_chart
from slim_eval.analysis.figures.stacks import Part, Stack, StackPanel
from slim_eval.results.rows import Row

WHISKERS = "Whiskers: 95 % interval."
NOT_COMPARED = "not comparable: measured in another setting than fp16, see not_comparable in quantization_impact.csv."
"""What a note says of a comparison that was refused."""

Measures = Callable[[PlotData], Sequence[Measure]]
Notes = Callable[[PlotData, Sequence[Measure]], Sequence[str]]


def draw_bars(
    measures: Measures, notes: Notes, title: str, data: PlotData, *, quantized: bool = False
) -> Figure | None:
    """Bars of all metrics that have data; None where none has.

    Args:
        measures: The metrics, given the data.
        notes: Lines below, given those that are shown.
        title: Of the figure.
        data: What to draw.
        quantized: Only configurations that are compared with another one.
    """
    shown = data.quantized if quantized else data.configurations
    found = measured(measures(data), shown)
    if not found:
        return None
    panels = [
        BarPanel(
            title=measure.title, hint=measure.hint or measure.better, axis=measure.unit, limit=measure.limit,
            reference=measure.reference, signed=measure.signed, bars=[bar_of(measure, c) for c in shown],
        )
        for measure in found
    ]  # fmt: skip
    whiskers = any(bar.interval for panel in panels for bar in panel.bars)
    gaps = any(bar.absent == NOT_COMPARABLE for panel in panels for bar in panel.bars)
    lines = [*([WHISKERS] if whiskers else []), *([NOT_COMPARED] if gaps else []), *notes(data, found)]
    return row_chart(RowChart(title, groups_of(shown), panels, lines))


def no_notes(data: PlotData, found: Sequence[Measure]) -> Sequence[str]:
    """For figures that need no word."""
    return ()


def bar_of(measure: Measure, configuration: Configuration) -> Bar:
    """One configuration's bar of a metric; a gap that says why where it has no value."""
    value = measure.value(configuration.row)
    if value is None:
        return Bar(None, absent=_absent(measure, configuration))
    return Bar(value, measure.interval(configuration.row), configuration.doubts & measure.doubts)


# Column of a comparison -> the column that it compares, if that is not the column's own beginning.
_COMPARED = {"speedup": "mean_latency_s", "per_token_speedup": "tokens_per_second", "tpot_speedup": "tpot_s"}


def _absent(measure: Measure, configuration: Configuration) -> str:
    """What stands in the place of a missing value: a comparison may be refused though both sides were measured."""
    key = _COMPARED.get(measure.column) or measure.column.partition("_drop_")[0]
    both = (configuration.row.get(key), (configuration.base or {}).get(key))
    refused = key != measure.column and None not in both
    return NOT_COMPARABLE if refused else NOT_MEASURED


def memory_measures(data: PlotData) -> tuple[Measure, ...]:
    """Weights on disk and loaded, and the peak, whose title says if it is what the engine reserved."""
    title, hint = _PEAK_WORDS[_engine_reserves(data)]
    return DISK, WEIGHTS, replace(PEAK, title=title, hint=hint)


# Whether the peak is what the engine reserved: for none, some, or all of the configurations.
_PEAK_WORDS = {
    "none": (PEAK.title, None),
    "some": (PEAK.title, "vLLM: reserved; others: needed"),
    "all": ("Reserved by the engine (peak)", "set by the engine, not by the model's need"),
}
_RESERVES = (
    "vLLM reserves a fixed share of the device for weights and KV cache: its peak does not show what"
    " quantization saves. The weights do."
)


def memory_notes(data: PlotData, found: Sequence[Measure]) -> list[str]:
    """What a peak of vLLM is."""
    return [] if _engine_reserves(data) == "none" else [_RESERVES]


def _engine_reserves(data: PlotData) -> str:
    """Whether memory in use is what the engine reserved: so it is in vLLM, which made the files that name no engine."""
    found = {row["engine"] in (None, "vllm") for row in data.rows if row["mean_peak_mem_mb"] is not None}
    return "some" if len(found) == 2 else "all" if found == {True} else "none"


def draw_power(title: str, data: PlotData) -> Figure | None:
    """Mean power with its least and greatest sample, and what the device draws when idle; energy beside it."""
    shown = data.configurations
    if not measured([POWER], shown):
        return None
    bars = [_power_bar(c) for c in shown]
    panel = BarPanel(title=POWER.title, hint="at equal speed; for the cost of a token see energy_comparison",
                     axis=POWER.unit, bars=bars)  # fmt: skip
    handles: list[Artist] = []
    if any(bar.tick is not None for bar in bars):
        handles.append(Line2D([], [], linestyle="none", marker="|", markersize=9, markeredgewidth=2.2,
                              color=style.TEXT, label="idle, engine loaded"))  # fmt: skip
    notes = ["Whiskers: least and greatest sample of the window."] if any(bar.interval for bar in bars) else []
    return row_chart(RowChart(title, groups_of(shown), [panel], notes, handles))


def _power_bar(configuration: Configuration) -> Bar:
    row = configuration.row
    value, low, high, idle = (
        row.get(key) for key in ("avg_power_watts", "min_power_watts", "max_power_watts", "idle_power_watts")
    )
    ends = None if low is None or high is None else (low, high)
    return Bar(value, ends, configuration.doubts & POWER.doubts, tick=idle)


_ENERGY_PARTS = (Part("above idle", 0.0), Part("idle", 0.6), Part("not split: idle power not known", 0.25, ".."))
_MEMORY_PARTS = (Part("weights", 0.0), Part("KV cache", 0.55), Part("rest of the peak", 0.8, "..."))


def draw_energy_parts(title: str, data: PlotData) -> Figure | None:
    """What a request costs and how much of it the device would have drawn idle; beside it the whole window."""
    shown = data.configurations
    panels: list[RowPanel] = []
    handles: list[Artist] = []
    if measured([J_REQUEST], shown):
        stacks = [
            Stack(_energy_parts(c.row), c.doubts & J_REQUEST.doubts) for c in shown
        ]  # fmt: skip
        panel = StackPanel(title=J_REQUEST.title, hint=J_REQUEST.better, axis=J_REQUEST.unit, parts=_ENERGY_PARTS,
                           stacks=stacks)  # fmt: skip
        handles += [part.handle() for part in panel.shown_parts()]
        panels.append(panel)
    if measured([WINDOW], shown):
        hint = "how much was measured; not per work done"
        panels.append(
            BarPanel(title=WINDOW.title, hint=hint, axis=WINDOW.unit, bars=[bar_of(WINDOW, c) for c in shown])
        )
    whiskers = any(bar.interval for panel in panels if isinstance(panel, BarPanel) for bar in panel.bars)
    notes = [WHISKERS] if whiskers else []
    return row_chart(RowChart(title, groups_of(shown), panels, notes, handles)) if panels else None


def _energy_parts(row: Row) -> tuple[float | None, float | None, float | None]:
    request, gross, net = (row.get(key) for key in ("energy_per_query_j", "energy_joules", "energy_joules_net"))
    if request is None or not gross or net is None or not 0 <= net <= gross:
        return None, None, request
    return request * net / gross, request * (1 - net / gross), None


def draw_memory_parts(title: str, data: PlotData) -> Figure | None:
    """Weights, KV cache, and what else the peak holds, on top of each other."""
    shown = data.configurations
    stacks = [_memory_stack(c) for c in shown]
    if all(stack.total is None for stack in stacks):
        return None
    panel = StackPanel(title="Memory of the serving process", hint="weights: lower is better; KV cache: more requests",
                       axis="GiB", parts=_MEMORY_PARTS, stacks=stacks)  # fmt: skip
    notes = list(memory_notes(data, ()))
    if any(stack.sign for stack in stacks):
        notes.append(f"{SUMMARY_SIGN} loaded weights were not recorded: their size on disk stands for them")
    return row_chart(RowChart(title, groups_of(shown), [panel], notes, [part.handle() for part in panel.shown_parts()]))


def _memory_stack(configuration: Configuration) -> Stack:
    row = configuration.row
    loaded, cache, peak = row.get("weights_gb"), row.get("kv_cache_gb"), PEAK.value(row)
    weights = row.get("model_size_gb") if loaded is None else loaded
    if cache is None and peak is None and loaded is None:
        return Stack((None, None, None))
    rest = None if peak is None or weights is None else peak - weights - (cache or 0.0)
    sign = SUMMARY_SIGN if loaded is None and weights is not None else ""
    parts = (weights, cache, rest if rest is not None and rest > 0 else None)
    return Stack(parts, configuration.doubts & WEIGHTS.doubts, sign)
