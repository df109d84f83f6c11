"""Figures of accuracy: drops against the baseline, drops on the same items with verdicts, and a heatmap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from slim_eval.analysis.compare.items import UNDERPOWERED
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.bars import NOT_COMPARED, Bar, BarPanel, absent_words, lm_eval_metric
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.layout import NOT_COMPARABLE, NOT_MEASURED, broken
from slim_eval.analysis.figures.rowchart import RowChart, RowPanel, Rows, at_right, by_name, scale, widest
from slim_eval.analysis.study import Study
from slim_eval.metrics import Metric
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Estimate, Interval, Variant

_Z95 = NormalDist().inv_cdf(0.975)
_MARGIN_COLOUR = "#eef3ea"
_NOT_PAIRED = "not paired"


def _draw_degradation(title: str, study: Study) -> MplFigure | None:
    """The drop on each task in percentage points, and below it in % of the baseline's accuracy."""
    variants = [variant for variant in by_name(study.variants) if not variant.is_baseline]
    panels = []
    for relative in (False, True):
        for task in study.task_metrics:
            bars = [_drop_bar(task, study, variant, relative=relative) for variant in variants]
            if any(bar.estimate is not None for bar in bars):
                words = ", relative" if relative else ""
                axis = "% of the baseline's accuracy" if relative else "percentage points below the baseline"
                panels.append(
                    BarPanel(title=f"{task.title}{words}", hint="below 0: better than the baseline", axis=axis,
                             signed=True, bars=bars)
                )  # fmt: skip
    if not panels:
        return None
    bars = [bar for panel in panels for bar in panel.bars]
    notes = []
    if any(bar.estimate and bar.estimate.interval for bar in bars):
        notes.append("Whiskers: 95 % interval, paired item by item if samples were recorded, otherwise that of two"
                     " independent scores; in %, the baseline's accuracy counts as exact.")  # fmt: skip
    if any(bar.absent == NOT_COMPARABLE for bar in bars):
        notes.append(NOT_COMPARED)
    return RowChart(title, variants, panels, notes).draw()


def _drop_bar(task: Metric, study: Study, variant: Variant, *, relative: bool) -> Bar:
    impact, base = study.impact(variant), study.baseline(variant)
    drop = None if impact is None else impact.drops.get(task.key)
    value = None if drop is None else drop.percent if relative else drop.pp
    if drop is None or value is None or base is None:
        return Bar(None, absent=absent_words(study, variant, task))
    ends, accuracy = _drop_interval(task.key, drop.pp, study, variant, base), base.number(task)
    if ends is not None and relative:
        ends = (ends[0] / accuracy, ends[1] / accuracy) if accuracy else None
    return Bar(Estimate(value, ends))


def _drop_interval(task: str, drop_pp: float, study: Study, variant: Variant, base: Variant) -> Interval | None:
    """In percentage points: the paired interval if items were paired, otherwise that of two independent scores."""
    pair = study.pair(variant, task)
    if pair is not None and pair.interval_pp is not None:
        return pair.interval_pp
    errors = [side.accuracy[task].stderr for side in (variant, base)]
    known = [error for error in errors if error is not None]
    if len(known) < 2:
        return None
    half = _Z95 * math.hypot(*known) * 100
    return drop_pp - half, drop_pp + half


