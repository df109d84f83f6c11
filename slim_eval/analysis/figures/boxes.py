"""Distributions in the rows of a chart: a box where samples were kept, a line where only a summary was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.marks import NOT_MEASURED, SUMMARY_SIGN
from slim_eval.analysis.figures.rowchart import RowPanel, Rows, at_right, scale, widest
from slim_eval.stats import percentile
from slim_eval.utils import number


@dataclass(frozen=True)
class Spread:
    """How a number is distributed, in the panel's unit; None for what is not known.

    Attributes:
        median: Middle of the distribution.
        mean: Arithmetic mean.
        p95: 95th percentile.
        p99: 99th percentile, or the greatest value of a sample that is too small for it.
        p5: 5th percentile; only from samples, as are the quartiles.
        q1: First quartile.
        q3: Third quartile.
    """

    median: float
    mean: float | None = None
    p95: float | None = None
    p99: float | None = None
    p5: float | None = None
    q1: float | None = None
    q3: float | None = None

    @property
    def sampled(self) -> bool:
        """Whether it was worked out from samples."""
        return self.q1 is not None

    @property
    def values(self) -> list[float]:
        """Everything that is drawn."""
        found = (self.p5, self.q1, self.median, self.mean, self.q3, self.p95, self.p99)
        return [value for value in found if value is not None]

    @property
    def text(self) -> str:
        """The median, marked where there are no samples."""
        return f"{number(self.median)}{'' if self.sampled else ' ' + SUMMARY_SIGN}"


def spread_of(samples: Sequence[float]) -> Spread | None:
    """The distribution of samples; None of no sample."""
    median = percentile(samples, 50)
    if median is None:
        return None
    p5, q1, q3, p95, p99 = (percentile(samples, q) for q in (5, 25, 75, 95, 99))
    return Spread(median, sum(samples) / len(samples), p95, p99, p5, q1, q3)


@dataclass(frozen=True, kw_only=True)
class BoxPanel(RowPanel):
    """Spreads, in the order of the chart's groups; None is not measured."""

    spreads: Sequence[Spread | None]

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw boxes and lines with their medians at the right edge; a box's ``gid`` is its row's."""
        values = [value for spread in self.spreads if spread for value in spread.values]
        texts = [spread.text if spread else NOT_MEASURED for spread in self.spreads]
        scale(axes, min(values), max(values), 0.08, widest(texts) + 0.15, width)
        for y, gid, colour, spread in zip(rows.places, rows.gids, rows.row_colours, self.spreads, strict=True):
            at_right(axes, y, spread.text if spread else NOT_MEASURED, muted=spread is None)
            if spread:
                _draw_spread(axes, y, spread, colour, gid)


def _draw_spread(axes: Axes, y: float, spread: Spread, colour: str, gid: str) -> None:
    low = spread.median if spread.p5 is None else spread.p5
    high = max(value for value in (spread.p95, spread.median) if value is not None)
    style_of_line = "-" if spread.sampled else (0, (2, 1.5))
    axes.plot([low, high], [y, y], color=colour, linewidth=1.4, linestyle=style_of_line, zorder=2, gid=f"{gid}|range")
    if spread.q1 is not None and spread.q3 is not None:
        axes.add_patch(
            Rectangle((spread.q1, y - 0.32), spread.q3 - spread.q1, 0.64, facecolor=style.tint(colour, 0.45),
                      edgecolor=colour, linewidth=1.0, zorder=3, gid=gid)
        )  # fmt: skip
    for value, marker, size, face, name in (
        (spread.median, "|", 9.0, style.TEXT, "median"),
        (spread.p95, "|", 5.0, colour, "p95"),
        (spread.mean, "D", 3.6, "white", "mean"),
        (spread.p99, "o", 3.2, colour, "p99"),
    ):
        if value is not None:
            axes.plot(
                [value], [y], marker=marker, markersize=size, markerfacecolor=face, gid=f"{gid}|{name}", zorder=4,
                markeredgecolor=style.TEXT if name in ("median", "mean") else colour,
                markeredgewidth=1.6 if name == "median" else 0.9,
            )  # fmt: skip
