"""Distributions of latencies: a box for a record with samples, a line for one with only a summary."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.lines import Line2D

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.figure import add_figure
from slim_eval.analysis.figures.layout import NOT_MEASURED, SUMMARY_SIGN, heading, hint_of
from slim_eval.analysis.figures.rowchart import RowChart, RowPanel, Rows, at_right, by_name, scale, widest
from slim_eval.analysis.study import Study
from slim_eval.metrics import AMORTISED, E2E, TPOT, TTFT, Metric
from slim_eval.results.variants import Variant
from slim_eval.stats import percentile
from slim_eval.utils import number

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """How a number is distributed, in the panel's unit; None for what is not known.

    Attributes:
        median: Middle of the distribution.
        mean: Arithmetic mean.
        p95: 95th percentile.
        p99: 99th percentile, or the greatest value of a sample that is too small for it.
        samples: The values; none if only the summary was recorded.
    """

    median: float
    mean: float | None = None
    p95: float | None = None
    p99: float | None = None
    samples: Sequence[float] = ()

    @property
    def values(self) -> list[float]:
        """Everything that is drawn."""
        low = percentile(self.samples, 5) if self.samples else None
        return [value for value in (low, self.median, self.mean, self.p95, self.p99) if value is not None]

    @property
    def text(self) -> str:
        """The median, marked if there are no samples."""
        return f"{number(self.median)}{'' if self.samples else ' ' + SUMMARY_SIGN}"


def spread_of(samples: Sequence[float]) -> Spread | None:
    """The distribution of samples; None for no sample."""
    median = percentile(samples, 50)
    if median is None:
        return None
    return Spread(median, sum(samples) / len(samples), percentile(samples, 95), percentile(samples, 99), samples)


@dataclass(frozen=True, kw_only=True)
class BoxPanel(RowPanel):
    """Spreads, in the order of the rows; None is not measured."""

    spreads: Sequence[Spread | None]

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw boxes and lines with their medians at the right edge; a box's ``gid`` is its row's."""
        found = list(zip(rows.places, rows.gids, rows.row_colours, self.spreads, strict=True))
        _draw_boxes(axes, [(y, gid, colour, spread) for y, gid, colour, spread in found if spread and spread.samples])
        values = [value for spread in self.spreads if spread for value in spread.values]
        texts = [spread.text if spread else NOT_MEASURED for spread in self.spreads]
        scale(axes, min(values), max(values), 0.08, widest(texts) + 0.15, width)
        for (y, gid, colour, spread), text in zip(found, texts, strict=True):
            at_right(axes, y, text, muted=spread is None)
            if spread is None:
                continue
            if not spread.samples:
                axes.plot([spread.median, max(spread.median, spread.p95 or 0)], [y, y], color=colour, linewidth=1.4,
                          linestyle=(0, (2, 1.5)), zorder=2, gid=f"{gid}|range")  # fmt: skip
            for name, value, shape in (
                ("median", spread.median, {"marker": "|", "markersize": 9, "markeredgewidth": 1.6}),
                ("mean", spread.mean, _MEAN),
                ("p99", spread.p99, _P99),
            ):
                if value is not None:
                    look = {"color": colour if name == "p99" else style.TEXT, **shape}
                    axes.plot([value], [y], zorder=4, gid=f"{gid}|{name}", **look)


_MEAN: dict[str, Any] = {"marker": "D", "markersize": 3.6, "markerfacecolor": "white", "markeredgewidth": 0.9}
_P99: dict[str, Any] = {"marker": "o", "markersize": 3.2}


def _draw_boxes(axes: Axes, found: Sequence[tuple[float, str, str, Spread]]) -> None:
    if not found:
        return
    values = [value for *_, spread in found for value in spread.samples]
    places = [y for y, *_, spread in found for _ in spread.samples]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # seaborn 0.13 calls matplotlib 3.11 in the old way
        sns.boxplot(
            x=values, y=places, orient="h", native_scale=True, whis=(5, 95), showfliers=False, width=0.64,
            color=style.MUTED, linewidth=1.0, ax=axes, zorder=3, capprops={"visible": False},
        )  # fmt: skip
    for patch, (_, gid, colour, _) in zip(axes.patches, found, strict=True):
        patch.set(gid=gid, facecolor=style.tint(colour, 0.45), edgecolor=colour)


@dataclass(frozen=True)
class _Timing:
    """A latency: its metric, its median, p95 and p99 by key, and its value in one sample of the performance record.

    `per_batch` timings have one value per iteration, not one per request.
    """

    metric: Metric
    base: str
    sample: Callable[[Variant, Sample], float | None]
    per_batch: bool = False


def _per_request(variant: Variant, sample: Sample) -> float | None:
    wall_s, size = sample.get("wall_s"), variant.performance and variant.performance.batch_size
    return None if wall_s is None or not size else wall_s / size


_TIMINGS = (
    _Timing(AMORTISED, "latency_s", _per_request, per_batch=True),
    _Timing(E2E, "e2e_latency_s", lambda _, sample: sample.get("e2e_s")),
    _Timing(TTFT, "ttft_s", lambda _, sample: sample.get("ttft_s")),
    _Timing(TPOT, "tpot_s", lambda _, sample: sample.get("tpot_s")),
)


def _draw_distributions(title: str, study: Study) -> MplFigure | None:
    variants = by_name(study.variants)
    samples = [study.samples(variant, "performance") for variant in variants]
    panels = []
    for timing in _TIMINGS:
        spreads = [_spread(timing, variant, found) for variant, found in zip(variants, samples, strict=True)]
        if any(spreads):
            metric = timing.metric
            panels.append(BoxPanel(title=heading(metric), hint=hint_of(metric), axis=metric.unit, spreads=spreads))
    if not panels:
        return None
    sampled = {bool(spread.samples) for panel in panels for spread in panel.spreads if spread}
    notes = ["On the right: the median. With fewer than 100 values, p99 is the maximum."]
    if True in sampled:
        notes.insert(0, "Box: quartiles and median; line: 5th to 95th percentile (amortised latency: one value per "
                        "batch; others: one per request).")  # fmt: skip
    if False in sampled:
        notes.append(f"{SUMMARY_SIGN} no samples were recorded: dashed from the median to p95.")
    handles = [
        Line2D([], [], linestyle="none", color=style.TEXT if shape is _MEAN else style.MUTED, label=name, **shape)
        for name, shape in (("mean", _MEAN), ("p99", _P99))
    ]
    return RowChart(title, variants, panels, notes, handles).draw()


def _spread(timing: _Timing, variant: Variant, samples: Sequence[Sample]) -> Spread | None:
    found: dict[Any, float] = {}
    for index, sample in enumerate(samples):
        value = timing.sample(variant, sample)
        if value is not None:
            found[sample.get("iteration") if timing.per_batch else index] = timing.metric.in_unit(value)
    if found:
        return spread_of(list(found.values()))
    keys = (f"median_{timing.base}", timing.metric.key, f"p95_{timing.base}", f"p99_{timing.base}")
    median, mean, p95, p99 = (None if (v := variant.number(key)) is None else timing.metric.in_unit(v) for key in keys)
    return None if median is None else Spread(median, mean, p95, p99)


add_figure("latency_distribution", "Distribution of latencies: lower and narrower is better", _draw_distributions)
