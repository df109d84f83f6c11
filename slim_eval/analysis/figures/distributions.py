"""Distributions of latencies: a box for a record with samples, a line for one with only a summary."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D

from slim_eval.analysis.caveats import INVALID, MARKS, Kind
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.layout import NOT_MEASURED, SUMMARY_SIGN, heading, hint_of
from slim_eval.analysis.figures.numbers import Numbers, words_of
from slim_eval.analysis.figures.rowchart import Row, RowPanel, beside, by_name, draw_rows, scale
from slim_eval.analysis.study import Study
from slim_eval.metrics import AMORTISED, E2E, TPOT, TTFT, Metric
from slim_eval.results.variants import Variant
from slim_eval.stats import percentile
from slim_eval.utils import number

_MEDIAN: dict[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 1.6}
_MEAN: dict[str, Any] = {"marker": "D", "markersize": 3.6, "markerfacecolor": "white", "markeredgewidth": 0.9}
_P99: dict[str, Any] = {"marker": "o", "markersize": 3.2}


@dataclass(frozen=True)
class Spread:
    """How a number is distributed, in the panel's unit; None for what is not known.

    `p99` is the greatest value of a sample that is too small for it. Without `samples`, only the summary was recorded.
    """

    median: float
    mean: float | None = None
    p95: float | None = None
    p99: float | None = None
    p5: float | None = None
    samples: Sequence[float] = ()
    marks: frozenset[Kind] = frozenset()  # kinds of caveat that concern it


@dataclass(frozen=True, kw_only=True)
class BoxPanel(RowPanel):
    """Spreads, in the order of the rows; None is not measured."""

    spreads: Sequence[Spread | None]

    def marks(self) -> frozenset[Kind]:
        """The marks of the spreads that are there."""
        return frozenset[Kind]().union(*(spread.marks for spread in self.spreads if spread is not None))

    def numbers(self, row: int) -> Sequence[Numbers]:
        """The box, the line and the signs."""
        spread = self.spreads[row]
        if spread is None:
            return [{"note": NOT_MEASURED}]
        p25, p75 = (percentile(spread.samples, q) if spread.samples else None for q in (25, 75))
        return [{
            "p5": spread.p5, "p25": p25, "median": spread.median, "mean": spread.mean, "p75": p75, "p95": spread.p95,
            "p99": spread.p99, "samples": len(spread.samples) or None, "note": words_of(spread.marks),
        }]  # fmt: skip

    def handles(self) -> list[Artist]:
        """Entries for the signs of mean and p99."""
        return [
            Line2D([], [], linestyle="none", color=colour, label=name, **shape)
            for name, shape, colour in (("mean", _MEAN, style.TEXT), ("p99", _P99, style.MUTED))
        ]

    def notes(self) -> Sequence[str]:
        """How boxes, numbers and lines are read."""
        box, dashed = "", ""
        if any(spread and spread.samples for spread in self.spreads):
            box = (
                "Box: quartiles and median; line: 5th to 95th percentile (amortised latency: one value per batch; "
                "others: one per request)."
            )
        if any(spread and not spread.samples for spread in self.spreads):
            dashed = f"{SUMMARY_SIGN} no samples were recorded: dashed from the median to p95."
        return box, "On the right: the median. With fewer than 100 values, p99 is the maximum.", dashed

    def draw(self, axes: Axes, rows: Sequence[Row], width: float) -> None:
        """Draw boxes and lines with their medians at the right edge; a box's ``gid`` is its row's."""
        known = [(row, spread) for row, spread in zip(rows, self.spreads, strict=True) if spread is not None]
        boxes = [(row, spread.samples) for row, spread in known if spread.samples]
        if boxes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # seaborn 0.13 calls matplotlib 3.11 in the old way
                sns.boxplot(
                    x=[value for _, samples in boxes for value in samples],
                    y=[row.y for row, samples in boxes for _ in samples],
                    orient="h", native_scale=True, whis=(5, 95), showfliers=False, width=0.64, color=style.MUTED,
                    linewidth=1.0, ax=axes, zorder=3, capprops={"visible": False},
                )  # fmt: skip
            for patch, (row, _) in zip(axes.patches, boxes, strict=True):
                patch.set(gid=row.gid, facecolor=style.tint(row.colour, 0.45), edgecolor=row.colour)
        values = [v for _, s in known for v in (s.p5, s.median, s.mean, s.p95, s.p99) if v is not None]
        signs = [
            s and ("" if s.samples else SUMMARY_SIGN) + "".join(kind.sign for kind in MARKS if kind in s.marks)
            for s in self.spreads
        ]
        signed = [s and f"{number(s.median)} {sign}".rstrip() for s, sign in zip(self.spreads, signs, strict=True)]
        texts = [text or NOT_MEASURED for text in signed]
        scale(axes, min(values), max(values), width, texts, 0.08)
        for row, text, spread in zip(rows, texts, self.spreads, strict=True):
            beside(axes, None, row.y, text, muted=spread is None)
        for row, spread in known:
            if not spread.samples:
                axes.plot([spread.median, max(spread.median, spread.p95 or 0)], [row.y] * 2, color=row.colour,
                          linewidth=1.4, linestyle=(0, (2, 1.5)), zorder=2, gid=f"{row.gid}|range")  # fmt: skip
            for name, value, colour, shape in (
                ("median", spread.median, style.TEXT, _MEDIAN),
                ("mean", spread.mean, style.TEXT, _MEAN),
                ("p99", spread.p99, row.colour, _P99),
            ):
                if value is not None:
                    axes.plot([value], [row.y], zorder=4, color=colour, gid=f"{row.gid}|{name}", **shape)


def _draw_distributions(title: str, study: Study) -> MplFigure | None:
    variants, panels = by_name(study.variants), []
    samples = [study.samples(variant, "performance") for variant in variants]
    for metric in (AMORTISED, E2E, TTFT, TPOT):
        spreads = [_spread(metric, variant, found) for variant, found in zip(variants, samples, strict=True)]
        # Only this mark: what is compared with a baseline is shown by the figures of single numbers.
        spreads = [
            spread if spread is None or variant.counts(metric) else replace(spread, marks=frozenset({INVALID}))
            for spread, variant in zip(spreads, variants, strict=True)
        ]
        if any(spreads):
            panels.append(BoxPanel(title=heading(metric), hint=hint_of(metric), axis=metric.unit, spreads=spreads))
    return draw_rows(title, variants, panels)


def _spread(metric: Metric, variant: Variant, samples: Sequence[dict[str, Any]]) -> Spread | None:
    """The spread of a latency: of its samples, or, without any, as the record summarizes it."""
    per_batch = metric is AMORTISED  # one value per iteration, not one per request
    size: int | None = 1
    if per_batch:
        size = None if variant.performance is None else variant.performance.batch_size
    by_place: dict[Any, float] = {}
    for index, sample in enumerate(samples if size else ()):
        value = sample.get(str(metric.sample))
        if value is not None:
            by_place[sample.get("iteration") if per_batch else index] = metric.in_unit(value / size)
    found = list(by_place.values())
    if found:
        p95, p99, p5 = (percentile(found, q) for q in (95, 99, 5))
        return Spread(statistics.median(found), statistics.fmean(found), p95, p99, p5, found)
    base = metric.key.removeprefix("mean_")
    keys = (f"median_{base}", metric.key, f"p95_{base}", f"p99_{base}")
    median, mean, p95, p99 = (None if (v := variant.number(key)) is None else metric.in_unit(v) for key in keys)
    return None if median is None else Spread(median, mean, p95, p99)


add_figure("latency_distribution", "Distribution of latencies: lower and narrower is better", _draw_distributions)
