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

from slim_eval.analysis.compare.items import UNDERPOWERED, VERDICT_WORDS
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.bars import Bar, BarPanel, absent_words, lm_eval_metric
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.layout import NOT_MEASURED, broken
from slim_eval.analysis.figures.numbers import Numbers, ends
from slim_eval.analysis.figures.rowchart import Row, RowPanel, beside, by_name, draw_rows, scale
from slim_eval.analysis.study import Study
from slim_eval.metrics import Metric
from slim_eval.results.records import PairedTask
from slim_eval.results.variants import Estimate, Variant

_Z95 = NormalDist().inv_cdf(0.975)
_MARGIN_COLOUR = "#eef3ea"
_DROP_WHISKERS = (
    "Whiskers: 95 % interval, paired item by item if samples were recorded, otherwise that of two independent scores; "
    "in %, the baseline's accuracy counts as exact."
)
_VERDICTS = (
    "Lines: 95 % interval of the drop, item by item if not unpaired. equivalent: it ends below the margin; degraded: "
    "it is above 0 after Holm's correction; inconclusive: too few items."
)


def _draw_degradation(title: str, study: Study) -> MplFigure | None:
    """The drop on each task in percentage points, and below it in % of the baseline's accuracy."""
    variants = [variant for variant in by_name(study.variants) if not variant.is_baseline]
    panels = []
    for words, axis in (
        ("", "percentage points below the baseline"),
        (", relative", "% of the baseline's accuracy"),
    ):
        for task in study.task_metrics:
            bars = [_drop_bar(task, study, variant, relative=bool(words)) for variant in variants]
            if any(bar.total is not None for bar in bars):
                panels.append(
                    BarPanel(title=f"{task.title}{words}", hint="below 0: better than the baseline", axis=axis,
                             signed=True, bars=bars, whiskers=_DROP_WHISKERS)
                )  # fmt: skip
    return draw_rows(title, variants, panels)


def _drop_bar(task: Metric, study: Study, variant: Variant, *, relative: bool) -> Bar:
    """Its interval is the paired one if items were paired, otherwise that of two independent scores."""
    impact, base, pair = study.impact(variant), study.baseline(variant), study.pair(variant, task.key)
    drop = None if impact is None else impact.drops.get(task.key)
    value = None if drop is None else drop.percent if relative else drop.pp
    if drop is None or value is None or base is None:
        return Bar(absent=absent_words(study, variant, task))
    ends = None if pair is None else pair.interval_pp
    error, base_error = variant.accuracy[task.key].stderr, base.accuracy[task.key].stderr
    if ends is None and error is not None and base_error is not None:
        half = _Z95 * math.hypot(error, base_error) * 100
        ends = (drop.pp - half, drop.pp + half)
    accuracy = base.number(task) if relative else 1.0
    return Bar.of(Estimate(value, (ends[0] / accuracy, ends[1] / accuracy) if ends and accuracy else None))


@dataclass(frozen=True, kw_only=True)
class _ForestPanel(RowPanel):
    """Paired drops on one task against a margin."""

    pairs: Sequence[PairedTask | None]  # one per row; None if the task was not measured
    margin: float | None  # drop in percentage points that still counts as equivalent; None draws none
    reach: tuple[float, float]  # least and greatest value of all panels of the figure: they share one scale

    def numbers(self, row: int) -> Sequence[Numbers]:
        """The drop with its interval, the margin, and the verdict or why there is none."""
        pair = self.pairs[row]
        drop = None if pair is None else pair.drop_pp
        span, margin = (None, None) if pair is None or drop is None else (pair.interval_pp, pair.margin_pp)
        return [{"drop": drop, **ends(span), "margin": margin, "note": _words(pair)}]

    def handles(self) -> list[Artist]:
        """Entries for the margin and for hollow points."""
        hollow = Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markersize=6,
                        markeredgecolor=style.MUTED, label="hollow: inconclusive")  # fmt: skip
        if self.margin is None:
            return [hollow]
        label = f"within the margin of {self.margin:g} pp"
        return [Patch(facecolor=_MARGIN_COLOUR, edgecolor=style.GRID, label=label), hollow]

    def draw(self, axes: Axes, rows: Sequence[Row], width: float) -> None:
        """Draw points with their intervals, filled if the verdict is sure; a point's ``gid`` is its row's."""
        texts = [_verdict(pair) for pair in self.pairs]
        scale(axes, *self.reach, width, texts, 0.06)
        if self.margin is not None:
            axes.axvspan(axes.get_xlim()[0], self.margin, color=_MARGIN_COLOUR, zorder=0, gid="margin", linewidth=0)
        axes.axvline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        for row, pair, text in zip(rows, self.pairs, texts, strict=True):
            drop = None if pair is None else pair.drop_pp
            beside(axes, None, row.y, text, muted=drop is None)
            if pair is None or drop is None:
                continue
            if pair.interval_pp is not None:
                axes.plot(pair.interval_pp, [row.y] * 2, color=row.colour, linewidth=1.5, zorder=2,
                          gid=f"{row.gid}|interval")  # fmt: skip
            face = "white" if pair.verdict in (UNDERPOWERED, None) else row.colour
            axes.plot([drop], [row.y], marker=row.marker, markersize=6, markeredgecolor=row.colour, zorder=3,
                      markerfacecolor=face, markeredgewidth=1.3, gid=row.gid)  # fmt: skip


