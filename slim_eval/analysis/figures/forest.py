"""Differences with their intervals in the rows of a chart, against a margin, each with its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from slim_eval.analysis.compare.items import UNDERPOWERED
from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.marks import NOT_MEASURED
from slim_eval.analysis.figures.rowchart import RowPanel, Rows, at_right, scale, widest

MARGIN_COLOUR = "#eef3ea"
NOT_PAIRED = "not paired"


@dataclass(frozen=True)
class Drop:
    """One configuration on one task.

    Attributes:
        value: Drop in percentage points, above 0 where it is worse; None where it was not paired.
        interval: 95 %, paired; None where there is none.
        verdict: ``equivalent``, ``degraded``, ``underpowered``; None where none was given.
        absent: What stands in the place of a missing value.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    verdict: str | None = None
    absent: str = NOT_MEASURED

    @property
    def text(self) -> str:
        """The drop and the verdict."""
        return self.absent if self.value is None else f"{signed(self.value)} {self.verdict or ''}".rstrip()


@dataclass(frozen=True, kw_only=True)
class ForestPanel(RowPanel):
    """Drops on one task, in the order of the chart's groups.

    Attributes:
        drops: One a row.
        margin: Drop that still counts as equivalent; None draws none.
        reach: Least and greatest value of all panels of the figure: they share one scale.
    """

    drops: Sequence[Drop]
    margin: float | None
    reach: tuple[float, float]

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw points with their intervals, filled where the verdict is sure; a point's ``gid`` is its row's."""
        scale(axes, *self.reach, 0.06, widest([drop.text for drop in self.drops]) + 0.14, width)
        if self.margin is not None:
            axes.axvspan(axes.get_xlim()[0], self.margin, color=MARGIN_COLOUR, zorder=0, gid="margin", linewidth=0)
        axes.axvline(0, color=style.MUTED, linewidth=0.9, zorder=1)
        markers = style.markers(precision for _, precision in rows.keys)
        for (_, precision), y, gid, drop in zip(rows.keys, rows.places, rows.gids, self.drops, strict=True):
            at_right(axes, y, drop.text, muted=drop.value is None)
            if drop.value is None:
                continue
            colour = rows.colours[precision]
            if drop.interval is not None:
                axes.plot(drop.interval, [y, y], color=colour, linewidth=1.5, zorder=2, gid=f"{gid}|interval")
            axes.plot(
                [drop.value], [y], marker=markers[precision], markersize=6, markeredgecolor=colour, zorder=3, gid=gid,
                markerfacecolor="white" if drop.verdict in (UNDERPOWERED, None) else colour, markeredgewidth=1.3,
            )  # fmt: skip


def reach_of(drops: Sequence[Drop], margin: float | None) -> tuple[float, float]:
    """Least and greatest value of some drops with their intervals, 0 and the margin."""
    found = [0.0, margin or 0.0]
    for drop in drops:
        if drop.value is not None:
            found += [drop.value, *(drop.interval or ())]
    return min(found), max(found)


def signed(value: float) -> str:
    """A difference with its sign and one digit."""
    return f"{round(value, 1) + 0.0:+.1f}"  # + 0.0: no negative zero
