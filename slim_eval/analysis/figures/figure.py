"""The seam for figures: a figure is a name, a title and a function from a `Study` to a picture.

A further figure is one more entry, registered here or by a plugin::

    FIGURES.register(Figure("load_time", "Time to load: lower is better", draw))

It is then written to ``plots/`` as PNG and PDF, with its numbers as CSV (see `numbers`), and, unless `in_report` is
false, shown in report.html. Light to import: a plugin is loaded by every command, so matplotlib is imported by the
functions that draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from slim_eval.utils.registry import Registry

if TYPE_CHECKING:
    from matplotlib import figure as mpl

    from slim_eval.analysis.study import Study


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: Base name of its files.
        title: What it shows and which direction is better.
        draw: Returns a matplotlib figure, or None if nothing was measured.
        chart: Returns an interactive plotly figure for the report, or None if nothing was measured. Without it, the
            report embeds the PNG.
        in_report: Whether the report shows it. The report has charts of its own for the numbers of slim-eval's figures.
    """

    name: str
    title: str
    draw: Callable[[Study], mpl.Figure | None]
    chart: Callable[[Study], Any | None] | None = None
    in_report: bool = True


#: All figures, slim-eval's own ones once `figures.drawing` is imported.
FIGURES: Registry[Figure] = Registry("figure")


def add_figure(name: str, title: str, draw: Callable[[str, Study], mpl.Figure | None]) -> None:
    """Register one of slim-eval's own figures, whose function draws the title as well."""
    FIGURES.register(Figure(name, title, partial(draw, title), in_report=False))
