"""Tables on a terminal that never break a word, whatever its width.

By rule, the first of these that fits: the table as it is; cells wrapped between words, with intervals below their
values; several tables below each other that repeat the key columns; one list per row, ``header: value``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

#: Columns of the terminal that a cell takes beside its text: padding and one border.
_BESIDE = 3
#: A space that stays: between a number and its unit. A value and its interval may part.
_WITH_UNIT = re.compile(r"(?<=\d) (?=(?:%|pp|ms|s|min|h|GiB|MiB|GB|MB|J|W|x|items)(?![^\W_]))")
_JOINT = "\u0000"


@dataclass(frozen=True)
class Column:
    """A column: one text per row, with lines of its own if it contains line breaks.

    Attributes:
        header: Its heading.
        cells: One text per row.
        left: Whether it is words, aligned on the left; numbers are on the right.
        key: Whether it names the row: shown in every part of a table that is split.
        styles: A style of rich per row; empty for none.
    """

    header: str
    cells: Sequence[str]
    left: bool = False
    key: bool = False
    styles: Sequence[str] = ()

    def style(self, row: int) -> str:
        """The style of a cell."""
        return self.styles[row] if self.styles else ""

    def natural(self) -> int:
        """Width of its longest line."""
        return max((cell_len(line) for text in (self.header, *self.cells) for line in text.split("\n")), default=0)

    def narrowest(self) -> int:
        """Width of its longest word."""
        return max((cell_len(word) for text in (self.header, *self.cells) for word in _words(text)), default=0)


def columns_of(
    headers: Sequence[str], rows: Sequence[Sequence[str]], words: Iterable[str] | None = None
) -> list[Column]:
    """Columns from rows; the first names the row. `words` are the headers of columns of words, by default all."""
    left = set(headers if words is None else words)
    return [
        Column(header, [row[place] for row in rows], left=header in left, key=place == 0)
        for place, header in enumerate(headers)
    ]


def _words(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        yield from (word.replace(_JOINT, " ") for word in _WITH_UNIT.sub(_JOINT, line).split(" "))


def wrap(text: str, width: int) -> str:
    """A text in lines of at most `width` cells, broken between words alone; a longer word stays whole."""
    lines: list[str] = []
    for line in text.split("\n"):
        made = [""]
        for word in _words(line):
            joined = f"{made[-1]} {word}" if made[-1] else word
            if made[-1] and cell_len(joined) > width:
                made.append(word)
            else:
                made[-1] = joined
        lines += made
    return "\n".join(lines)


def _interval_below(text: str) -> str:
    """A value above its interval: of ``57.0 [56.0, 57.9]``, and of ``75.3 ±1.2 (-0.4)`` its parts."""
    return re.sub(r" (?=[\[±(])", "\n", text)


@dataclass(frozen=True)
class WordTable:
    """A table of columns that have a cell for each row; key columns come first."""

    columns: Sequence[Column]
    title: str = ""
    caption: str = ""
    #: Rows before which a line is drawn.
    sections: Sequence[int] = ()

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.columns[0].cells) if self.columns else 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.columns:
            return
        width = options.max_width
        if self.title:
            yield Text(wrap(self.title, width), style="italic")
        if _total(column.natural() for column in self.columns) <= width:
            yield self._table(self.columns, [column.natural() for column in self.columns])
        else:
            yield from self._narrow(width)
        if self.caption:
            yield Text(wrap(self.caption, width), style="dim italic")

    def _narrow(self, width: int) -> RenderResult:
        keys = [self._folded(column) for column in self.columns if column.key]
        others = [self._folded(column) for column in self.columns if not column.key]
        blocks: list[list[Column]] = [[]]
        for column in others:
            narrowest = _total(each.narrowest() for each in (*keys, *blocks[-1], column))
            if narrowest > width and blocks[-1]:
                blocks.append([])
                narrowest = _total(each.narrowest() for each in (*keys, column))
            if narrowest > width:
                yield from self._lists()
                return
            blocks[-1].append(column)
        for block in blocks:
            shown = [*keys, *block]
            yield self._table(shown, _widths(shown, width))

    @staticmethod
    def _folded(column: Column) -> Column:
        cells = column.cells if column.left else [_interval_below(text) for text in column.cells]
        return Column(column.header, cells, column.left, column.key, column.styles)

    def _table(self, columns: Sequence[Column], widths: Sequence[int]) -> Table:
        table = Table(box=box.HEAVY_HEAD)
        for column, width in zip(columns, widths, strict=True):
            justify: Literal["left", "right"] = "left" if column.left else "right"
            table.add_column(Text(wrap(column.header, width)), justify=justify, no_wrap=True, width=width)
        for row in range(self.num_rows):
            if row in self.sections:
                table.add_section()
            cells = zip(columns, widths, strict=True)
            table.add_row(*(Text(wrap(column.cells[row], width), style=column.style(row)) for column, width in cells))
        return table

    def _lists(self) -> RenderResult:
        keys = [column for column in self.columns if column.key]
        for row in range(self.num_rows):
            yield Text(" ".join(" ".join(column.cells[row].split()) for column in keys), style="bold", overflow="fold")
            for column in self.columns:
                if not column.key and column.cells[row]:
                    text = f"  {' '.join(column.header.split())}: {' '.join(column.cells[row].split())}"
                    yield Text(text, style=column.style(row), overflow="fold")


def _total(widths: Iterable[int]) -> int:
    return 1 + sum(width + _BESIDE for width in widths)


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Each column's longest word, and what is left for those that want more: first the words, then the numbers."""
    widths = [column.narrowest() for column in columns]
    left = width - _total(widths)
    for wants_words in (True, False):
        open_ones = [place for place, column in enumerate(columns) if column.left is wants_words]
        while left > 0 and open_ones:
            open_ones = [place for place in open_ones if widths[place] < columns[place].natural()]
            for place in open_ones[:left]:
                widths[place] += 1
                left -= 1
    return widths
