"""A figure from outside the package: sizes on disk as plain bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slim_eval.analysis.figures.figure import FIGURES, Figure
from slim_eval.metrics import DISK

if TYPE_CHECKING:
    from matplotlib import figure as mpl

    from slim_eval.analysis.study import Study


def draw(study: Study) -> mpl.Figure | None:
    """Sizes on disk; None if no variant has one."""
    from matplotlib.figure import Figure as MplFigure

    found = [(variant.label, size) for variant in study.variants if (size := variant.number(DISK)) is not None]
    if not found:
        return None
    figure = MplFigure(figsize=(4, 3))
    axes = figure.subplots()
    axes.barh([label for label, _ in found], [DISK.in_unit(size) for _, size in found])
    axes.set_xlabel(DISK.header)
    return figure


FIGURES.register(Figure("toy_figure", "Weights on disk: lower is better", draw))
