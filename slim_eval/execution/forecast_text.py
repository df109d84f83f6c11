"""`slim-eval run --dry-run`: the plan of a run on stdout, a table a variant, then time in all."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from slim_eval.execution.dry_run import StageForecast, VariantForecast, total_seconds
from slim_eval.execution.progress import escape
from slim_eval.utils import GIB, number

_UNKNOWN = "not known"


def show(variants: Sequence[VariantForecast]) -> None:
    """Print what a run would do."""
    out = Console(highlight=False)
    for variant in variants:
        out.print(_table(variant))
        out.print(_memory(variant), markup=False, soft_wrap=True)
    for line in _closing(variants):
        out.print(line, markup=False, soft_wrap=True)


def _table(variant: VariantForecast) -> Table:
    table = Table("stage", "plan", "time", title=escape(variant.name), title_justify="left")
    for stage in variant.stages:
        time = "-" if stage.reused else _duration(stage.seconds)
        table.add_row(escape(stage.name), escape(_plan(stage)), time)
    return table


def _plan(stage: StageForecast) -> str:
    if stage.reused:
        return "reuse"
    verb = {"quantize": "quantize", "engine": "load"}.get(stage.name, "measure")
    return f"{verb} again: {stage.reason}" if stage.reason else verb


def _memory(variant: VariantForecast) -> str:
    weights = _UNKNOWN if variant.weight_bytes is None else f"{number(variant.weight_bytes / GIB)} GiB"
    if variant.kv_cache_bytes is None:
        return f"memory: weights {weights}, KV cache {_UNKNOWN}"
    cache = f"{number(variant.kv_cache_bytes / GIB)} GiB"
    made_of = f"{variant.kv_bytes_per_token:,} bytes a token x {variant.context} tokens x {variant.batch_size} requests"
    return f"memory: weights {weights}, KV cache at most {cache} ({made_of})"


def _closing(variants: Sequence[VariantForecast]) -> list[str]:
    reused = sum(len(variant.stages) - len(variant.todo) for variant in variants)
    todo = sum(len(variant.todo) for variant in variants)
    seconds, unknown = total_seconds(variants)
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
