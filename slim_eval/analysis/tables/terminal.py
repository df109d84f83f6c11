"""The comparison table on the terminal: one row a configuration. Made from plain rows, without pandas."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slim_eval.analysis.figures.style import wrapped_name
from slim_eval.analysis.rules import BASELINE, baseline_of, comparison
from slim_eval.results.rows import Row, tasks_of

_ABSENT = "-"


@dataclass(frozen=True)
class _Column:
    """A column: its header, how a variant is written, and on which side."""

    header: str
    text: Callable[[Mapping[str, Any]], str]
    justify: Literal["left", "right"] = "right"
    key: str = ""  # the column of the rows that it shows


def _scaled(key: str, digits: int, scale: float = 1.0) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: _ABSENT if row[key] is None else f"{row[key] * scale:,.{digits}f}"


def _plain(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: str(row[key]) if row[key] is not None else _ABSENT


def _engine(row: Mapping[str, Any]) -> str:
    """The engine; one that imitates quantized kernels says so beside its speeds."""
    return f"{row['engine'] or _ABSENT}{' (emulated)' if row['kernels'] == 'emulated' else ''}"


def _energy(row: Mapping[str, Any]) -> str:
    joules = row["joules_per_output_token"]
    if joules is None:
        return "invalid" if row["valid"] is False else _ABSENT
    return f"{joules:.3g}{' (invalid)' if row['valid'] is False else ''}"


_MODEL = _Column("model", _plain("name"), "left")
_PRECISION = _Column("precision", _plain("precision"), "left")
_REUSED = _Column("reused", _plain("reused"), "left")
_COLUMNS = (
    _Column("engine", _engine, "left"),
    _Column("TTFT\nms", _scaled("ttft_s", 1, 1000), key="ttft_s"),
    _Column("TPOT\nms", _scaled("tpot_s", 2, 1000), key="tpot_s"),
    _Column("output\ntok/s", _scaled("tokens_per_second", 1), key="tokens_per_second"),
    _Column("amortised\nlatency ms", _scaled("mean_latency_s", 1, 1000), key="mean_latency_s"),
    _Column("on disk\nGiB", _scaled("model_size_gb", 3)),
    _Column("weights\nGiB", _scaled("weights_gb", 3)),
    _Column("peak mem\nGiB", _scaled("mean_peak_mem_mb", 2, 1 / 1024)),
    _Column("J/output\ntoken", _energy, key="joules_per_output_token"),
)


def comparison_table(
    rows: Sequence[Row],
    *,
    tasks: Sequence[str] | None = None,
    width: int | None = None,
    within_noise: Sequence[Collection[str]] = (),
    reused: Sequence[str] = (),
) -> Table:
    """The table that ends `slim-eval run` and `slim-eval analyze`.

    Args:
        rows: From `rows.rows_of`.
        tasks: Tasks to show; all by default. Each shows accuracy in %, its standard error, and in brackets the
            difference to the 16-bit model in percentage points, where the two may be compared.
        width: Columns of the terminal; found out by default. What does not fit beside the rest stands below it, with
            model and precision again, so that nothing is cut.
        within_noise: For each row, the columns in which it differs from its baseline by no more than the noise floor:
            they are shown in grey.
        reused: For each row, which of its numbers an earlier run measured; empty where none.

    Returns:
        A rich table; columns without any value are left out, and ``-`` stands where nothing was measured.
    """
    if not rows:
        return Table()
    found = tasks_of(rows[0])
    shown = found if tasks is None else [task for task in tasks if task in found]
    columns = [*_COLUMNS, *(_Column(f"{task}\n% (pp)", _accuracy_of(task, rows), key=task) for task in shown)]
    noisy = list(within_noise) or [frozenset[str]()] * len(rows)
    filled = [
        _Filled(column, [column.text(row) for row in rows], [column.key in found for found in noisy])
        for column in columns
    ]
    if any(reused):
        filled.append(_Filled(_REUSED, [text or _ABSENT for text in reused]))
    filled = [column for column in filled if set(column.variants) - {_ABSENT}]
    names = [row["name"] for row in rows]
    head = [_Filled(_PRECISION, [_PRECISION.text(row) for row in rows])]
    if len(set(names)) > 1:
        head.insert(0, _Filled(_MODEL, [wrapped_name(name) for name in names]))
    blocks = [_table([*head, *block], names) for block in _blocks(head, filled, width or Console().width)]
    if len(set(names)) == 1:
        blocks[0].title, blocks[0].title_justify = names[0], "left"
    notes = []
    if any("(pp)" in column.shape.header for column in filled):
        notes.append(f"% (pp): accuracy ± its standard error (difference to {BASELINE} in percentage points)")
    if any(any(column.grey) for column in filled):
        notes.append(f"grey: differs from {BASELINE} by no more than {BASELINE} differs from itself (noise floor)")
    if notes:
        blocks[-1].caption, blocks[-1].caption_justify = "\n".join(notes), "left"
    if len(blocks) == 1:
        return blocks[0]
    stack = Table.grid()
    for block in blocks:
        stack.add_row(block)
    return stack


@dataclass(frozen=True)
class _Filled:
    """A column with its variants, and which of them are shown in grey."""

    shape: _Column
    variants: list[str]
    grey: Sequence[bool] = ()

    @property
    def width(self) -> int:
        """Columns of the terminal that it takes, with its padding and one border."""
        return 3 + max(cell_len(line) for text in (self.shape.header, *self.variants) for line in text.splitlines())


def _blocks(head: Sequence[_Filled], columns: Sequence[_Filled], width: int) -> list[list[_Filled]]:
    """Columns in as few tables as fit the width, in order; at least one column a table."""
    blocks: list[list[_Filled]] = [[]]
    for column in columns:
        if blocks[-1] and 1 + sum(c.width for c in (*head, *blocks[-1], column)) > width:
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def _table(columns: Sequence[_Filled], names: Sequence[str]) -> Table:
    """A table with a line between models, each named in its first row."""
    table = Table()
    for column in columns:
        left = column.shape.justify == "left"
        table.add_column(column.shape.header, justify=column.shape.justify, overflow="fold", no_wrap=not left)
    for index, name in enumerate(names):
        first = index == 0 or names[index - 1] != name
        if first and index:
            table.add_section()
        table.add_row(*(_variant(c, index) if first or c.shape is not _MODEL else "" for c in columns))
    return table


def _variant(column: _Filled, index: int) -> str:
    text = escape(column.variants[index])
    return f"[bright_black]{text}[/]" if column.grey and column.grey[index] else text


def _accuracy_of(task: str, rows: Sequence[Row]) -> Callable[[Mapping[str, Any]], str]:
    def text(row: Mapping[str, Any]) -> str:
        if row[task] is None:
            return _ABSENT
        error = row[f"{task}_stderr"]
        shown = f"{row[task] * 100:.1f}" + (f" ±{error * 100:.1f}" if error is not None else "")
        if row["precision"] == BASELINE:
            return shown
        drop = comparison(row, baseline_of(row, rows), [task])[f"{task}_drop_pp"]
        return shown if drop is None else f"{shown} ({_signed(-drop)})"

    return text


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # + 0.0: no negative zero
