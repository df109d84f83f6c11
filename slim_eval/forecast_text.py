"""`slim-eval run --dry-run`: the plan of a run on stdout, a table a cell, then time in all."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from slim_eval.console import escape
from slim_eval.forecast import CellForecast, StageForecast, total_seconds
from slim_eval.utils import GIB, number

_UNKNOWN = "not known"


def show(cells: Sequence[CellForecast]) -> None:
    """Print what a run would do."""
    out = Console(highlight=False)
    for cell in cells:
        out.print(_table(cell))
        out.print(_memory(cell), markup=False, soft_wrap=True)
    for line in _closing(cells):
        out.print(line, markup=False, soft_wrap=True)


def _table(cell: CellForecast) -> Table:
    table = Table("stage", "plan", "time", title=escape(cell.name), title_justify="left")
    for stage in cell.stages:
        time = "-" if stage.reused else _duration(stage.seconds)
        table.add_row(escape(stage.name), escape(_plan(stage)), time)
    return table


def _plan(stage: StageForecast) -> str:
    if stage.reused:
        return "reuse"
    verb = {"quantize": "quantize", "engine": "load"}.get(stage.name, "measure")
    return f"{verb} again: {stage.reason}" if stage.reason else verb


def _memory(cell: CellForecast) -> str:
    weights = _UNKNOWN if cell.weight_bytes is None else f"{number(cell.weight_bytes / GIB)} GiB"
    if cell.kv_cache_bytes is None:
        return f"memory: weights {weights}, KV cache {_UNKNOWN}"
    cache = f"{number(cell.kv_cache_bytes / GIB)} GiB"
    made_of = f"{cell.kv_bytes_per_token:,} bytes a token x {cell.context} tokens x {cell.batch_size} requests"
    return f"memory: weights {weights}, KV cache at most {cache} ({made_of})"


def _closing(cells: Sequence[CellForecast]) -> list[str]:
    reused = sum(len(cell.stages) - len(cell.todo) for cell in cells)
    todo = sum(len(cell.todo) for cell in cells)
    seconds, unknown = total_seconds(cells)
    time = _duration(seconds) if unknown < todo or not todo else _UNKNOWN
    rest = f", and {unknown} stages whose time is {_UNKNOWN}" if unknown and unknown < todo else ""
    return [
        f"{todo} stages to do, {reused} reused",
        f"time: {time}{rest}",
        "nothing was started or written (--dry-run)",
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
