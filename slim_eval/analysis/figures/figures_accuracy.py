"""Figures of accuracy: what quantization took from each task, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import replace

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.bars import BarPanel
from slim_eval.analysis.figures.figures_rows import NOT_COMPARED, bar_of
from slim_eval.analysis.figures.forest import MARGIN_COLOUR, NOT_PAIRED, Drop, ForestPanel, reach_of
from slim_eval.analysis.figures.heatmap import HeatPanel
from slim_eval.analysis.figures.marks import NOT_COMPARABLE
from slim_eval.analysis.figures.measures import accuracies, drops
from slim_eval.analysis.figures.plotdata import Z95, Configuration, PlotData, groups_of, measured
from slim_eval.analysis.figures.rowchart import RowChart, RowPanel, row_chart
from slim_eval.results.records import PairedTask
from slim_eval.results.rows import Row


def draw_degradation(title: str, data: PlotData) -> Figure | None:
    """The drop of each task in percentage points, and below it in % of the 16-bit accuracy."""
    paired = _paired(data)
    shown = [replace(c, row={**c.row, **_drop_ends(data, c, paired)}) for c in data.quantized]
    panels: list[RowPanel] = []
    for unit in ("pp", "percent"):
        for measure in measured(drops(data, unit), shown):
            panels.append(BarPanel(title=measure.title, hint=measure.hint or "", axis=measure.unit, signed=True,
                                   bars=[bar_of(measure, c) for c in shown]))  # fmt: skip
    if not panels:
        return None
    bars = [bar for panel in panels if isinstance(panel, BarPanel) for bar in panel.bars]
    notes = []
    if any(bar.interval for bar in bars):
        notes.append("Whiskers: 95 % interval, paired item by item where samples were kept, otherwise of two"
                     " independent scores; in %, fp16's accuracy is taken as exact.")  # fmt: skip
    if any(bar.absent == NOT_COMPARABLE for bar in bars):
        notes.append(NOT_COMPARED)
    return row_chart(RowChart(title, groups_of(shown), panels, notes))


def _paired(data: PlotData) -> dict[tuple[str, str], PairedTask]:
    """Folder and task -> the task paired item by item."""
    found = data.evidence.paired if data.evidence else {}
    return {(folder, task.task): task for folder, tasks in found.items() for task in tasks}


def _drop_ends(data: PlotData, configuration: Configuration, paired: dict[tuple[str, str], PairedTask]) -> Row:
    """Columns with the ends of the drops' intervals."""
    row, base = configuration.row, configuration.base or {}
    made: Row = {}
    for task in data.tasks:
        drop = row.get(f"{task}_drop_pp")
        if drop is None:
            continue
        known = paired.get((row["directory"], task))
        ends = known.interval_pp if known else None
        error, base_error = row.get(f"{task}_stderr"), base.get(f"{task}_stderr")
        if ends is None and error is not None and base_error is not None:
            half = Z95 * math.hypot(error, base_error) * 100
            ends = (drop - half, drop + half)
        if ends is not None:
            for end, value in zip(("low", "high"), ends, strict=True):
                made[f"{task}_drop_pp_ci95_{end}"] = value
                made[f"{task}_drop_percent_ci95_{end}"] = value / base[task] if base.get(task) else None
    return made


def draw_heatmap(title: str, data: PlotData) -> Figure | None:
    """Configurations by tasks."""
    measures = [m for m in measured(accuracies(data), data.configurations) if not m.lower]
    if not measures:
        return None
    values = [[measure.value(c.row) for measure in measures] for c in data.configurations]
    metrics = [measure.unit.removeprefix("% (").removesuffix(")").replace(",", ", ") for measure in measures]
    columns = [f"{measure.title}\n{metric}" for measure, metric in zip(measures, metrics, strict=True)]
    panel = HeatPanel(
        title="Accuracy",
        hint="lighter is better",
        axis="% on each task, by the metric named",
        columns=columns,
        values=values,
    )
    width = max(2.4, 1.15 * len(columns))
    chart = RowChart(title, groups_of(data.configurations), [panel], panel_width=width, precisions=False)
    return row_chart(chart)


def draw_forest(title: str, data: PlotData) -> Figure | None:
    """Drops on the same items with paired intervals, against the margin, with verdicts."""
    paired = _paired(data)
    shown = [c for c in data.quantized if any((c.row["directory"], task) in paired for task in data.tasks)]
    by_task = {task: [_drop(paired.get((c.row["directory"], task))) for c in shown] for task in data.tasks}
    by_task = {task: drops for task, drops in by_task.items() if any(drop.value is not None for drop in drops)}
    if not by_task:
        return None
    margin = next((task.margin_pp for task in paired.values() if task.margin_pp is not None), None)
    reach = reach_of([drop for drops in by_task.values() for drop in drops], margin)
    panels = [
        ForestPanel(title=task, hint="drop: left is better", axis="percentage points below fp16", drops=drops,
                    margin=margin, reach=reach)
        for task, drops in by_task.items()
    ]  # fmt: skip
    handles: list[Artist] = []
    if margin is not None:
        handles.append(
            Patch(facecolor=MARGIN_COLOUR, edgecolor=style.GRID, label=f"within the margin of {margin:g} pp")
        )
    handles.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markersize=6,
                          markeredgecolor=style.MUTED, label="hollow: underpowered"))  # fmt: skip
    notes = ["Lines: 95 % interval of the drop, paired item by item. equivalent: it ends below the margin; degraded: it"
             " is above 0 after Holm's correction; underpowered: too few items to tell."]  # fmt: skip
    chart = RowChart(title, groups_of(shown), panels, notes, handles, panel_width=3.4)
    return row_chart(chart)


def _drop(task: PairedTask | None) -> Drop:
    if task is None or (task.drop_pp is None and not task.refused):
        return Drop(None)
    if task.refused or task.drop_pp is None:
        return Drop(None, absent=NOT_PAIRED)
    return Drop(task.drop_pp, task.interval_pp, task.verdict)
