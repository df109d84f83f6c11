"""The numbers of a figure: the rows of the CSV file beside it, and of the table that the report offers with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure as MplFigure

from slim_eval.analysis.caveats import MARKS, Kind
from slim_eval.analysis.tables.csv_tables import to_csv
from slim_eval.results.variants import Interval

#: Column -> value. Missing is None.
Numbers = Mapping[str, Any]


class DrawnFigure(MplFigure):
    """A figure with the numbers that it was drawn from, in the units shown and at full precision.

    A plugin may return one, with its own numbers; of any other figure, what is on its axes is read back.
    """

    numbers: Sequence[Numbers] = ()


def ends(interval: Interval | None) -> dict[str, float | None]:
    """The columns of an interval."""
    return dict(zip(("low", "high"), interval or (None, None), strict=True))


def words_of(marks: frozenset[Kind]) -> str | None:
    """The words of the caveats on a number."""
    return ", ".join(kind.word for kind in MARKS if kind in marks) or None


def csv_of(figure: MplFigure) -> str:
    """The numbers of a figure as CSV, one row per mark that is drawn; empty if there are none.

    A column without any value is left out.
    """
    rows = list(figure.numbers) if isinstance(figure, DrawnFigure) else []
    rows = rows or [row for axes in figure.axes for row in _read_back(axes)]
    return to_csv(pd.DataFrame(rows).dropna(axis="columns", how="all")) if rows else ""


def _read_back(axes: Axes) -> Iterator[Numbers]:
    """Bars, points of lines and clouds, and coloured cells, as they are on the axes."""
    across, up = axes.get_xlabel() or "x", axes.get_ylabel() or "y"
    panel, columns, rows = axes.get_title() or None, _names(axes.xaxis), _names(axes.yaxis)

    def marks(kind: str, artist: Any, points: Any) -> Iterator[Numbers]:
        label = str(artist.get_label() or "")
        series = None if label.startswith("_") else label or None  # matplotlib's own name of what has none
        for x, y in points:
            if np.isfinite([x, y]).all():
                place = {across: columns.get(round(x, 6), float(x)), up: rows.get(round(y, 6), float(y))}
                yield {"panel": panel, "kind": kind, "series": series, **place}

    for bars in (each for each in axes.containers if isinstance(each, BarContainer)):
        ends_of = [(bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height()) for bar in bars]
        if bars.orientation == "horizontal":
            ends_of = [(bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in bars]
        yield from marks("bar", bars, ends_of)
    for line in axes.get_lines():
        yield from marks("line", line, line.get_xydata())
    for cloud in axes.collections:
        if isinstance(cloud, PathCollection):
            yield from marks("points", cloud, np.ma.filled(cloud.get_offsets(), np.nan))
    for cells in (*axes.images, *(each for each in axes.collections if isinstance(each, QuadMesh))):
        values = np.ma.filled(np.ma.array(cells.get_array(), dtype=float), np.nan)  # type: ignore[no-untyped-call]
        for place, value in np.ndenumerate(values if values.ndim == 2 else np.empty((0, 0))):
            row, column = place
            yield {"panel": panel, "kind": "cell", "row": row, "column": column, "value": float(value)}


def _names(axis: Axis) -> dict[float, str]:
    """Places that an axis gives names instead of numbers."""
    named = zip(axis.get_majorticklocs(), (label.get_text() for label in axis.get_majorticklabels()), strict=False)
    return {round(float(place), 6): text for place, text in named if text and not _is_number(text)}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[\d.,\s]+([eE].*)?", re.sub(r"[$\\{}^\-\u2212+]|mathdefault|times", "", text)) is not None
