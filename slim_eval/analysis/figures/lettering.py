"""How large a text will be, and texts broken to a width: layouts are worked out before anything is drawn."""

from __future__ import annotations

import textwrap
from functools import cache

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from slim_eval.analysis.figures import style


def size_of(text: str, points: float, *, bold: bool = False) -> tuple[float, float]:
    """Width and height of a text of one or more lines, in inches, in the font of the figures.

    Args:
        text: What will be drawn.
        points: Size of the font.
        bold: Whether it will be bold.
    """
    canvas = _canvas()
    shown = Text(0, 0, text, fontsize=points, fontweight="bold" if bold else "normal")
    shown.set_figure(canvas.figure)
    box = shown.get_window_extent(canvas.get_renderer())  # type: ignore[no-untyped-call]
    return box.width / canvas.figure.dpi, box.height / canvas.figure.dpi


def broken(text: str, points: float, width: float, *, bold: bool = False) -> list[str]:
    """A text in lines that are at most about `width` inches long; a word longer than that is cut in two."""
    whole = size_of(text, points, bold=bold)[0]
    if whole <= width:
        return [text]
    # The mean width of a character does for most lines; those that are wider for their letters are broken again.
    characters = max(8, int(len(text) * width / whole))
    while True:
        lines = textwrap.wrap(text, characters)
        if characters <= 8 or max(size_of(line, points, bold=bold)[0] for line in lines) <= width:
            return lines
        characters -= 1


@cache
def _canvas() -> FigureCanvasAgg:
    return FigureCanvasAgg(Figure(dpi=style.DPI))
