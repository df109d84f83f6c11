"""Coloured cells with numbers in the rows of a chart: configurations by tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from slim_eval.analysis.figures import style
from slim_eval.analysis.figures.lettering import broken
from slim_eval.analysis.figures.marks import NOT_MEASURED
from slim_eval.analysis.figures.rowchart import RowPanel, Rows

# From dark to light for any colour vision (Nuñez, Anderton and Renslow 2018, PLOS ONE 13:e0199239).
_COLOURS = "cividis"


@dataclass(frozen=True, kw_only=True)
class HeatPanel(RowPanel):
    """One cell a row and column.

    Attributes:
        columns: What stands below each column, in one line or several.
        values: One list a row, in the order of the chart's groups; None is not measured.
    """

    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]

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
        """Draw the cells; a cell's ``gid`` is ``{name}|{precision}|{column}``."""
        known = [value for found in self.values for value in found if value is not None]
        norm = Normalize(min(known), max(max(known), min(known) + 1e-9))
        colours = mpl.colormaps[_COLOURS]
        for y, gid, found in zip(rows.places, rows.gids, self.values, strict=True):
            for x, (column, value) in enumerate(zip(self.columns, found, strict=True)):
                colour = "white" if value is None else colours(float(norm(value)))
                axes.add_patch(
                    Rectangle((x, y - 0.5), 1, 1, facecolor=colour, zorder=2, linewidth=0.6, gid=f"{gid}|{column}",
                              edgecolor=style.GRID if value is None else "white")
                )  # fmt: skip
                dark = value is not None and norm(value) < 0.55
                axes.text(
                    x + 0.5, y, NOT_MEASURED if value is None else f"{value:.1f}", ha="center", va="center",
                    fontsize=style.SMALL_SIZE, zorder=3,
                    color=style.MUTED if value is None else "white" if dark else style.TEXT,
                )  # fmt: skip
        labels = self._labels(width)
        axes.set_xlim(0, len(self.columns))
        axes.set_xticks([x + 0.5 for x in range(len(labels))], labels)
