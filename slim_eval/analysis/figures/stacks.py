"""Stacked bars in the rows of a chart: what a number consists of. Parts are shades of the precision's own colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.marks import NOT_MEASURED, signs
from slim_eval.analysis.figures.rowchart import RowPanel, Rows, beside, scale, widest
from slim_eval.analysis.rules import Doubt
from slim_eval.utils import number


@dataclass(frozen=True)
class Part:
    """One part of every stack.

    Attributes:
        name: For the legend.
        tint: Share of white in its colour.
        hatch: As matplotlib names it.
    """

    name: str
    tint: float
    hatch: str | None = None

    def handle(self) -> Artist:
        """Its entry of the legend, in grey: the colour is the precision's."""
        return Patch(facecolor=style.tint("#404040", self.tint), edgecolor="white", hatch=self.hatch, label=self.name)


@dataclass(frozen=True)
class Stack:
    """One configuration.

    Attributes:
        values: One a part, in the panel's unit; None for a part that is not known, or that there is none of.
        doubts: Why it must not be compared.
        sign: A further sign beside its total.
    """

    values: Sequence[float | None]
    doubts: frozenset[Doubt] = frozenset()
    sign: str = ""

    @property
    def total(self) -> float | None:
        """Of the known parts; None where none is known."""
        known = [value for value in self.values if value is not None]
        return sum(known) if known else None

    @property
    def text(self) -> str:
        """What stands beside it."""
        return NOT_MEASURED if self.total is None else f"{number(self.total)} {signs(self.doubts)}{self.sign}".rstrip()


@dataclass(frozen=True, kw_only=True)
class StackPanel(RowPanel):
    """Stacks from 0, in the order of the chart's groups."""

    parts: Sequence[Part]
    stacks: Sequence[Stack]

    def doubts(self) -> frozenset[Doubt]:
        """The doubts about stacks that are there."""
        return frozenset[Doubt]().union(*(stack.doubts for stack in self.stacks if stack.total is not None))

    def draw(self, axes: Axes, rows: Rows, width: float) -> None:
        """Draw the stacks with their totals; a part's ``gid`` is ``{name}|{precision}|{part}``."""
        high = max((stack.total or 0.0 for stack in self.stacks), default=0.0) or 1.0
        scale(axes, 0, high, 0, widest([stack.text for stack in self.stacks]) + 0.1, width)
        for y, gid, colour, stack in zip(rows.places, rows.gids, rows.row_colours, self.stacks, strict=True):
            left = 0.0
            for part, value in zip(self.parts, stack.values, strict=True):
                if value is None:
                    continue
                axes.barh(
                    [y], [value], left=left, height=0.82, color=style.tint(colour, part.tint), hatch=part.hatch,
                    edgecolor="white", linewidth=0.4, zorder=2, gid=f"{gid}|{part.name}",
                )  # fmt: skip
                left += value
            beside(axes, left, y, stack.text, muted=stack.total is None)

    def shown_parts(self) -> list[Part]:
        """The parts that at least one stack has."""
        return [part for i, part in enumerate(self.parts) if any(stack.values[i] is not None for stack in self.stacks)]