@dataclass(frozen=True, kw_only=True)
class _ForestPanel(RowPanel):
    """Paired drops on one task against a margin.

    Attributes:
        pairs: One per row; None if the task was not measured.
        margin: Drop in percentage points that still counts as equivalent; None draws none.
        reach: Least and greatest value of all panels of the figure: they share one scale.
    """

    pairs: Sequence[PairedTask | None]
    margin: float | None
    reach: tuple[float, float]

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw points with their intervals, filled if the verdict is sure; a point's ``gid`` is its row's."""
        texts = [_verdict(pair) for pair in self.pairs]
        scale(axes, *self.reach, 0.06, widest(texts) + 0.14, width)
        if self.margin is not None:
            axes.axvspan(axes.get_xlim()[0], self.margin, color=_MARGIN_COLOUR, zorder=0, gid="margin", linewidth=0)
        axes.axvline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        markers = style.markers(rows.colours)
        for variant, y, gid, pair, text in zip(
            rows.variants, rows.places, rows.gids, self.pairs, texts, strict=True
        ):  # fmt: skip
            known = _is_paired(pair)
            at_right(axes, y, text, muted=not known)
            if pair is None or pair.drop_pp is None or not known:
                continue
            colour = rows.colours[variant.precision]
            if pair.interval_pp is not None:
                axes.plot(pair.interval_pp, [y, y], color=colour, linewidth=1.5, zorder=2, gid=f"{gid}|interval")
            axes.plot(
                [pair.drop_pp], [y], marker=markers[variant.precision], markersize=6, markeredgecolor=colour, zorder=3,
                markerfacecolor="white" if pair.verdict in (UNDERPOWERED, None) else colour, markeredgewidth=1.3,
                gid=gid,
            )  # fmt: skip


def _is_paired(pair: PairedTask | None) -> bool:
    return pair is not None and pair.drop_pp is not None and not pair.refused


def _verdict(pair: PairedTask | None) -> str:
    """The drop and the verdict; "underpowered" is the recorded value for inconclusive."""
    if pair is None or (pair.drop_pp is None and not pair.refused):
        return NOT_MEASURED
    if pair.drop_pp is None or pair.refused:
        return _NOT_PAIRED
    words = "inconclusive" if pair.verdict == UNDERPOWERED else pair.verdict or ""
    return f"{round(pair.drop_pp, 1) + 0.0:+.1f} {words}".rstrip()  # + 0.0: no negative zero


def _draw_forest(title: str, study: Study) -> MplFigure | None:
    """Drops on the same items with paired intervals, against the margin, with verdicts."""
    shown = [v for v in by_name(study.variants) if any(study.pair(v, task) is not None for task in study.tasks)]
    by_task = {task: [study.pair(variant, task) for variant in shown] for task in study.tasks}
    by_task = {task: pairs for task, pairs in by_task.items() if any(map(_is_paired, pairs))}
    if not by_task:
        return None
    known = [pair for pairs in by_task.values() for pair in pairs if pair is not None]
    margin = next((pair.margin_pp for pair in known if pair.margin_pp is not None), None)
    places = [0.0, margin or 0.0]
    for pair in known:
        if pair.drop_pp is not None and not pair.refused:
            places += [pair.drop_pp, *(pair.interval_pp or ())]
    panels = [
        _ForestPanel(title=task, hint="drop: left is better", axis="percentage points below the baseline", pairs=pairs,
                     margin=margin, reach=(min(places), max(places)))
        for task, pairs in by_task.items()
    ]  # fmt: skip
    handles: list[Artist] = []
    if margin is not None:
        label = f"within the margin of {margin:g} pp"
        handles.append(Patch(facecolor=_MARGIN_COLOUR, edgecolor=style.GRID, label=label))
    handles.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markersize=6,
                          markeredgecolor=style.MUTED, label="hollow: inconclusive"))  # fmt: skip
    notes = ["Lines: 95 % interval of the drop, paired item by item. equivalent: the interval ends below the margin;"
             " degraded: it is above 0 after Holm's correction; inconclusive: too few items."]  # fmt: skip
    return RowChart(title, shown, panels, notes, handles, panel_width=3.4).draw()


@dataclass(frozen=True, kw_only=True)
class _HeatPanel(RowPanel):
    """Coloured cells with numbers: one column per task, NaN for what was not measured."""

    columns: Sequence[str]
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]]

    def foot(self, width: float) -> float:
        """As high as its longest label."""
        return 0.4 + 0.125 * max(label.count("\n") + 1 for label in self._labels(width))

    def _labels(self, width: float) -> list[str]:
        inner = width / len(self.columns) - 0.08
        return [
            "\n".join(line for part in column.splitlines() for line in broken(part, style.SMALL_SIZE, inner))
            for column in self.columns
        ]

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw the cells; the colours suit any colour vision (Nuñez et al. 2018, PLOS ONE 13:e0199239)."""
        sns.heatmap(
            self.values, ax=axes, cmap="cividis", annot=True, fmt=".1f", cbar=False, linewidths=0.6, linecolor="white",
            xticklabels=self._labels(width), yticklabels=False, annot_kws={"fontsize": style.SMALL_SIZE},
        )  # fmt: skip
        for row, column in np.argwhere(np.isnan(self.values)):
            axes.text(column + 0.5, row + 0.5, NOT_MEASURED, ha="center", va="center", fontsize=style.SMALL_SIZE,
                      color=style.MUTED)  # fmt: skip


def _draw_heatmap(title: str, study: Study) -> MplFigure | None:
    """Variants by tasks; tasks whose metric is a loss are left out: they are not shares."""
    tasks = [metric for metric in study.task_metrics if metric.maximise and study.is_measured(metric)]
    if not tasks:
        return None
    variants = by_name(study.variants)
    values = [
        [math.nan if (v := variant.number(task)) is None else task.in_unit(v) for task in tasks] for variant in variants
    ]
    columns = [f"{task.title}\n{lm_eval_metric(task, study).replace(',', ', ')}" for task in tasks]
    panel = _HeatPanel(title="Accuracy", hint="lighter is better", axis="% on each task, by the metric named",
                       columns=columns, values=np.array(values))  # fmt: skip
    return RowChart(title, variants, [panel], panel_width=max(2.4, 1.15 * len(columns)), cells=True).draw()


add_figure(
    "task_accuracy_degradation", "Accuracy lost against the baseline, by task: lower is better", _draw_degradation
)
add_figure("accuracy_heatmap", "Accuracy by model, precision and task: higher is better", _draw_heatmap)
add_figure("paired_accuracy_drops", "Accuracy drops on the same items, with verdicts: left is better", _draw_forest)
