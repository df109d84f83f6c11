"""The comparison table on the terminal: one row per variant. Needs no pandas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slim_eval.analysis.study import Study
from slim_eval.metrics import (
    AMORTISED,
    DISK,
    J_PER_TOKEN,
    METRICS,
    PEAK_MEMORY,
    THROUGHPUT,
    TPOT,
    TTFT,
    WEIGHTS,
    Basis,
    Metric,
)
from slim_eval.results.variants import Variant
from slim_eval.utils import wrapped_name

_ABSENT = "-"
_METRICS = (TTFT, TPOT, THROUGHPUT, AMORTISED, DISK, WEIGHTS, PEAK_MEMORY, J_PER_TOKEN)
_THREE_DECIMALS = (DISK, WEIGHTS)  # of small models


@dataclass(frozen=True)
class _TableColumn:
    """A column: its header, how a field is written, on which side, and the metric or task that it shows."""

    header: str
    text: Callable[[Variant], str]
    justify: Literal["left", "right"] = "right"
    key: str = ""


def _engine(variant: Variant) -> str:
    """The engine, marked if it emulates quantized kernels."""
    return f"{variant.engine or _ABSENT}{' (emulated)' if variant.kernels == 'emulated' else ''}"


def _column(metric: Metric) -> _TableColumn:
    decimals = 3 if metric in _THREE_DECIMALS else metric.decimals

    def text(variant: Variant) -> str:
        value = variant.number(metric)
        invalid = not variant.counts(metric)
        if value is None:
            return "invalid" if invalid else _ABSENT
        shown = metric.text(value, unit=False) if metric.is_energy else f"{metric.in_unit(value):,.{decimals}f}"
        return shown + (" (invalid)" if invalid else "")

    return _TableColumn("\n".join(filter(None, (metric.label, metric.unit))), text, key=metric.key)


def comparison_table(
    study: Study,
    *,
    tasks: Sequence[str] | None = None,
    width: int | None = None,
    reused: Sequence[str] = (),
) -> Table:
    """The table that ends `slim-eval run` and `slim-eval analyze`.

    Args:
        study: What was measured. Numbers within the noise floor are shown in grey.
        tasks: Tasks to show; those of the study by default. Each shows accuracy in %, its standard error, and in
            brackets the difference to the baseline in percentage points, if the two may be compared.
        width: Columns of the terminal; found out by default. What does not fit beside the rest is shown below it, with
            model and precision again, so that nothing is cut.
        reused: For each variant, which of its numbers an earlier run measured; empty if none.

    Returns:
        A rich table; columns without any value are left out, and ``-`` marks what was not measured.
    """
    variants = study.variants
    if not variants:
        return Table()
    plugins = [metric for metric in METRICS.values() if metric.basis is Basis.OWN]
    shown = study.tasks if tasks is None else [task for task in tasks if task in study.tasks]
    columns = [
        _TableColumn("engine", _engine, "left"),
        *(_column(metric) for metric in (*_METRICS, *plugins)),
        *(_TableColumn(f"{task}\n% (pp)", _accuracy_of(task, study), key=task) for task in shown),
    ]
    noisy = [study.within_noise(variant) for variant in variants]
    filled = [
        _Filled(column, [column.text(variant) for variant in variants], [column.key in found for found in noisy])
        for column in columns
    ]
    if any(reused):
        filled.append(_Filled(_TableColumn("reused", lambda variant: "", "left"), [text or _ABSENT for text in reused]))
    filled = [column for column in filled if set(column.fields) - {_ABSENT}]
    names = [variant.name for variant in variants]
    head = [_Filled(_TableColumn("precision", lambda variant: "", "left"), [variant.precision for variant in variants])]
    if len(set(names)) > 1:
        head.insert(
            0, _Filled(_TableColumn("model", lambda variant: "", "left"), [wrapped_name(name) for name in names])
        )
    blocks = [_table([*head, *block], names) for block in _blocks(head, filled, width or Console().width)]
    if len(set(names)) == 1:
        blocks[0].title, blocks[0].title_justify = names[0], "left"
    notes = []
    if any("(pp)" in column.shape.header for column in filled):
        notes.append("% (pp): accuracy ± its standard error (difference from the baseline in percentage points)")
    if any(any(column.grey) for column in filled):
        notes.append("grey: the difference from the baseline does not exceed the noise floor")
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
    """A column with its fields, and which of them are shown in grey."""

    shape: _TableColumn
    fields: list[str]
    grey: Sequence[bool] = ()

    @property
    def width(self) -> int:
        """Columns of the terminal that it takes, with its padding and one border."""
        return 3 + max(cell_len(line) for text in (self.shape.header, *self.fields) for line in text.splitlines())


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
        table.add_row(*(_field(c, index) if first or c.shape.header != "model" else "" for c in columns))
    return table


def _field(column: _Filled, index: int) -> str:
    text = escape(column.fields[index])
    return f"[bright_black]{text}[/]" if column.grey and column.grey[index] else text


def _accuracy_of(task: str, study: Study) -> Callable[[Variant], str]:
    metric = study.metric(task)

    def text(variant: Variant) -> str:
        value = variant.number(metric)
        if value is None:
            return _ABSENT
        error = variant.accuracy[task].stderr
        shown = f"{value * 100:.1f}" + (f" ±{error * 100:.1f}" if error is not None else "")
        impact = study.impact(variant)
        drop = None if impact is None else impact.drops.get(task)
        return shown if drop is None else f"{shown} ({_signed(-drop.pp)})"

    return text


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # + 0.0: no negative zero
