"""Bars in the rows of a chart. A configuration without a value keeps its place, which says "not measured"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.axes import Axes

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.marks import HATCH, NOT_MEASURED, signs
from slim_eval.analysis.figures.rowchart import RowPanel, Rows, at_right, beside, scale, widest
from slim_eval.analysis.rules import Doubt
from slim_eval.utils import number


@dataclass(frozen=True)
class Bar:
    """One configuration in one panel.

    Attributes:
        value: In the panel's unit; None where there is none.
        interval: Ends of its whiskers, in the same unit; None draws none.
        doubts: Why it must not be compared with its 16-bit bar.
        absent: What stands in the place of a missing value.
        tick: A second value, drawn as a short line across the bar.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    doubts: frozenset[Doubt] = frozenset()
    absent: str = NOT_MEASURED
    tick: float | None = None

    @property
    def reach(self) -> tuple[float, float]:
        """Least and greatest value that is drawn; 0 belongs to every bar."""
        found = [0.0, *(self.interval or ()), *(value for value in (self.value, self.tick) if value is not None)]
        return min(found), max(found)


@dataclass(frozen=True, kw_only=True)
class BarPanel(RowPanel):
    """Bars from 0.

    Attributes:
        bars: In the order of the chart's groups.
        limit: Upper end of the scale, for shares; None takes it from the data.
        reference: Where a dashed line stands, for ratios.
        signed: Values may be below 0; the numbers then stand in a column at the right edge.
    """

    bars: Sequence[Bar]
    limit: float | None = None
    reference: float | None = None
    signed: bool = False
    hatches: ClassVar[bool] = True

    def doubts(self) -> frozenset[Doubt]:
        """The doubts about bars that are there."""
        return frozenset[Doubt]().union(*(bar.doubts for bar in self.bars if bar.value is not None))

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw bars, whiskers and numbers; each bar's ``gid`` is its row's."""
        low = min(bar.reach[0] for bar in self.bars)
        high = max(self.limit or 0.0, *(bar.reach[1] for bar in self.bars)) or (0.0 if low else 1.0)
        texts = [self._text(bar) for bar in self.bars]
        room = widest(texts) + 0.1
        if self.signed:
            scale(axes, low, high, 0.05, room + 0.05, width)
            axes.spines["left"].set_visible(False)  # 0 is elsewhere
        else:
            scale(axes, low, high, 0, room, width)
        self._draw_bars(axes, rows)
        for mark in (0.0 if low < 0 else None, self.reference):
            if mark is not None:
                axes.axvline(mark, color=style.MUTED, linewidth=0.9, linestyle="-" if mark == 0 else (0, (4, 3)))
        for y, bar, text in zip(rows.places, self.bars, texts, strict=True):
            if self.signed:
                at_right(axes, y, text, muted=bar.value is None)
            else:
                x, halo = 0.0 if bar.value is None else bar.reach[1], self.reference is not None
                beside(axes, x, y, text, muted=bar.value is None, halo=halo)

    def _text(self, bar: Bar) -> str:
        """What stands beside a bar."""
        if bar.value is None:
            return bar.absent
        # Differences are rounded alike: + 0.0 leaves no negative zero.
        value = f"{round(bar.value, 2) + 0.0:+.2f}" if self.signed else number(bar.value)
        return f"{value} {signs(bar.doubts)}".rstrip()

    def _draw_bars(self, axes: Axes, rows: Rows) -> None:
        shown = [
            (bar, y, bar.value, gid, colour)
            for bar, y, gid, colour in zip(self.bars, rows.places, rows.gids, rows.row_colours, strict=True)
            if bar.value is not None
        ]
        if not shown:
            return
        container = axes.barh(
            [y for _, y, *_ in shown], [value for _, _, value, *_ in shown], height=0.82,
            color=[colour for *_, colour in shown], edgecolor="white", linewidth=0.4, zorder=2,
        )  # fmt: skip
        for patch, (bar, _, _, gid, _) in zip(container.patches, shown, strict=True):
            patch.set_gid(gid)
            if bar.doubts:
                patch.set_hatch(HATCH)
        draw_whiskers(axes, [(value, y, bar.interval) for bar, y, value, *_ in shown])
        ticks = [(bar.tick, y) for bar, y, *_ in shown if bar.tick is not None]
        if ticks:
            axes.plot(
                [tick for tick, _ in ticks], [y for _, y in ticks], linestyle="none", marker="|", markersize=9,
                markeredgewidth=2.2, color=style.TEXT, zorder=3, gid="tick",
            )  # fmt: skip


def draw_whiskers(axes: Axes, found: Sequence[tuple[float, float, tuple[float, float] | None]]) -> None:
    """Horizontal whiskers at (value, place) with their two ends; nothing where an interval is None."""
    known = [(value, y, ends) for value, y, ends in found if ends is not None]
    if known:
        # An end on the wrong side of its value cannot be drawn as a length; it is at the value.
        lengths = [[max(v - e[0], 0.0) for v, _, e in known], [max(e[1] - v, 0.0) for v, _, e in known]]
        axes.errorbar(
            [v for v, *_ in known], [y for _, y, _ in known], xerr=lengths, linestyle="none", color=style.TEXT,
            elinewidth=0.8, capsize=2, capthick=0.8, zorder=3,
        )  # fmt: skip