def _verdict(pair: PairedTask | None) -> str:
    """The drop and the verdict."""
    if pair is None or pair.drop_pp is None:
        return _words(pair)
    return f"{round(pair.drop_pp, 1) + 0.0:+.1f} {_words(pair)}".rstrip()  # + 0.0: no negative zero


def _words(pair: PairedTask | None) -> str:
    """The verdict, or the reason against showing a drop."""
    if pair is None or pair.drop_pp is None:
        return "not paired" if pair is not None and pair.refused else NOT_MEASURED
    return VERDICT_WORDS.get(pair.verdict or "", "") + (", unpaired" if pair.unpaired else "")


def _draw_forest(title: str, study: Study) -> MplFigure | None:
    """Drops on the same items with paired intervals, against the margin, with verdicts."""
    shown = [v for v in by_name(study.variants) if any(study.pair(v, task) is not None for task in study.tasks)]
    by_task = {task: [study.pair(variant, task) for variant in shown] for task in study.tasks}
    by_task = {task: pairs for task, pairs in by_task.items() if any(p and p.drop_pp is not None for p in pairs)}
    known = [pair for pairs in by_task.values() for pair in pairs if pair is not None and pair.drop_pp is not None]
    margin = next((pair.margin_pp for pair in known if pair.margin_pp is not None), None)
    places = [0.0, margin or 0.0, *(place for pair in known for place in (pair.drop_pp, *(pair.interval_pp or ())))]
    panels = [
        _ForestPanel(title=task, hint="drop: left is better", axis="percentage points below the baseline", pairs=pairs,
                     margin=margin, reach=(min(places), max(places)))
        for task, pairs in by_task.items()
    ]  # fmt: skip
    return draw_rows(title, shown, panels, [_VERDICTS], panel_width=3.4)


@dataclass(frozen=True, kw_only=True)
class _HeatPanel(RowPanel):
    """Coloured cells with numbers: one column per task, NaN for what was not measured."""

    columns: Sequence[str]
    tasks: Sequence[Metric]
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]]

    def numbers(self, row: int) -> Sequence[Numbers]:
        """One entry per task."""
        cells = zip(self.tasks, self.values[row], strict=True)
        return [{"task": task.key, "value": None if math.isnan(value) else float(value)} for task, value in cells]

    def draw(self, axes: Axes, rows: Sequence[Row], width: float) -> None:
        """Draw the cells; the colours suit any colour vision (Nuñez et al. 2018, PLOS ONE 13:e0199239)."""
        sns.heatmap(
            self.values, ax=axes, cmap="cividis", annot=True, fmt=".1f", cbar=False, linewidths=0.6, linecolor="white",
            xticklabels=self.columns, yticklabels=False, annot_kws={"fontsize": style.SMALL_SIZE},
        )  # fmt: skip
        for row, column in np.argwhere(np.isnan(self.values)):
            axes.text(column + 0.5, row + 0.5, NOT_MEASURED, ha="center", va="center", color=style.MUTED)


def _draw_heatmap(title: str, study: Study) -> MplFigure | None:
    """Variants by tasks; those that are not scored by right answers are left out."""
    tasks = [metric for metric in study.task_metrics if metric.is_accuracy and study.is_measured(metric)]
    if not tasks:
        return None
    variants, width = by_name(study.variants), max(2.4, 1.15 * len(tasks))
    values = [
        [math.nan if (v := variant.number(task)) is None else task.in_unit(v) for task in tasks] for variant in variants
    ]
    columns = []
    for task in tasks:
        parts = task.title, *lm_eval_metric(task, study).replace(",", ", ").splitlines()
        columns.append([line for part in parts for line in broken(part, style.SMALL_SIZE, width / len(tasks) - 0.08)])
    panel = _HeatPanel(
        title="Accuracy", hint="lighter is better", axis="% on each task, by the metric named",
        columns=["\n".join(lines) for lines in columns], tasks=tasks, values=np.array(values),
        foot=0.4 + 0.125 * max(map(len, columns)),
    )  # fmt: skip
    return draw_rows(title, variants, [panel], panel_width=width, cells=True)


add_figure(
    "task_accuracy_degradation", "Accuracy lost against the baseline, by task: lower is better", _draw_degradation
)
add_figure("accuracy_heatmap", "Accuracy by model, precision and task: higher is better", _draw_heatmap)
add_figure("paired_accuracy_drops", "Accuracy drops with verdicts: left is better", _draw_forest)
